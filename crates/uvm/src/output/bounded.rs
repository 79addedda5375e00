//! The output's end, where the host cannot tell it: a service that is lost says that the VM is gone, and the guest may
//! live on and keep its stream open.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use uvm_platform::GuestStream;

/// A stream that ends, too, once `over` is and nothing more is there to read. What came before is never cut off.
pub(crate) fn until(over: impl Future<Output = ()> + Send + Sync + 'static, stream: GuestStream) -> GuestStream {
    GuestStream::new(Bounded { stream, over: Some(Box::pin(over)) })
}

struct Bounded {
    stream: GuestStream,
    /// `None` once it is over.
    over: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
}

impl AsyncRead for Bounded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(result) = Pin::new(&mut self.stream).poll_read(cx, buf) {
            return Poll::Ready(result);
        }
        if self.over.as_mut().is_some_and(|over| over.as_mut().poll(cx).is_pending()) {
            return Poll::Pending;
        }
        self.over = None;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
