//! The service's pipe for the standard input of a process.

use std::fs::File;
use std::io;
use std::os::windows::io::AsHandle;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread;

use tokio::io::AsyncWrite;
use tokio::net::windows::named_pipe::NamedPipeClient;
use tokio::sync::oneshot;

/// A pipe whose shutdown ends once the service has read all that was written. A write alone says that it is under way: the
/// end of the input, which the service is told by another way, would overtake it.
pub(super) struct StdinPipe {
    pipe: NamedPipeClient,
    /// The service is reading what is left.
    draining: Option<oneshot::Receiver<io::Result<()>>>,
}

impl StdinPipe {
    pub(super) fn new(pipe: NamedPipeClient) -> Self {
        Self { pipe, draining: None }
    }

    /// Waits on a thread of its own until all was read, or nobody reads any more. It may take as long as the process lives.
    fn drain(&self) -> io::Result<oneshot::Receiver<io::Result<()>>> {
        let pipe = File::from(self.pipe.as_handle().try_clone_to_owned()?);
        let (reply, drained) = oneshot::channel();
        let wait = move || {
            // Of a pipe, this is what the system calls flushing. Whoever gave up does not want to know.
            let _ = reply.send(pipe.sync_all());
        };
        thread::Builder::new().name("uvm-hcs-drain".into()).spawn(wait)?;
        Ok(drained)
    }
}

impl AsyncWrite for StdinPipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut draining = match self.draining.take() {
            Some(draining) => draining,
            None => self.drain()?,
        };
        match Pin::new(&mut draining).poll(cx) {
            Poll::Ready(drained) => Poll::Ready(drained.unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))),
            Poll::Pending => {
                self.draining = Some(draining);
                Poll::Pending
            }
        }
    }
}
