//! Byte streams between host and guest, by port.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::error::PlatformError;

/// A port: 32 bits, as on a virtual socket. Which transport carries it is the host's affair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(pub u32);

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 0x1_0000 { write!(f, "{}", self.0) } else { write!(f, "{:#x}", self.0) }
    }
}

/// What carries a [`GuestStream`].
///
/// `poll_shutdown` half-closes: the peer reads what was written, then end of file, and can go on writing. A read gives
/// `Ok(0)` only after the peer half-closed; a stream that was cut gives [`io::ErrorKind::ConnectionReset`]. Dropping it
/// before both sides half-closed resets it.
pub trait StreamIo: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> StreamIo for T {}

/// One stream between host and guest, with independent half-closes and reset told apart from end of file: see
/// [`StreamIo`].
pub struct GuestStream(Box<dyn StreamIo>);

impl GuestStream {
    /// Wraps what a transport made.
    pub fn new(io: impl StreamIo + 'static) -> Self {
        Self(Box::new(io))
    }
}

impl fmt::Debug for GuestStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GuestStream")
    }
}

impl AsyncRead for GuestStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for GuestStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}

/// What a transport's listener does; [`GuestListener`] wraps it.
pub trait PollAccept: Send + Unpin {
    /// The next stream the guest dialled. Dropping the listener refuses whoever dials later.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Result<GuestStream, PlatformError>>;
}

/// A port that the guest may dial. Dropping it closes the port.
pub struct GuestListener {
    port: Port,
    inner: Box<dyn PollAccept>,
}

impl GuestListener {
    /// Wraps what a transport made for `port`.
    pub fn new(port: Port, inner: impl PollAccept + 'static) -> Self {
        Self { port, inner: Box::new(inner) }
    }

    /// The port it listens on.
    pub fn port(&self) -> Port {
        self.port
    }

    /// Waits for the guest to dial. Cancel-safe: a stream that arrived is not lost.
    ///
    /// # Errors
    /// When the transport is gone for good.
    pub async fn accept(&mut self) -> Result<GuestStream, PlatformError> {
        std::future::poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// [`accept`](Self::accept) as a poll. One task at a time is woken.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Result<GuestStream, PlatformError>> {
        self.inner.poll_accept(cx)
    }
}

impl fmt::Debug for GuestListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GuestListener({})", self.port)
    }
}
