//! One stream.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::config::Priority;
use crate::device::{Device, Slot};
use crate::error::StreamError;
use crate::shared::Handle;

/// One stream: reads and writes are independent, and so are the ends of the two directions.
///
/// * `poll_shutdown` half-closes: the guest reads what was written, then end of file, and can go on writing. It is ready
///   when the guest's driver has all of it.
/// * A read gives 0 bytes only after the guest half-closed or closed. A stream that was cut gives
///   [`ConnectionReset`](io::ErrorKind::ConnectionReset), with a [`StreamError`] as the source; what was received before
///   that is read first. However long that takes, bytes of a guest's closed socket are not lost.
/// * A write waits while the guest has no room and a window's worth is queued here. Once the guest will read no more it
///   gives [`BrokenPipe`](io::ErrorKind::BrokenPipe).
/// * Dropping it before `poll_shutdown` was called resets it, and what was not sent yet is lost. After that, nothing that
///   was written is lost; what the guest still sends is thrown away.
///
/// Linux guests do not tell a reset from end of file on a stream that was accepted.
pub struct VsockStream {
    handle: Arc<Handle>,
    slot: Slot,
}

impl VsockStream {
    pub(crate) fn new(handle: Arc<Handle>, slot: Slot) -> Self {
        Self { handle, slot }
    }

    fn with<R>(&self, call: impl FnOnce(&mut Device, Slot) -> R) -> R {
        self.handle.shared.with(|device| call(device, self.slot))
    }

    /// This end's port and the guest's.
    pub fn ports(&self) -> (u32, u32) {
        self.handle.shared.peek(|device| device.ports(self.slot)).unwrap_or_default()
    }

    /// Whether what is written here overtakes bulk. The guest chooses for what it writes.
    pub fn set_priority(&self, priority: Priority) {
        self.with(|device, slot| device.set_priority(slot, priority));
    }

    /// Why it was cut, if it was.
    pub fn cut_reason(&self) -> Option<StreamError> {
        self.handle.shared.peek(|device| device.cut_reason(self.slot))
    }

    /// Cuts it, also what was written and not yet sent.
    pub fn reset(self) {
        self.with(Device::reset);
    }
}

impl AsyncRead for VsockStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let read = self.with(|device, slot| {
            device.poll_read(slot, cx.waker(), |piece| {
                let n = piece.len().min(buf.remaining());
                buf.put_slice(&piece[..n]);
                n
            })
        });
        ready!(read)?;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for VsockStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.with(|device, slot| device.poll_write(slot, cx.waker(), buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|device, slot| device.poll_flush(slot, cx.waker()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(Device::shut_down);
        self.poll_flush(cx)
    }
}

impl Drop for VsockStream {
    fn drop(&mut self) {
        self.with(Device::release);
    }
}

impl fmt::Debug for VsockStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VsockStream({})", self.slot)
    }
}
