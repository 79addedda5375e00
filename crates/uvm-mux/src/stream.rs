//! One stream, whole or in halves.

use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::config::Priority;
use crate::connection::{Connection, Slot};
use crate::error::StreamError;
use crate::mux::Handle;

/// One stream: reads and writes are independent, and so are the ends of the two directions.
///
/// * `poll_shutdown` half-closes: the other end reads what was written, then end of file, and can go on writing. It is
///   ready when all of it has been handed to the channel.
/// * A read gives 0 bytes only after the other end half-closed. A stream that was cut gives
///   [`ConnectionReset`](io::ErrorKind::ConnectionReset) (or [`ConnectionRefused`](io::ErrorKind::ConnectionRefused)
///   where nobody accepted it), with a [`StreamError`] as the source; what was received before that is read first.
/// * A write is sent by the task that writes, if the channel takes it; it waits while the other end's window is full.
/// * Dropping it before it was shut down resets it, and what was not sent yet is lost. Dropping it after `poll_shutdown`
///   was called, even once, loses nothing; the other end, if it has not half-closed, is then reset after end of file.
pub struct MuxStream {
    read: MuxReadHalf,
    write: MuxWriteHalf,
}

/// The reading half of a stream. Dropping it alone drops what the other end sends from then on, without a stall.
pub struct MuxReadHalf {
    stream: Arc<Held>,
}

/// The writing half of a stream. Dropping it before it was shut down resets the stream, also if the other half is alive:
/// what was cut short does not look complete.
pub struct MuxWriteHalf {
    stream: Arc<Held>,
}

/// Holds a stream's slot.
struct Held {
    handle: Arc<Handle>,
    slot: Slot,
}

impl Held {
    fn with<R>(&self, call: impl FnOnce(&mut Connection, Slot) -> R) -> R {
        self.handle.shared.with(|connection| call(connection, self.slot))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.with(Connection::release);
    }
}

impl MuxStream {
    pub(crate) fn new(handle: Arc<Handle>, slot: Slot) -> Self {
        let stream = Arc::new(Held { handle, slot });
        Self { read: MuxReadHalf { stream: Arc::clone(&stream) }, write: MuxWriteHalf { stream } }
    }

    /// The halves, for two tasks.
    pub fn into_split(self) -> (MuxReadHalf, MuxWriteHalf) {
        (self.read, self.write)
    }

    /// See [`MuxWriteHalf::accepted`].
    ///
    /// # Errors
    /// Why the stream was cut.
    pub async fn accepted(&mut self) -> Result<(), StreamError> {
        self.write.accepted().await
    }

    /// See [`MuxWriteHalf::set_priority`].
    pub fn set_priority(&self, priority: Priority) {
        self.write.set_priority(priority);
    }

    /// The port that it was dialled on.
    pub fn port(&self) -> u32 {
        self.write.stream.with(|connection, slot| connection.port(slot)).unwrap_or_default()
    }

    /// Why it was cut, if it was.
    pub fn cut_reason(&self) -> Option<StreamError> {
        self.write.stream.with(|connection, slot| connection.cut_reason(slot))
    }

    /// Cuts it, also what was written and not yet sent.
    pub fn reset(self) {
        self.write.stream.with(Connection::reset);
    }

    /// See [`MuxWriteHalf::poll_fill`].
    pub fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        fill: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        self.write.poll_fill(cx, fill)
    }

    /// See [`MuxReadHalf::poll_drain`].
    pub fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        drain: impl FnOnce(&[u8]) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        self.read.poll_drain(cx, drain)
    }
}

impl MuxReadHalf {
    /// Waits for received bytes and lets `drain` take from the first piece of them, straight from the memory they were
    /// received in: for a relay to a pipe. `drain` tells how many it took and may block; its error is passed on, and
    /// nothing is then taken. 0 is end of file, where `drain` is not called.
    pub fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        drain: impl FnOnce(&[u8]) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let front = self.stream.with(|connection, slot| connection.poll_front(slot, cx.waker()));
        let Some(block) = ready!(front)? else { return Poll::Ready(Ok(0)) };
        let drained = drain(block.filled());
        let n = drained.as_ref().map_or(0, |&n| n);
        self.stream.with(|connection, slot| connection.put_front(slot, block, n));
        Poll::Ready(drained)
    }
}

impl MuxWriteHalf {
    /// Waits until the other end has accepted the stream; at once for one that was accepted here. Cancel-safe.
    ///
    /// # Errors
    /// Why the stream was cut: [`StreamError::Refused`] if nobody accepted it.
    pub async fn accepted(&mut self) -> Result<(), StreamError> {
        poll_fn(|cx| self.stream.with(|connection, slot| connection.poll_accepted(slot, cx.waker()))).await
    }

    /// Whether what is written here overtakes bulk. The other end chooses for what it writes.
    pub fn set_priority(&self, priority: Priority) {
        self.stream.with(|connection, slot| connection.set_priority(slot, priority));
    }

    /// Waits for room and lets `fill` put bytes straight into the next frame: for a relay from a pipe. `fill` tells how
    /// many it put; its error is passed on, and nothing is then written. 0 writes nothing.
    pub fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        fill: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let frame = self.stream.with(|connection, slot| connection.poll_fill(slot, cx.waker()));
        let (mut block, room) = ready!(frame)?;
        let filled = fill(&mut block.spare()[..room]);
        let n = filled.as_ref().map_or(0, |&n| n.min(room));
        block.grow(n);
        self.stream.with(|connection, slot| connection.put_pending(slot, block, n));
        Poll::Ready(filled)
    }
}

impl AsyncRead for MuxReadHalf {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let read = self.stream.with(|connection, slot| {
            connection.poll_read(slot, cx.waker(), |piece| {
                let n = piece.len().min(buf.remaining());
                buf.put_slice(&piece[..n]);
                n
            })
        });
        ready!(read)?;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MuxWriteHalf {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.stream.with(|connection, slot| connection.poll_write(slot, cx.waker(), buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.with(|connection, slot| connection.poll_flush(slot, cx.waker()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.with(Connection::shut_down);
        self.poll_flush(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream.with(|connection, slot| {
            let mut total = 0;
            for buf in bufs.iter().filter(|buf| !buf.is_empty()) {
                match connection.poll_write(slot, cx.waker(), buf) {
                    Poll::Ready(Ok(n)) => total += n,
                    blocked if total == 0 => return blocked,
                    _ => break,
                }
            }
            Poll::Ready(Ok(total))
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

impl AsyncRead for MuxStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.read).poll_read(cx, buf)
    }
}

impl AsyncWrite for MuxStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.write).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.write).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

impl Drop for MuxReadHalf {
    fn drop(&mut self) {
        if Arc::strong_count(&self.stream) > 1 {
            self.stream.with(Connection::discard);
        }
    }
}

impl Drop for MuxWriteHalf {
    fn drop(&mut self) {
        if Arc::strong_count(&self.stream) > 1 {
            self.stream.with(Connection::abandon_writing);
        }
    }
}

impl fmt::Debug for MuxStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_slot("MuxStream", &self.write.stream, f)
    }
}

impl fmt::Debug for MuxReadHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_slot("MuxReadHalf", &self.stream, f)
    }
}

impl fmt::Debug for MuxWriteHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_slot("MuxWriteHalf", &self.stream, f)
    }
}

fn fmt_slot(name: &str, stream: &Held, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "{name}({})", stream.slot)
}
