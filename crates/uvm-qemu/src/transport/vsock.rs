//! Guest streams by virtual sockets: a vhost-user device in this process. For programs in the guest, and for an agent that
//! knows nothing else.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio::sync::watch;
use uvm_platform::stream::PollAccept;
use uvm_platform::{BoxFuture, GuestListener, GuestStream, GuestTransport, Link, PlatformError, Port};
use uvm_vsock::{Config, Priority, Vsock, VsockError, VsockListener};

use super::{accepted, follow};
use crate::short_path::ShortDir;

/// The guest's context id. Guests do not see each other, so all may have the same.
const GUEST_CID: u64 = 3;
/// The socket's name while QEMU's end of it is made.
pub(crate) const SOCKET: &str = "vsock";

/// The device, and QEMU's end of the connection to it.
pub(crate) fn device(state_dir: &Path) -> Result<(Vsock, OwnedFd), PlatformError> {
    let intent = "make a device for virtual sockets";
    let (listener, end) = connection(state_dir, SOCKET).map_err(|e| PlatformError::host(intent, e))?;
    let config = Config::new(GUEST_CID).map_err(|e| PlatformError::host(intent, e))?;
    let vsock = Vsock::serve(config, listener).map_err(|e| PlatformError::host(intent, e))?;
    Ok((vsock, end))
}

/// A listener with one connection waiting, which nobody else can have made: the directory is this user's alone.
pub(crate) fn connection(dir: &Path, name: &str) -> io::Result<(UnixListener, OwnedFd)> {
    let dir = ShortDir::open(dir)?;
    let path = dir.join(name);
    let listener = UnixListener::bind(&path)?;
    let connected = UnixStream::connect(&path);
    std::fs::remove_file(&path)?;
    Ok((listener, connected?.into()))
}

fn host(intent: &str, port: Port) -> impl FnOnce(VsockError) -> PlatformError + use<> {
    let intent = format!("{intent} port {port} of the guest's virtual sockets");
    move |error| PlatformError::host(intent, error)
}

pub(crate) fn listen(vsock: &Vsock, port: Port) -> Result<GuestListener, PlatformError> {
    let listener = vsock.listen(port.0).map_err(host("listen on", port))?;
    Ok(GuestListener::new(port, Listener(listener)))
}

pub(crate) async fn dial(vsock: &Vsock, port: Port) -> Result<GuestStream, PlatformError> {
    // The guest's driver may not be there yet.
    vsock.up().await.map_err(host("dial", port))?;
    vsock.dial(port.0).await.map(GuestStream::new).map_err(host("dial", port))
}

struct Listener(VsockListener);

impl PollAccept for Listener {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Result<GuestStream, PlatformError>> {
        let port = Port(self.0.port());
        let dialled = self.0.poll_accept(cx).map_err(host("accept on", port));
        dialled.map_ok(|stream| accepted(port, stream, |stream| stream.set_priority(Priority::Control)))
    }
}

/// [`uvm_vsock`] as a [`GuestTransport`], for an agent that knows nothing else. The device is there from boot on.
pub(crate) struct VsockTransport {
    vsock: Vsock,
    link: watch::Receiver<Link>,
    /// Why it is down for good, once it is.
    lost: watch::Receiver<Option<String>>,
}

impl VsockTransport {
    /// The agent's streams over `vsock`, followed on `runtime`.
    pub(crate) fn over(vsock: Vsock, runtime: &Handle) -> Self {
        let link = follow(vsock.link(), runtime, translate);
        let (sender, lost) = watch::channel(None);
        let (mut links, device) = (vsock.link(), vsock.clone());
        runtime.spawn(async move {
            // The link changes last when it dies.
            while device.dead().is_none() && links.changed().await.is_ok() {}
            let why = device.dead().map_or_else(|| "its thread has ended".into(), |why| why.to_string());
            // Nobody may be interested any more.
            let _ = sender.send(Some(why));
        });
        Self { vsock, link, lost }
    }

    /// Why it is down for good, once it is.
    pub(super) fn lost(&self) -> watch::Receiver<Option<String>> {
        self.lost.clone()
    }
}

fn translate(link: &uvm_vsock::Link) -> Link {
    match link {
        uvm_vsock::Link::Up { epoch } => Link::Up { epoch: *epoch },
        uvm_vsock::Link::Down { why } => Link::Down { why: why.to_string() },
    }
}

impl GuestTransport for VsockTransport {
    fn listen(&self, port: Port) -> Result<GuestListener, PlatformError> {
        let listener = self.vsock.listen(port.0).map_err(host("listen on", port))?;
        Ok(GuestListener::new(port, Listener(listener)))
    }

    fn dial(&self, port: Port) -> BoxFuture<'_, Result<GuestStream, PlatformError>> {
        Box::pin(dial(&self.vsock, port))
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.link.clone()
    }

    fn quiesce(&self) -> BoxFuture<'_, Result<(), PlatformError>> {
        Box::pin(async move { self.vsock.quiesce().await.map_err(|e| PlatformError::host("quiesce the transport", e)) })
    }

    fn survives_save(&self) -> bool {
        false
    }

    fn needs_shared_ram(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_leaves_no_socket_and_its_directory_may_have_any_length() {
        let dir = tempfile::tempdir().expect("a directory");
        let deep = dir.path().join("d".repeat(120));
        std::fs::create_dir(&deep).expect("made");
        let (vsock, end) = device(&deep).expect("a device");
        assert_eq!(std::fs::read_dir(&deep).expect("there").count(), 0);
        assert!(vsock.dead().is_none());
        drop(end);
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while vsock.dead().is_none() && std::time::Instant::now() < until {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert_eq!(vsock.dead(), Some(uvm_vsock::Down::Detached));
    }
}
