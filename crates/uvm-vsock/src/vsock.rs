//! The handle of a device: dial, listen, follow its link, close it.

use std::fmt;
use std::future::poll_fn;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::watch;

use crate::backend;
use crate::config::Config;
use crate::error::{Down, Link, VsockError};
use crate::shared::{Handle, Shared};
use crate::stream::VsockStream;

/// One device: dials and listens. Clones are handles of the same device, which ends with the last handle, stream and
/// listener.
#[derive(Clone)]
pub struct Vsock {
    handle: Arc<Handle>,
}

impl Vsock {
    /// A device for the VM whose process has connected, or is about to connect, to `listener`: this call waits for it. Make
    /// the listener, connect to it, then call this; give the connected end to the VM's process as a vhost-user chardev.
    ///
    /// # Errors
    /// [`VsockError::Start`].
    pub fn serve(config: Config, listener: UnixListener) -> Result<Self, VsockError> {
        let shared = Arc::new(Shared::new(config));
        backend::serve(&shared, config.cid, listener).map_err(|source| VsockError::Start { source })?;
        Ok(Self { handle: Arc::new(Handle { shared }) })
    }

    /// Lets the guest dial `port`, also before its driver runs, and in every epoch.
    ///
    /// # Errors
    /// [`VsockError::PortTaken`], or [`VsockError::LinkDown`] if it is down for good.
    pub fn listen(&self, port: u32) -> Result<VsockListener, VsockError> {
        self.handle.shared.with(|device| device.listen(port))?;
        Ok(VsockListener { handle: Arc::clone(&self.handle), port })
    }

    /// Dials `port` of the guest and waits until it accepts. Cancel-safe: a stream that was not accepted yet is reset. The
    /// deadline is the caller's, and needed: a driver that went away may not be known to have ([`Link`]).
    ///
    /// # Errors
    /// [`VsockError::LinkDown`], [`VsockError::TooManyStreams`] or [`VsockError::NotAccepted`].
    pub async fn dial(&self, port: u32) -> Result<VsockStream, VsockError> {
        let shared = &self.handle.shared;
        let slot = shared.with(|device| device.dial(port))?;
        let stream = VsockStream::new(Arc::clone(&self.handle), slot);
        match poll_fn(|cx| shared.with(|device| device.poll_accepted(slot, cx.waker()))).await {
            Ok(()) => Ok(stream),
            Err(why) => Err(VsockError::NotAccepted { port, why }),
        }
    }

    /// Follows the link.
    pub fn link(&self) -> watch::Receiver<Link> {
        self.handle.shared.link()
    }

    /// Waits until the guest's driver is there and gives the epoch. Cancel-safe. The deadline is the caller's.
    ///
    /// # Errors
    /// [`VsockError::LinkDown`] if it can never be up again.
    pub async fn up(&self) -> Result<u64, VsockError> {
        let mut link = self.link();
        loop {
            if let Link::Up { epoch } = *link.borrow_and_update() {
                return Ok(epoch);
            }
            if let Some(why) = self.dead() {
                return Err(VsockError::LinkDown { why });
            }
            if link.changed().await.is_err() {
                return Err(VsockError::LinkDown { why: Down::ClosedHere });
            }
        }
    }

    /// Why the device is of no more use, if it is.
    pub fn dead(&self) -> Option<Down> {
        self.handle.shared.peek(|device| device.dead().cloned())
    }

    /// Waits until no stream is open. A stream that the guest dials later is not prevented. Cancel-safe. The deadline is
    /// the caller's.
    ///
    /// # Errors
    /// [`VsockError::LinkDown`] if the device ends.
    pub async fn quiesce(&self) -> Result<(), VsockError> {
        poll_fn(|cx| self.handle.shared.with(|device| device.poll_quiet(cx.waker())))
            .await
            .map_err(|why| VsockError::LinkDown { why })
    }

    /// Ends the device: all streams end in reset, and the VM's process sees its connection close.
    pub fn close(&self) {
        self.handle.shared.end(Down::ClosedHere);
    }
}

impl fmt::Debug for Vsock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vsock").finish_non_exhaustive()
    }
}

/// A port that the guest may dial. Dropping it closes the port; streams that wait on it are reset.
pub struct VsockListener {
    handle: Arc<Handle>,
    port: u32,
}

impl VsockListener {
    /// The port it listens on.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Waits for the guest to dial, in whichever epoch. Cancel-safe: a stream that arrived is not lost.
    ///
    /// # Errors
    /// [`VsockError::LinkDown`] when the device is at its end.
    pub async fn accept(&mut self) -> Result<VsockStream, VsockError> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// [`accept`](Self::accept) as a poll. One task at a time is woken.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Result<VsockStream, VsockError>> {
        let accepted = self.handle.shared.with(|device| device.poll_accept(self.port, cx.waker()));
        accepted
            .map_ok(|slot| VsockStream::new(Arc::clone(&self.handle), slot))
            .map_err(|why| VsockError::LinkDown { why })
    }
}

impl Drop for VsockListener {
    fn drop(&mut self) {
        self.handle.shared.with(|device| device.unlisten(self.port));
    }
}

impl fmt::Debug for VsockListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VsockListener({})", self.port)
    }
}
