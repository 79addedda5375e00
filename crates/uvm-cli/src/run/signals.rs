//! The signals that are passed on.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGWINCH: not passed on, but told as a new size.
pub(crate) const WINDOW_CHANGED: i32 = 28;

const HANGUP: i32 = 1;
const INTERRUPT: i32 = 2;
const QUIT: i32 = 3;
const USER_1: i32 = 10;
const USER_2: i32 = 12;
const TERMINATE: i32 = 15;

/// Whether a signal is meant to end the program that gets it.
pub(crate) fn ends_by_default(number: i32) -> bool {
    [HANGUP, INTERRUPT, QUIT, TERMINATE].contains(&number)
}

/// All signals that are passed on, watched from now on.
pub(crate) struct Signals {
    watched: Vec<(i32, Signal)>,
}

impl Signals {
    pub(crate) fn watch() -> io::Result<Self> {
        let numbers = [HANGUP, INTERRUPT, QUIT, USER_1, USER_2, TERMINATE, WINDOW_CHANGED];
        let watched = numbers
            .into_iter()
            .map(|number| Ok((number, signal(SignalKind::from_raw(number))?)))
            .collect::<io::Result<_>>()?;
        Ok(Self { watched })
    }

    /// The next signal. Cancel-safe.
    pub(crate) async fn next(&mut self) -> i32 {
        std::future::poll_fn(|cx| {
            for (number, signal) in &mut self.watched {
                if signal.poll_recv(cx).is_ready() {
                    return std::task::Poll::Ready(*number);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}
