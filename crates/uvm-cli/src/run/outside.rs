//! What ends a run from outside: signals and the time limit, watched from the beginning of the run to its end.

use std::cell::RefCell;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::end::End;
use super::signals::{self, Signals};

/// A process may ignore the signals it gets; after so many, the VM is ended.
const INSISTENCE: u32 = 3;
/// Signals that wait for the guest to take them. More are merged, as a kernel does it.
const QUEUE: usize = 16;

/// What ends a run from outside.
pub(crate) struct Outside {
    signals: Signals,
    deadline: Option<Instant>,
}

impl Outside {
    pub(crate) fn new(signals: Signals, deadline: Option<Instant>) -> Self {
        Self { signals, deadline }
    }

    /// Waits for the end of the run. Until then signals go where `passing` says. Cancel-safe.
    pub(crate) async fn ends(&mut self, passing: &Passing) -> End {
        let deadline = self.deadline;
        let time_is_up = async move {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = time_is_up => End::TimedOut,
            signal = told_to_end(&mut self.signals, passing) => End::Signal(signal),
        }
    }

    /// Waits for another signal that ends the run; the time limit is over, or no matter any more. Cancel-safe.
    pub(crate) async fn is_told_to_end(&mut self, passing: &Passing) {
        told_to_end(&mut self.signals, passing).await;
    }
}

async fn told_to_end(signals: &mut Signals, passing: &Passing) -> i32 {
    loop {
        let signal = signals.next().await;
        if passing.ends_run(signal) {
            return signal;
        }
    }
}

/// Where signals go: to the command while it runs, else to this program. Never waits for the guest.
#[derive(Default)]
pub(crate) struct Passing(RefCell<Option<ToCommand>>);

struct ToCommand {
    signals: mpsc::Sender<i32>,
    insisted: u32,
}

impl Passing {
    /// The command runs: it gets the signals from what is returned.
    pub(crate) fn begin(&self) -> mpsc::Receiver<i32> {
        let (signals, receiver) = mpsc::channel(QUEUE);
        *self.0.borrow_mut() = Some(ToCommand { signals, insisted: 0 });
        receiver
    }

    /// The command has ended.
    pub(crate) fn end(&self) {
        *self.0.borrow_mut() = None;
    }

    /// Whether the run ends by this signal; if not, it was passed on or is of no use to anyone.
    fn ends_run(&self, signal: i32) -> bool {
        let mut to = self.0.borrow_mut();
        let Some(to) = &mut *to else { return signals::ends_by_default(signal) };
        if signals::ends_by_default(signal) {
            to.insisted += 1;
            if to.insisted >= INSISTENCE {
                return true;
            }
        }
        if to.signals.try_send(signal).is_err() {
            tracing::debug!(signal, "the guest does not take signals: this one is merged with those that wait");
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INT: i32 = 2;
    const USER_1: i32 = 10;
    const TERM: i32 = 15;

    #[test]
    fn without_a_command_the_first_signal_that_can_end_a_program_does() {
        let passing = Passing::default();
        assert!(!passing.ends_run(USER_1));
        assert!(!passing.ends_run(signals::WINDOW_CHANGED));
        assert!(passing.ends_run(INT));
        let _signals = passing.begin();
        passing.end();
        assert!(passing.ends_run(TERM), "after the command's end, too");
    }

    #[test]
    fn insistence_is_counted_while_the_guest_takes_nothing() {
        let passing = Passing::default();
        let mut signals = passing.begin();
        for _ in 0..100 {
            assert!(!passing.ends_run(USER_1), "what cannot end a program does not insist");
        }
        assert_eq!([INT, TERM, INT].map(|signal| passing.ends_run(signal)), [false, false, true]);
        let mut waiting = Vec::new();
        while let Ok(signal) = signals.try_recv() {
            waiting.push(signal);
        }
        assert_eq!(waiting, [USER_1; QUEUE], "what waits is bounded");
    }
}
