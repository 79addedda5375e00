//! A virtio-serial port: the guest's end.
//!
//! The kernel reports a hang-up for as long as the host's end is closed. The runtime never clears a hang-up, so a port
//! registered with it directly would be ready for ever and its task would spin. Here the port stands in an epoll instance
//! of its own, and that instance stands in the runtime, edge-triggered: whatever happens at the port is one edge of the
//! instance, which itself never hangs up. Nobody asks the instance what happened; the port is simply tried.
//!
//! The kernel wakes whoever waits on the port also for each buffer that the host has taken. To be watched for room while
//! there is room would cost a turn of the runtime for each write, so that is done only from a write that found none to the
//! next that finds some. Beginning to watch is not an edge if the instance has not been asked since an event before: the
//! port is in its list of what is ready already. So what is watched for is tried once more when the watch has begun.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll, ready};

use rustix::event::epoll;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::Channel;

const READ: u8 = 1;
const WRITE: u8 = 2;
/// What the kernel returns at most from one read.
const LONGEST_READ: usize = 4 * 1024;

/// A virtio-serial port as a channel: `/dev/vportNpM`, opened for reading and writing.
pub struct PortChannel {
    port: OwnedFd,
    /// The epoll instance that only holds the port.
    edges: AsyncFd<OwnedFd>,
    /// Whether the port may be read, or written, without blocking. A call clears its bit first and sets it again if it
    /// did something, so that an edge that comes meanwhile is not lost.
    ready: AtomicU8,
    /// The port is watched for room.
    watches_room: AtomicBool,
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
        epoll::add(&edges, &port, epoll::EventData::new_u64(0), interest(false))?;
        #[expect(deprecated, reason = "its successor is unsafe for what may change its descriptor; an OwnedFd cannot")]
        let edges = AsyncFd::with_interest(edges, Interest::READABLE)?;
        Ok(Self { port, edges, ready: AtomicU8::new(READ | WRITE), watches_room: AtomicBool::new(false) })
    }

    /// Starts or stops watching the port for room; tells whether that is a change. Room that is there already may go
    /// unnoticed.
    fn watch_room(&self, watch: bool) -> io::Result<bool> {
        let changes = self.watches_room.swap(watch, Ordering::AcqRel) != watch;
        if changes {
            epoll::modify(&self.edges, &self.port, epoll::EventData::new_u64(0), interest(watch))?;
        }
        Ok(changes)
    }

    fn poll_ready(&self, bit: u8, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.ready.load(Ordering::Acquire) & bit == 0 {
            // Cleared before the port is tried: what happens from now on is a new edge.
            ready!(self.edges.poll_read_ready(cx))?.clear_ready();
            let edge = if self.watches_room.load(Ordering::Acquire) { READ | WRITE } else { READ };
            self.ready.fetch_or(edge, Ordering::AcqRel);
        }
        Poll::Ready(Ok(()))
    }

    /// Takes the readiness `bit`; an error if it is not set. Whoever did something without blocking sets it again.
    fn take_ready(&self, bit: u8) -> io::Result<()> {
        match self.ready.fetch_and(!bit, Ordering::AcqRel) & bit {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(()),
        }
    }

    fn set_ready(&self, bit: u8) {
        self.ready.fetch_or(bit, Ordering::AcqRel);
    }
}

impl Channel for PortChannel {
    /// Reads until the buffer is full, or a read gave less than the kernel gives at most.
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.take_ready(READ)?;
        let mut total = 0;
        loop {
            match rustix::io::retry_on_intr(|| rustix::io::read(&self.port, &mut buffer[total..])) {
                Ok(n) if n > 0 => total += n,
                Err(error) if total == 0 => return Err(error.into()),
                Ok(_) if total == 0 => return Ok(0),
                Err(rustix::io::Errno::AGAIN) => return Ok(total),
                _ => break, // closed or failed: the next read says so
            }
            if !total.is_multiple_of(LONGEST_READ) || total == buffer.len() {
                break;
            }
        }
        self.set_ready(READ);
        Ok(total)
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.take_ready(WRITE)?;
        let n = rustix::io::retry_on_intr(|| rustix::io::write(&self.port, bytes))?;
        self.set_ready(WRITE);
        self.watch_room(false)?;
        Ok(n)
    }

    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_ready(READ, cx)
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.watch_room(true)? {
            self.set_ready(WRITE);
        }
        self.poll_ready(WRITE, cx)
    }

    fn reopens(&self) -> bool {
        true
    }

    fn read_size(&self) -> usize {
        8 * LONGEST_READ
    }
}

fn interest(room: bool) -> epoll::EventFlags {
    if room { epoll::EventFlags::IN | epoll::EventFlags::OUT } else { epoll::EventFlags::IN }
}

impl fmt::Debug for PortChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortChannel").field("port", &self.port).finish_non_exhaustive()
    }
}
