//! The byte channel under a mux: what it must do, and the two that Linux has.

use std::io;
use std::task::{Context, Poll};

#[cfg(all(target_os = "linux", not(loom)))]
mod port;
#[cfg(all(target_os = "linux", not(loom)))]
mod socket;

#[cfg(all(target_os = "linux", not(loom)))]
pub use self::port::PortChannel;
#[cfg(all(target_os = "linux", not(loom)))]
pub use self::socket::SocketChannel;

/// An ordered channel of bytes, without blocking. Calls may come from any thread, but there is one read and one write at
/// a time, and only the driver polls.
pub trait Channel: Send + Sync + 'static {
    /// Reads what is there, up to the buffer's length. 0 means that the other end is closed.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when nothing is there; anything else ends the link.
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes what the channel takes.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when it takes nothing now; anything else ends the link.
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize>;

    /// Waits until [`try_read`](Self::try_read) may not block. After it did, this must not be ready before something
    /// has changed.
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// The same for [`try_write`](Self::try_write).
    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// `true` if another end can come after one was closed. Then a read of 0 counts as one that would block.
    fn reopens(&self) -> bool;

    /// A good length for a read's buffer.
    fn read_size(&self) -> usize;
}
