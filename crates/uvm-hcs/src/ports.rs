//! Ports of a VM, each a Hyper-V socket service.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use uvm_platform::stream::PollAccept;
use uvm_platform::{BoxFuture, ExitStatus, GuestListener, GuestStream, LastWords, PlatformError, Port};
use uvm_wire::Guid;
use uvm_wire::ports::{BRIDGE_PORT, WINDOWS_BRIDGE_SERVICE, vsock_service};

use crate::host::HcsHost;

/// What the guest runs, as far as its sockets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guest {
    Linux,
    Windows,
}

impl Guest {
    /// The service that a port is. A Windows guest finds the bridge under an id of its own.
    pub(crate) fn service(self, port: Port) -> Guid {
        match (self, port) {
            (Self::Windows, Port(BRIDGE_PORT)) => WINDOWS_BRIDGE_SERVICE,
            (Self::Linux | Self::Windows, Port(port)) => vsock_service(port),
        }
    }
}

/// The services of one VM that somebody listens on.
#[derive(Clone, Default)]
pub(crate) struct Ports(Arc<Mutex<HashSet<Guid>>>);

impl Ports {
    /// Listens on the service that is `port`, until the listener is dropped or `ended` tells how the VM has ended.
    pub(crate) fn listen(
        &self,
        host: &dyn HcsHost,
        (vm, service): (Guid, Guid),
        port: Port,
        ended: BoxFuture<'static, ExitStatus>,
    ) -> Result<GuestListener, PlatformError> {
        let intent = || format!("listen on port {port}");
        if !self.lock().insert(service) {
            return Err(PlatformError::host(intent(), std::io::Error::from(std::io::ErrorKind::AddrInUse)));
        }
        // Taken from here on, and given back when this is dropped.
        let taken = Taken { ports: self.clone(), service };
        let inner = host.listen(vm, service).map_err(|e| PlatformError::host(intent(), e))?;
        Ok(GuestListener::new(port, PortListener { inner, ended: Some(ended), status: None, _taken: taken }))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<Guid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Taken {
    ports: Ports,
    service: Guid,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.ports.lock().remove(&self.service);
    }
}

struct PortListener {
    inner: Box<dyn PollAccept>,
    /// `None` once it has told.
    ended: Option<BoxFuture<'static, ExitStatus>>,
    status: Option<ExitStatus>,
    _taken: Taken,
}

impl PollAccept for PortListener {
    /// The end of the VM goes before a stream that arrives with it: whoever waits must not go on with a dead guest.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Result<GuestStream, PlatformError>> {
        if let Some(ended) = &mut self.ended
            && let Poll::Ready(status) = ended.as_mut().poll(cx)
        {
            (self.ended, self.status) = (None, Some(status));
        }
        match &self.status {
            None => self.inner.poll_accept(cx),
            Some(status) => Poll::Ready(Err(PlatformError::Ended {
                what: "wait for the guest to dial".into(),
                status: status.clone(),
                last_words: Box::new(LastWords::default()),
            })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_windows_guest_finds_the_bridge_elsewhere() {
        let of = |guest: Guest, port: u32| guest.service(Port(port)).to_string();
        assert_eq!(of(Guest::Linux, BRIDGE_PORT), "40000000-facb-11e6-bd58-64006a7986d3");
        assert_eq!(of(Guest::Windows, BRIDGE_PORT), "acef5661-84a1-4e44-856b-6245e69f4620");
        assert_eq!(of(Guest::Windows, 0x4000_0001), "40000001-facb-11e6-bd58-64006a7986d3");
    }
}
