//! The task that reads the channel, and waits when it is full.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use crate::channel::Channel;
use crate::error::Down;
use crate::shared::{Shared, channel_failed};

/// Bytes that are read before others get their turn: with more, those who read streams fall behind, and what waits for
/// them takes memory that has to be got and given back each time.
const BYTES_PER_TURN: usize = 64 * 1024;

/// Runs a link. Spawn it: nothing moves without it. It ends, with the reason, when the link is down for good; dropping
/// it takes the link down. It never waits for a stream, and works for at most 64 KiB before it lets other tasks run.
/// Streams can be used on any runtime; on the driver's own a message costs one hop between threads less.
#[must_use = "nothing is received while the driver does not run"]
pub struct Driver {
    shared: Arc<Shared>,
    channel: Arc<dyn Channel>,
    /// What is read lands here. Without memory until the first read.
    buffer: Vec<u8>,
}

impl Driver {
    pub(crate) fn new(shared: Arc<Shared>, channel: Arc<dyn Channel>) -> Self {
        Self { shared, channel, buffer: Vec::new() }
    }

    /// Sends all there is, as far as the channel takes it; wakes the task when it takes more.
    fn send(&self, cx: &mut Context<'_>) {
        let mut room = false;
        while self.shared.drive(cx.waker(), room) {
            match self.channel.poll_write_ready(cx) {
                Poll::Pending => return,
                Poll::Ready(Ok(())) => room = true,
                Poll::Ready(Err(error)) => return self.fail(&error),
            }
        }
    }

    fn dead(&self) -> Option<Down> {
        self.shared.peek(|connection| connection.dead().cloned())
    }

    fn fail(&self, error: &io::Error) {
        self.shared.with(|connection| connection.fail(channel_failed(error)));
    }

    /// Reads once, adds to `total`, and tells whether there may be more.
    fn poll_reading(&mut self, cx: &mut Context<'_>, total: &mut usize) -> Poll<More> {
        if let Err(error) = ready!(self.channel.poll_read_ready(cx)) {
            self.fail(&error);
            return Poll::Ready(More::Unlikely);
        }
        if self.buffer.is_empty() {
            self.buffer = vec![0; self.channel.read_size()];
        }
        match self.channel.try_read(&mut self.buffer) {
            Ok(0) => {
                let reopens = self.channel.reopens();
                self.shared
                    .with(|connection| if reopens { connection.hang_up() } else { connection.end(Down::Closed) });
            }
            Ok(n) => {
                let bytes = &self.buffer[..n];
                self.shared.with(|connection| connection.receive(bytes));
                *total += n;
                return Poll::Ready(if n < self.buffer.len() { More::Unlikely } else { More::Likely });
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => self.fail(&error),
        }
        Poll::Ready(More::Likely)
    }
}

/// Whether a further read would find something.
enum More {
    Likely,
    /// A look is needed, but it can wait until those who were woken have had their turn.
    Unlikely,
}

impl Future for Driver {
    type Output = Down;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Down> {
        let mut total = 0;
        while total < BYTES_PER_TURN {
            let more = match self.poll_reading(cx, &mut total) {
                Poll::Ready(more) => more,
                Poll::Pending => {
                    self.send(cx);
                    return self.dead().map_or(Poll::Pending, Poll::Ready);
                }
            };
            if let Some(why) = self.dead() {
                return Poll::Ready(why);
            }
            // A channel that knows it is empty says so without a look.
            if let More::Unlikely = more
                && self.channel.poll_read_ready(cx).is_ready()
            {
                break;
            }
        }
        // Others first. What they have to send goes with this task's next turn.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let why = if std::thread::panicking() { Down::Panicked } else { Down::ClosedHere };
        self.shared.with(|connection| connection.end(why));
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").finish_non_exhaustive()
    }
}
