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
            let result = tell_end(&process, pipe).await;
            if let Err(error) = &result {
                tracing::debug!(%error, "the end of a process's input was not told");
            }
            // Whoever dropped the input does not want to know.
            let _ = reply.send(result);
        });
        self.state = State::Ending(told);
    }
}

/// Tells the end of the input once all that was written has been read, which may take as long as the process lives.
async fn tell_end(process: &Shared, mut pipe: Pipe) -> Result<(), PlatformError> {
    tokio::select! {
        biased;
        // Nobody reads any more.
        () = process.ended() => return Ok(()),
        // A pipe that is broken has no end to tell but the service's.
        _ = pipe.shutdown() => {}
    }
    let intent = "end the input of a process of it";
    // The pipe stays until that is told: to lose it is no end.
    process.unless_gone(intent, |process| async move { process.modify(&close_stdin()).await }).await.map(drop)
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
