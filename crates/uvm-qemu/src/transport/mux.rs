//! Guest streams over the multiplexed serial port.

use std::io;
use std::task::{Context, Poll};

use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::sync::watch;
use uvm_mux::channel::SocketChannel;
use uvm_mux::{Config, Greeting, GuestState, Mux, MuxError, MuxListener, Priority, Role};
use uvm_platform::stream::PollAccept;
use uvm_platform::{BoxFuture, GuestListener, GuestStream, GuestTransport, Link, PlatformError, Port};

use super::{accepted, follow};

/// [`uvm_mux`] as a [`GuestTransport`].
pub(crate) struct MuxTransport {
    mux: Mux,
    link: watch::Receiver<Link>,
    /// Why it is down for good, once it is.
    lost: watch::Receiver<Option<String>>,
}

impl MuxTransport {
    /// Speaks to the guest over `socket`, on `runtime`. To be called on that runtime.
    pub(crate) fn over(socket: UnixStream, runtime: &Handle) -> io::Result<Self> {
        let channel = SocketChannel::new(socket.into_std()?)?;
        let (mux, driver) = Mux::new(channel, Role::Owner(Greeting::new(GuestState::Fresh)?), Config::default());
        let driver = runtime.spawn(driver);
        let (lost_sender, lost) = watch::channel(None);
        runtime.spawn(async move {
            let why = match driver.await {
                Ok(down) => down.to_string(),
                Err(panic) => format!("internal error: {panic}"),
            };
            // Nobody may be interested any more.
            let _ = lost_sender.send(Some(why));
        });
        let link = follow(mux.link(), runtime, translate);
        Ok(Self { mux, link, lost })
    }

    /// Why it is down for good, once it is.
    pub(super) fn lost(&self) -> watch::Receiver<Option<String>> {
        self.lost.clone()
    }
}

fn translate(link: &uvm_mux::Link) -> Link {
    match link {
        uvm_mux::Link::Up { epoch } => Link::Up { epoch: *epoch },
        uvm_mux::Link::Down { why } => Link::Down { why: why.to_string() },
    }
}

fn host(intent: &str, port: Port) -> impl FnOnce(MuxError) -> PlatformError + use<> {
    let intent = format!("{intent} port {port}");
    move |error| PlatformError::host(intent, error)
}

impl GuestTransport for MuxTransport {
    fn listen(&self, port: Port) -> Result<GuestListener, PlatformError> {
        let listener = self.mux.listen(port.0).map_err(host("listen on", port))?;
        Ok(GuestListener::new(port, Listener(listener)))
    }

    fn dial(&self, port: Port) -> BoxFuture<'_, Result<GuestStream, PlatformError>> {
        Box::pin(async move { self.mux.dial(port.0).await.map(GuestStream::new).map_err(host("dial", port)) })
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.link.clone()
    }

    fn quiesce(&self) -> BoxFuture<'_, Result<(), PlatformError>> {
        Box::pin(async move { self.mux.quiesce().await.map_err(|e| PlatformError::host("quiesce the transport", e)) })
    }

    fn survives_save(&self) -> bool {
        true
    }

    fn needs_shared_ram(&self) -> bool {
        false
    }
}

struct Listener(MuxListener);

impl PollAccept for Listener {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Result<GuestStream, PlatformError>> {
        let port = Port(self.0.port());
        let dialled = self.0.poll_accept(cx).map_err(host("accept on", port));
        dialled.map_ok(|stream| accepted(port, stream, |stream| stream.set_priority(Priority::Control)))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A transport and the guest's end of it.
    fn pair() -> (MuxTransport, Mux) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let runtime = Handle::current();
        let transport = MuxTransport::over(ours, &runtime).expect("a transport");
        let channel = SocketChannel::new(theirs.into_std().expect("a socket")).expect("a channel");
        let (guest, driver) = Mux::new(channel, Role::Guest, Config::default());
        runtime.spawn(driver);
        (transport, guest)
    }

    #[tokio::test]
    async fn streams_go_both_ways_and_half_close() {
        let (transport, guest) = pair();
        let mut listener = transport.listen(Port(7)).expect("free");
        let taken = transport.listen(Port(7)).expect_err("taken").to_string();
        assert_eq!(taken, "cannot listen on port 7");
        guest.up().await.expect("up");
        let mut from_guest = guest.dial_now(7).expect("dialled");
        let mut at_host = listener.accept().await.expect("accepted");
        from_guest.write_all(b"up").await.expect("written");
        from_guest.shutdown().await.expect("half-closed");
        let mut up = Vec::new();
        at_host.read_to_end(&mut up).await.expect("read");
        assert_eq!(up, b"up");
        at_host.write_all(b"down").await.expect("the other direction is open");
        at_host.shutdown().await.expect("half-closed");
        let mut down = Vec::new();
        from_guest.read_to_end(&mut down).await.expect("read");
        assert_eq!(down, b"down");
        assert_eq!(*transport.link().borrow(), Link::Up { epoch: 1 });
    }

    #[tokio::test]
    async fn a_guest_that_is_gone_is_told_once_and_for_all() {
        let (transport, guest) = pair();
        guest.up().await.expect("up");
        guest.close();
        let mut lost = transport.lost();
        let why = lost.wait_for(Option::is_some).await.expect("told").clone();
        assert_eq!(why.as_deref(), Some("the other end closed the channel"));
        let error = transport.dial(Port(1)).await.expect_err("nobody there");
        assert!(error.to_string().contains("cannot dial port 1"), "{error}");
    }
}
