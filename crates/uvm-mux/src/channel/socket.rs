//! A connected Unix stream socket: the host's end of QEMU's chardev, and both ends in tests.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::Channel;

/// A Unix stream socket as a channel.
///
/// The runtime watches it for bytes only: a socket that is also watched for room wakes its task whenever the other end
/// has read, though nobody waits for that. For the while that a writer does wait, a duplicate is watched.
pub struct SocketChannel {
    socket: AsyncFd<OwnedFd>,
    /// The duplicate. Only the driver touches it.
    room: Mutex<Option<AsyncFd<OwnedFd>>>,
}

impl SocketChannel {
    /// Takes a connected socket. Call it in the context of the runtime that will run the driver.
    ///
    /// # Errors
    /// When the socket cannot be made non-blocking or registered with the runtime.
    pub fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { socket: watch(socket.into(), Interest::READABLE)?, room: Mutex::new(None) })
    }
}

impl Channel for SocketChannel {
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut n = 0;
        // A read that does not fill the buffer has emptied the socket: said so here, it costs no second one.
        let read = self.socket.try_io(Interest::READABLE, |socket| {
            n = rustix::io::retry_on_intr(|| rustix::net::recv(socket, &mut *buffer, RecvFlags::empty()))?.0;
            if n > 0 && n < buffer.len() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(n) }
        });
        match read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && n > 0 => Ok(n),
            // QEMU was killed with bytes unread at its end.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(0),
            read => read,
        }
    }

    /// What is written to a closed end is gone. That it is closed is told by the read behind the last byte it sent, so
    /// that those bytes are not lost.
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match rustix::io::retry_on_intr(|| rustix::net::send(self.socket.get_ref(), bytes, SendFlags::NOSIGNAL)) {
            Err(Errno::PIPE | Errno::CONNRESET) => Ok(bytes.len()),
            written => Ok(written?),
        }
    }

    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_read_ready(cx).map_ok(drop)
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        if room.is_none() {
            *room = Some(watch(self.socket.get_ref().try_clone()?, Interest::WRITABLE)?);
        }
        if let Some(room) = &*room {
            ready!(room.poll_write_ready(cx))?.retain_ready();
        }
        *room = None;
        Poll::Ready(Ok(()))
    }

    fn reopens(&self) -> bool {
        false
    }

    fn read_size(&self) -> usize {
        64 * 1024
    }
}

#[expect(deprecated, reason = "its successor is unsafe for what may change its descriptor; an OwnedFd cannot")]
fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, interest)
}

impl fmt::Debug for SocketChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SocketChannel").field("socket", &self.socket).finish_non_exhaustive()
    }
}
