//! A VM's services, kept to: who listens without being allowed any more is cut off.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::{HvSocketServiceConfig, HvSocketServiceId, HvSocketServices, SocketUse};
use crate::error::PlatformError;
use crate::stream::{GuestListener, GuestStream, PollAccept, Port};

/// The services of one VM and the listeners they allow, for a host that has ports. What no service allows is denied.
#[derive(Debug, Default)]
pub struct HvSocketGate {
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    services: HvSocketServices,
    listeners: HashMap<Port, Arc<Revocable>>,
}

impl HvSocketGate {
    /// See [`HvSocketServices::update`]. A listener that is not allowed any more ends, and its port is refused.
    ///
    /// # Errors
    /// As there.
    pub fn update(&self, service: &HvSocketServiceId, config: &HvSocketServiceConfig) -> Result<(), PlatformError> {
        self.change(|services| services.update(service, config))
    }

    /// See [`HvSocketServices::remove`]. A listener on it ends, and its port is refused.
    ///
    /// # Errors
    /// As there.
    pub fn remove(&self, service: &HvSocketServiceId) -> Result<(), PlatformError> {
        self.change(|services| services.remove(service))
    }

    fn change(
        &self,
        change: impl FnOnce(&mut HvSocketServices) -> Result<Port, PlatformError>,
    ) -> Result<(), PlatformError> {
        let mut open = self.open();
        let port = change(&mut open.services)?;
        let revoked =
            if open.services.is_allowed(port, SocketUse::GuestDials) { None } else { open.listeners.remove(&port) };
        drop(open);
        if let Some(listener) = revoked {
            listener.revoke();
        }
        Ok(())
    }

    /// What `listen` gives for `port`, if the guest may dial it, until a service forbids it.
    ///
    /// # Errors
    /// [`PlatformError::NotAllowed`], and those of `listen`.
    pub fn listen(
        &self,
        port: Port,
        listen: impl FnOnce() -> Result<GuestListener, PlatformError>,
    ) -> Result<GuestListener, PlatformError> {
        let mut open = self.open();
        open.services.require(port, SocketUse::GuestDials)?;
        let listener = Arc::new(Revocable::new(listen()?));
        open.listeners.retain(|_, listener| Arc::strong_count(listener) > 1);
        open.listeners.insert(port, Arc::clone(&listener));
        Ok(GuestListener::new(port, Handle { port, listener }))
    }

    /// Passes if the host may dial `port`.
    ///
    /// # Errors
    /// [`PlatformError::NotAllowed`].
    pub fn require_dial(&self, port: Port) -> Result<(), PlatformError> {
        self.open().services.require(port, SocketUse::HostDials)
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A listener that can be taken away from whoever accepts on it.
#[derive(Debug)]
struct Revocable(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    listener: Option<GuestListener>,
    waker: Option<Waker>,
}

impl Revocable {
    fn new(listener: GuestListener) -> Self {
        Self(Mutex::new(Inner { listener: Some(listener), waker: None }))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn revoke(&self) {
        let (listener, waker) = {
            let mut inner = self.lock();
            (inner.listener.take(), inner.waker.take())
        };
        drop(listener);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The one who accepts. Dropping it closes the port.
struct Handle {
    port: Port,
    listener: Arc<Revocable>,
}

impl PollAccept for Handle {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Result<GuestStream, PlatformError>> {
        let mut inner = self.listener.lock();
        match &mut inner.listener {
            Some(listener) => {
                let accepted = listener.poll_accept(cx);
                if accepted.is_pending() {
                    inner.waker = Some(cx.waker().clone());
                }
                accepted
            }
            None => Poll::Ready(Err(PlatformError::NotAllowed {
                intent: format!("listening on port {} of the virtual sockets", self.port),
                why: "the service that let the guest dial it is gone".into(),
            })),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.listener.revoke();
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    struct Scripted(mpsc::UnboundedReceiver<GuestStream>);

    impl PollAccept for Scripted {
        fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Result<GuestStream, PlatformError>> {
            self.0.poll_recv(cx).map(|stream| stream.ok_or_else(|| PlatformError::host("accept", "gone")))
        }
    }

    /// The gate, a listener on port 5000, and what dials it: closed once the port is.
    fn listening() -> (HvSocketGate, GuestListener, mpsc::UnboundedSender<GuestStream>) {
        let gate = HvSocketGate::default();
        gate.update(&HvSocketServiceId::of_port(5000), &HvSocketServiceConfig::guest_dials()).expect("updated");
        let (dial, dialled) = mpsc::unbounded_channel();
        let port = Port(5000);
        let listener = gate.listen(port, || Ok(GuestListener::new(port, Scripted(dialled)))).expect("allowed");
        (gate, listener, dial)
    }

    #[tokio::test]
    async fn a_listener_ends_with_its_service_also_while_it_waits() {
        let (gate, mut listener, dial) = listening();
        let stream = || GuestStream::new(tokio::io::duplex(1).0);
        dial.send(stream()).expect("open");
        listener.accept().await.expect("dialled");
        let waiting = tokio::spawn(async move { listener.accept().await.map(drop) });
        tokio::task::yield_now().await;
        gate.update(&HvSocketServiceId::of_port(5000), &HvSocketServiceConfig::both_dial()).expect("still allowed");
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished() && !dial.is_closed());
        gate.update(&HvSocketServiceId::of_port(5000), &HvSocketServiceConfig::host_dials()).expect("updated");
        let error = waiting.await.expect("no panic").expect_err("not any more").to_string();
        assert!(error.contains("port 5000") && error.contains("is gone"), "{error}");
        assert!(dial.is_closed(), "the port is closed");
        gate.require_dial(Port(5000)).expect("the other side is allowed");
    }

    #[tokio::test]
    async fn a_dropped_listener_closes_its_port_and_a_second_is_not_touched_by_it() {
        let (gate, listener, dial) = listening();
        drop(listener);
        assert!(dial.is_closed());
        let (dial, dialled) = mpsc::unbounded_channel();
        let again = gate.listen(Port(5000), || Ok(GuestListener::new(Port(5000), Scripted(dialled)))).expect("free");
        assert!(!dial.is_closed());
        gate.remove(&HvSocketServiceId::of_port(5000)).expect("removed");
        assert!(dial.is_closed());
        drop(again);
        let denied = gate.listen(Port(5000), || unreachable!("it is not asked")).map(drop).expect_err("denied");
        assert!(matches!(denied, PlatformError::NotAllowed { .. }), "{denied}");
        assert!(gate.require_dial(Port(5000)).is_err());
    }
}
