//! Standard streams of a process.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use uvm_platform::GuestStream;

/// The standard input of a process. Shutting it down, or dropping it, ends the input; what was written before arrives.
pub struct ProcessInput(Option<Sink>);

/// Where an input goes.
type Sink = Box<dyn AsyncWrite + Send + Sync + Unpin>;

impl ProcessInput {
    /// By a stream that the guest dialled.
    pub(super) fn by_guest(stream: GuestStream) -> Self {
        Self(Some(Box::new(stream)))
    }

    /// By a pipe of the host's service.
    pub(super) fn by_host(pipe: Sink) -> Self {
        Self(Some(pipe))
    }

    /// Ends the input. Where the host's service holds the guest connection, waits until the service has read what was
    /// written, or the process has ended. A caller that gives up does not call it back.
    ///
    /// # Errors
    /// The process, or the VM, is gone.
    pub async fn finish(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Some(stream) => stream.shutdown().await,
            None => Ok(()),
        }
    }

    fn stream(&mut self) -> io::Result<Pin<&mut Sink>> {
        self.0.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
}

impl AsyncWrite for ProcessInput {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }
}

impl Drop for ProcessInput {
    fn drop(&mut self) {
        if let Some(stream) = self.0.take() {
            half_close(stream);
        }
    }
}

/// Drops a stream as one that was half-closed: without that it would be reset, and what the other end has not read yet
/// would be lost. Once asked for, the half-close happens by itself.
fn half_close(mut stream: impl AsyncWrite + Unpin) {
    let waker = std::task::Waker::noop();
    let _ = Pin::new(&mut stream).poll_shutdown(&mut Context::from_waker(waker));
}

/// An output of a process. At its end it is closed by itself, as the guest expects.
pub struct ProcessOutput(Source);

/// Where an output comes from.
enum Source {
    /// A stream that the guest dialled.
    Guest(GuestStream),
    /// A pipe of the host's service.
    Host(Box<dyn AsyncRead + Send + Sync + Unpin>),
    Ended,
}

impl ProcessOutput {
    pub(super) fn by_guest(stream: GuestStream) -> Self {
        Self(Source::Guest(stream))
    }

    pub(super) fn by_host(pipe: Box<dyn AsyncRead + Send + Sync + Unpin>) -> Self {
        Self(Source::Host(pipe))
    }
}

impl AsyncRead for ProcessOutput {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (before, room) = (buf.filled().len(), buf.remaining());
        match &mut self.0 {
            Source::Guest(stream) => ready!(Pin::new(stream).poll_read(cx, buf))?,
            Source::Host(pipe) => ready!(Pin::new(pipe).poll_read(cx, buf))?,
            Source::Ended => return Poll::Ready(Ok(())),
        }
        if room > 0
            && buf.filled().len() == before
            && let Source::Guest(stream) = std::mem::replace(&mut self.0, Source::Ended)
        {
            // The agent of the original tells the exit only once it has read the end of this direction, too.
            half_close(stream);
        }
        Poll::Ready(Ok(()))
    }
}

impl fmt::Debug for ProcessInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProcessInput")
    }
}

impl fmt::Debug for ProcessOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProcessOutput")
    }
}
