//! A virtio-serial port: the guest's end.
//!
//! The kernel reports a hang-up for as long as the host's end is closed. The runtime never clears a hang-up, so a port
//! registered with it directly would be ready for ever and its task would spin. Here the port stands, edge-triggered,
//! in an epoll instance of its own, and that instance stands in the runtime: it has events, but no hang-ups.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};

use rustix::event::epoll;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::Channel;

const READ: u8 = 1;
const WRITE: u8 = 2;

/// A virtio-serial port as a channel: `/dev/vportNpM`, opened for reading and writing.
pub struct PortChannel {
    port: OwnedFd,
    /// The epoll instance that only holds the port.
    edges: AsyncFd<OwnedFd>,
    /// Whether the port may be read, or written, without blocking. A call clears its bit first and sets it again if it
    /// did something, so that an edge that comes meanwhile is not lost.
    ready: AtomicU8,
}

impl PortChannel {
    /// Takes an open port. Call it in the context of the runtime that will run the driver.
    ///
    /// # Errors
    /// When the port cannot be made non-blocking or watched.
    pub fn new(port: impl Into<OwnedFd>) -> io::Result<Self> {
        let port = port.into();
        let flags = rustix::fs::fcntl_getfl(&port)?;
        rustix::fs::fcntl_setfl(&port, flags | rustix::fs::OFlags::NONBLOCK)?;
        let edges = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&edges, &port, epoll::EventData::new_u64(0), flags)?;
        #[expect(deprecated, reason = "its successor is unsafe for what may change its descriptor; an OwnedFd cannot")]
        let edges = AsyncFd::with_interest(edges, Interest::READABLE)?;
        Ok(Self { port, edges, ready: AtomicU8::new(READ | WRITE) })
    }

    fn poll_ready(&self, bit: u8, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.ready.load(Ordering::Acquire) & bit == 0 {
            let mut guard = ready!(self.edges.poll_read_ready(cx))?;
            let mut event = [const { std::mem::MaybeUninit::uninit() }; 1];
            let (events, _) = epoll::wait(self.edges.as_fd(), &mut event, Some(&rustix::event::Timespec::default()))?;
            if let Some(event) = events.first() {
                self.ready.fetch_or(bits(event.flags), Ordering::AcqRel);
            } else {
                guard.clear_ready();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Runs one system call whose readiness is `bit`.
    fn attempt(&self, bit: u8, mut call: impl FnMut() -> rustix::io::Result<usize>) -> io::Result<usize> {
        if self.ready.fetch_and(!bit, Ordering::AcqRel) & bit == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let n = rustix::io::retry_on_intr(&mut call)?;
        if n > 0 {
            self.ready.fetch_or(bit, Ordering::AcqRel);
        }
        Ok(n)
    }
}

impl Channel for PortChannel {
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.attempt(READ, || rustix::io::read(&self.port, &mut *buffer))
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.attempt(WRITE, || rustix::io::write(&self.port, bytes))
    }

    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_ready(READ, cx)
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_ready(WRITE, cx)
    }

    fn reopens(&self) -> bool {
        true
    }

    /// What the kernel returns at most from one read.
    fn read_size(&self) -> usize {
        4 * 1024
    }
}

fn bits(flags: epoll::EventFlags) -> u8 {
    let either = epoll::EventFlags::ERR | epoll::EventFlags::HUP;
    let readable = flags.intersects(epoll::EventFlags::IN | either);
    let writable = flags.intersects(epoll::EventFlags::OUT | either);
    u8::from(readable) * READ + u8::from(writable) * WRITE
}

impl fmt::Debug for PortChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortChannel").field("port", &self.port).finish_non_exhaustive()
    }
}
