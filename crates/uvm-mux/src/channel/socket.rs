//! A connected Unix stream socket: the host's end of QEMU's chardev, and both ends in tests.

use std::fmt;
use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::task::{Context, Poll};

use tokio::net::UnixStream;

use super::Channel;

/// A Unix stream socket as a channel.
pub struct SocketChannel(UnixStream);

impl SocketChannel {
    /// Takes a connected socket. Call it in the context of the runtime that will run the driver.
    ///
    /// # Errors
    /// When the socket cannot be made non-blocking or registered with the runtime.
    pub fn new(socket: StdUnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        UnixStream::from_std(socket).map(Self)
    }
}

impl Channel for SocketChannel {
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.try_read(buffer) {
            // QEMU killed with bytes unread at its end.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(0),
            result => result,
        }
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_read_ready(cx)
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_write_ready(cx)
    }

    fn reopens(&self) -> bool {
        false
    }

    fn read_size(&self) -> usize {
        64 * 1024
    }
}

impl fmt::Debug for SocketChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
