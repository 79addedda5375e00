//! The handle of a link: dial, listen, follow it, close it.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::watch;

use crate::channel::Channel;
use crate::config::{Config, Role};
use crate::connection::{Connection, QuietWait};
use crate::driver::Driver;
use crate::error::{Down, Link, MuxError};
use crate::shared::Shared;
use crate::stream::MuxStream;

/// One end of a link: dials and listens. Clones are handles of the same link. When the last handle, stream and listener
/// is gone, the link closes after what was written is sent.
#[derive(Clone)]
pub struct Mux {
    handle: Arc<Handle>,
}

/// What keeps a link open.
pub(crate) struct Handle {
    pub(crate) shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close_when_flushed();
    }
}

/// What a guest was told by its owner.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HelloInfo {
    /// The owner's wall clock when it made the greeting, in ns since 1970. The greeting may have waited for the guest to
    /// boot.
    pub clock_ns: u64,
    /// Random bytes, the same for nobody else.
    pub entropy: [u8; 32],
}

impl fmt::Debug for HelloInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HelloInfo").field("clock_ns", &self.clock_ns).finish_non_exhaustive()
    }
}

impl Mux {
    /// A link over `channel`, down until its driver runs and the other end answers.
    pub fn new(channel: impl Channel, role: Role, config: Config) -> (Self, Driver) {
        let channel: Arc<dyn Channel> = Arc::new(channel);
        let shared = Arc::new(Shared::new(Connection::new(role, config), Arc::clone(&channel)));
        let driver = Driver::new(Arc::clone(&shared), channel);
        (Self { handle: Arc::new(Handle { shared }) }, driver)
    }

    /// Lets the other end dial `port`, also before the link is up, and in every epoch.
    ///
    /// # Errors
    /// [`MuxError::PortTaken`], or [`MuxError::LinkDown`] if it is down for good.
    pub fn listen(&self, port: u32) -> Result<MuxListener, MuxError> {
        self.handle.shared.with(|connection| connection.listen(port))?;
        Ok(MuxListener { handle: Arc::clone(&self.handle), port })
    }

    /// Dials `port` and waits until the other end accepts. Cancel-safe: a stream that was not accepted yet is reset. Waits
    /// as long as the other end does not answer; the deadline is the caller's.
    ///
    /// # Errors
    /// Those of [`dial_now`](Self::dial_now), and [`MuxError::NotAccepted`].
    pub async fn dial(&self, port: u32) -> Result<MuxStream, MuxError> {
        let mut stream = self.dial_now(port)?;
        match stream.accepted().await {
            Ok(()) => Ok(stream),
            Err(why) => Err(MuxError::NotAccepted { port, why }),
        }
    }

    /// Dials `port` without a wait. What is written goes along; if the other end refuses, reads and writes give
    /// [`ConnectionRefused`](std::io::ErrorKind::ConnectionRefused).
    ///
    /// # Errors
    /// [`MuxError::LinkDown`], [`MuxError::TooManyStreams`] or [`MuxError::IdsExhausted`]; nothing was sent.
    pub fn dial_now(&self, port: u32) -> Result<MuxStream, MuxError> {
        let slot = self.handle.shared.with(|connection| connection.dial(port))?;
        Ok(MuxStream::new(Arc::clone(&self.handle), slot))
    }

    /// Follows the link.
    pub fn link(&self) -> watch::Receiver<Link> {
        self.handle.shared.link()
    }

    /// Waits until the link is up and gives its epoch. Cancel-safe. The deadline is the caller's.
    ///
    /// # Errors
    /// [`MuxError::LinkDown`] if it can never be up again.
    pub async fn up(&self) -> Result<u64, MuxError> {
        let mut link = self.link();
        loop {
            if let Link::Up { epoch } = *link.borrow_and_update() {
                return Ok(epoch);
            }
            if let Some(why) = self.dead() {
                return Err(MuxError::LinkDown { why });
            }
            if link.changed().await.is_err() {
                return Err(MuxError::LinkDown { why: Down::ClosedHere });
            }
        }
    }

    /// Why the link is down for good, if it is.
    pub fn dead(&self) -> Option<Down> {
        self.handle.shared.peek(|connection| connection.dead().cloned())
    }

    /// What the owner said in its last greeting. `None` before the first; at the owner, its own.
    pub fn hello(&self) -> Option<HelloInfo> {
        self.handle.shared.peek(|connection| {
            let hello = connection.hello()?;
            Some(HelloInfo { clock_ns: hello.clock_ns, entropy: hello.entropy })
        })
    }

    /// Waits until no stream is open, in either direction, and the other end has read all that this one sent. A stream
    /// that the other end dials later is not prevented. Cancel-safe. The deadline is the caller's.
    ///
    /// # Errors
    /// [`MuxError::LinkDown`] if the link is or goes down.
    pub async fn quiesce(&self) -> Result<(), MuxError> {
        let mut wait = QuietWait::default();
        poll_fn(|cx| self.handle.shared.with(|connection| connection.poll_quiet(&mut wait, cx.waker())))
            .await
            .map_err(|why| MuxError::LinkDown { why })
    }

    /// Takes the link down for good. All streams end in reset, the driver ends, the other end sees the channel close.
    pub fn close(&self) {
        self.handle.shared.with(|connection| connection.end(Down::ClosedHere));
    }
}

impl fmt::Debug for Mux {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mux").finish_non_exhaustive()
    }
}

/// A port that the other end may dial. Dropping it closes the port; streams that wait on it are refused.
pub struct MuxListener {
    handle: Arc<Handle>,
    port: u32,
}

impl MuxListener {
    /// The port it listens on.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Waits for the other end to dial, in whichever epoch. Cancel-safe: a stream that arrived is not lost.
    ///
    /// # Errors
    /// [`MuxError::LinkDown`] when the link is down for good.
    pub async fn accept(&mut self) -> Result<MuxStream, MuxError> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// [`accept`](Self::accept) as a poll. One task at a time is woken.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Result<MuxStream, MuxError>> {
        let accepted = self.handle.shared.with(|connection| connection.poll_accept(self.port, cx.waker()));
        accepted.map_ok(|slot| MuxStream::new(Arc::clone(&self.handle), slot)).map_err(|why| MuxError::LinkDown { why })
    }
}

impl Drop for MuxListener {
    fn drop(&mut self) {
        self.handle.shared.with(|connection| connection.unlisten(self.port));
    }
}

impl fmt::Debug for MuxListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MuxListener({})", self.port)
    }
}
