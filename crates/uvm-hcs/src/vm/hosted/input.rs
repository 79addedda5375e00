//! The standard input of a process: its end is told to the service, too.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;
use uvm_platform::PlatformError;

use super::process::Shared;
use crate::document::process::close_stdin;

type Pipe = Box<dyn AsyncWrite + Send + Sync + Unpin>;

/// What a process reads. Shutting it down, or dropping it, ends the input.
pub(super) struct Input {
    state: State,
    process: Arc<Shared>,
}

enum State {
    Open(Pipe),
    /// Its end is being told.
    Ending(oneshot::Receiver<Result<(), PlatformError>>),
    Ended,
}

impl Input {
    pub(super) fn new(pipe: Pipe, process: Arc<Shared>) -> Self {
        Self { state: State::Open(pipe), process }
    }

    fn pipe(&mut self) -> io::Result<Pin<&mut Pipe>> {
        match &mut self.state {
            State::Open(pipe) => Ok(Pin::new(pipe)),
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Tells the end of the input, if it was open.
    fn end(&mut self) {
        let pipe = match std::mem::replace(&mut self.state, State::Ended) {
            State::Open(pipe) => pipe,
            other => return self.state = other,
        };
        if self.process.has_ended() {
            return;
        }
        let (reply, told) = oneshot::channel();
        let process = Arc::clone(&self.process);
        self.process.spawn(async move {
            let close = process.unless_gone("end the input of a process of it", |process| async move {
                let mut pipe = pipe;
                // A pipe that is broken has no end to tell but the service's.
                let _ = pipe.flush().await;
                let told = process.modify(&close_stdin()).await;
                drop(pipe);
                told
            });
            let result = close.await.map(drop);
            if let Err(error) = &result {
                tracing::debug!(%error, "the end of a process's input was not told");
            }
            // Whoever dropped the input does not want to know.
            let _ = reply.send(result);
        });
        self.state = State::Ending(told);
    }
}

impl AsyncWrite for Input {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.pipe()?.poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pipe()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end();
        let State::Ending(told) = &mut self.state else { return Poll::Ready(Ok(())) };
        let told = ready!(Pin::new(told).poll(cx));
        self.state = State::Ended;
        // A VM that is gone has no process that reads.
        Poll::Ready(told.unwrap_or(Ok(())).map_err(io::Error::other))
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.end();
    }
}
