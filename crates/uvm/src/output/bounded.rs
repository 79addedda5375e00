//! The output's end, where the host cannot tell it: a service that is lost says that the VM is gone, and the guest may
//! live on, keep its stream open, and go on writing.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use uvm_platform::GuestStream;

/// A stream that ends, too, once `over` is and what came before was read: as soon as nothing more is there, and at the
/// latest after as much as can have been on its way.
pub(crate) fn until(over: impl Future<Output = ()> + Send + Sync + 'static, stream: GuestStream) -> GuestStream {
    GuestStream::new(Bounded { stream, over: Some(Box::pin(over)), left: ON_ITS_WAY })
}

struct Bounded {
    stream: GuestStream,
    /// `None` once it is over.
    over: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
    /// How many bytes are read yet once it is over.
    left: usize,
}

impl AsyncRead for Bounded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.over.as_mut().is_some_and(|over| over.as_mut().poll(cx).is_pending()) {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        self.over = None;
        if self.left == 0 || buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let count = buf.filled().len() - before;
        // Nothing more was there, or this was the end.
        self.left = if count == 0 { 0 } else { self.left.saturating_sub(count) };
        if read.is_pending() { Poll::Ready(Ok(())) } else { read }
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

/// More than all buffers between a guest and this end hold.
const ON_ITS_WAY: usize = 16 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::oneshot;

    use super::*;

    /// A stream that is over, and what it is fed by.
    fn over() -> (GuestStream, tokio::io::DuplexStream) {
        let (near, far) = tokio::io::duplex(64);
        (until(std::future::ready(()), GuestStream::new(near)), far)
    }

    #[tokio::test]
    async fn what_came_before_is_read_and_then_it_has_ended_for_good() {
        let (mut stream, mut guest) = over();
        guest.write_all(b"before").await.expect("there is room");
        let mut read = String::new();
        stream.read_to_string(&mut read).await.expect("read");
        assert_eq!(read, "before");
        guest.write_all(b"after").await.expect("there is room");
        assert_eq!(stream.read(&mut [0; 8]).await.expect("read"), 0);
    }

    #[tokio::test]
    async fn a_guest_that_goes_on_writing_does_not_keep_it_open() {
        let guest = GuestStream::new(tokio::io::join(tokio::io::repeat(7), tokio::io::sink()));
        let stream = until(std::future::ready(()), guest);
        let mut read = Vec::new();
        stream.take(10 * ON_ITS_WAY as u64).read_to_end(&mut read).await.expect("read");
        assert!((ON_ITS_WAY..2 * ON_ITS_WAY).contains(&read.len()), "{}", read.len());
    }

    #[tokio::test]
    async fn until_it_is_over_it_waits() {
        let (near, _far) = tokio::io::duplex(64);
        let (end, ended) = oneshot::channel::<()>();
        let mut stream = until(async move { drop(ended.await) }, GuestStream::new(near));
        let mut buffer = [0; 8];
        let mut reading = Box::pin(stream.read(&mut buffer));
        tokio::select! {
            biased;
            read = &mut reading => panic!("it read {read:?}"),
            () = std::future::ready(()) => {}
        }
        drop(end);
        assert_eq!(reading.await.expect("read"), 0);
    }
}
