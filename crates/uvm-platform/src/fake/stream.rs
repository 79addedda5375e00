//! Streams of a fake VM: in-memory pipes that keep to [`StreamIo`](crate::stream::StreamIo).

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use super::census::Counted;

/// Bytes in flight per direction of one stream.
const WINDOW: usize = 64 * 1024;

/// One end of a stream of a fake VM. Dropping it before both sides half-closed resets it.
#[derive(Debug)]
pub struct FakeStream {
    /// `None` once it was cut.
    pipe: Arc<Mutex<Option<DuplexStream>>>,
    we_finished: Arc<AtomicBool>,
    they_finished: Arc<AtomicBool>,
    /// At the host's end.
    _counted: Option<Counted>,
}

/// What joins two ends, for cutting it.
pub(super) struct Wire([Weak<Mutex<Option<DuplexStream>>>; 2]);

impl FakeStream {
    /// Both ends of a stream that belongs to no VM of this host: for other hosts in memory.
    pub fn unowned_pair() -> (Self, Self) {
        let (host, guest, _) = Self::connect(None);
        (host, guest)
    }

    /// The host's end, which is counted, and the guest's.
    pub(super) fn pair(counted: Counted) -> (Self, Self, Wire) {
        Self::connect(Some(counted))
    }

    fn connect(counted: Option<Counted>) -> (Self, Self, Wire) {
        let (near, far) = tokio::io::duplex(WINDOW);
        let end = |pipe| Arc::new(Mutex::new(Some(pipe)));
        let (near, far) = (end(near), end(far));
        let wire = Wire([Arc::downgrade(&near), Arc::downgrade(&far)]);
        let (host_finished, guest_finished) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let host = Self {
            pipe: near,
            we_finished: Arc::clone(&host_finished),
            they_finished: Arc::clone(&guest_finished),
            _counted: counted,
        };
        let guest = Self { pipe: far, we_finished: guest_finished, they_finished: host_finished, _counted: None };
        (host, guest, wire)
    }

    fn pipe(&self) -> MutexGuard<'_, Option<DuplexStream>> {
        self.pipe.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, work: impl FnOnce(Pin<&mut DuplexStream>) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match &mut *self.pipe() {
            Some(pipe) => work(Pin::new(pipe)),
            None => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }
}

impl Wire {
    /// Resets both ends: each of them, dropped, wakes whoever waits at the other.
    pub(super) fn cut(&self) {
        for end in self.0.iter().filter_map(Weak::upgrade) {
            drop(end.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
    }

    /// Whether an end is left.
    pub(super) fn is_connected(&self) -> bool {
        self.0.iter().any(|end| end.strong_count() > 0)
    }
}

impl AsyncRead for FakeStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (before, room) = (buf.filled().len(), buf.remaining());
        ready!(self.with(|pipe| pipe.poll_read(cx, buf)))?;
        let is_end = room > 0 && buf.filled().len() == before;
        if is_end && !self.they_finished.load(Ordering::Acquire) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for FakeStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.with(|pipe| pipe.poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|pipe| pipe.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.we_finished.store(true, Ordering::Release);
        self.with(|pipe| pipe.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::census::Census;
    use super::*;

    fn pair() -> (FakeStream, FakeStream, Wire) {
        FakeStream::pair(Census::default().count("streams"))
    }

    #[tokio::test]
    async fn only_a_half_close_is_the_end_of_a_file() {
        let (mut host, mut guest, _) = pair();
        host.write_all(b"hi").await.expect("room");
        host.shutdown().await.expect("open");
        let mut got = Vec::new();
        guest.read_to_end(&mut got).await.expect("end of file");
        assert_eq!(got, b"hi");
        guest.write_all(b"ho").await.expect("the other direction goes on");
        drop(guest);
        let mut got = Vec::new();
        let error = host.read_to_end(&mut got).await.expect_err("it was not half-closed");
        assert_eq!((got.as_slice(), error.kind()), (&b"ho"[..], io::ErrorKind::ConnectionReset));
    }

    #[tokio::test]
    async fn a_cut_wakes_both_ends() {
        let (mut host, mut guest, wire) = pair();
        let waiting = tokio::spawn(async move { host.read_u8().await.expect_err("cut").kind() });
        let other = tokio::spawn(async move { guest.read_u8().await.expect_err("cut").kind() });
        tokio::task::yield_now().await;
        assert!(wire.is_connected());
        wire.cut();
        assert_eq!(waiting.await.expect("joined"), io::ErrorKind::ConnectionReset);
        assert_eq!(other.await.expect("joined"), io::ErrorKind::ConnectionReset);
        assert!(!wire.is_connected());
    }
}
