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

/// Most reads before other tasks get their turn.
const READS_PER_TURN: usize = 32;

/// Runs a link. Spawn it: nothing moves without it. It ends, with the reason, when the link is down for good; dropping
/// it takes the link down.
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

    /// Goes on writing once the channel takes more.
    fn poll_writing(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let blocked = self.shared.peek(|state| {
                if state.driver.as_ref().is_none_or(|old| !old.will_wake(cx.waker())) {
                    state.driver = Some(cx.waker().clone());
                }
                state.blocked
            });
            if !blocked {
                return Poll::Ready(());
            }
            match ready!(self.channel.poll_write_ready(cx)) {
                Ok(()) => self.shared.peek(|state| state.blocked = false),
                Err(error) => self.shared.with(|connection| connection.fail(channel_failed(&error))),
            }
            self.shared.with(|_| ()); // writes
        }
    }

    /// Reads once. `true` if there may be more at once.
    fn poll_reading(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if self.buffer.is_empty() {
            self.buffer = vec![0; self.channel.read_size()];
        }
        if let Err(error) = ready!(self.channel.poll_read_ready(cx)) {
            self.shared.with(|connection| connection.fail(channel_failed(&error)));
            return Poll::Ready(false);
        }
        match self.channel.try_read(&mut self.buffer) {
            Ok(0) => {
                let reopens = self.channel.reopens();
                self.shared.with(|connection| {
                    connection.hang_up();
                    if !reopens {
                        connection.end(Down::Closed);
                    }
                });
                Poll::Ready(true)
            }
            Ok(n) => {
                let bytes = &self.buffer[..n];
                self.shared.with(|connection| connection.receive(bytes));
                Poll::Ready(n == self.buffer.len())
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Poll::Ready(true)
            }
            Err(error) => {
                self.shared.with(|connection| connection.fail(channel_failed(&error)));
                Poll::Ready(false)
            }
        }
    }
}

impl Future for Driver {
    type Output = Down;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Down> {
        self.shared.with(|_| ()); // the first HELLO, or what was queued while nobody ran this
        for _ in 0..READS_PER_TURN {
            let _ = self.poll_writing(cx); // reading goes on while it waits
            if let Some(why) = self.shared.peek(|state| state.connection.dead().cloned()) {
                return Poll::Ready(why);
            }
            match self.poll_reading(cx) {
                Poll::Pending => return Poll::Pending,
                // What was received is worked on first; the look for more comes after it.
                Poll::Ready(false) => break,
                Poll::Ready(true) => {}
            }
        }
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
