//! Which request is allowed in which state: a pure table.
//!
//! ```text
//!             start            started
//!  Created ---------> Starting --------> Running ----> Broken (its transport or its bridge is lost)
//!     |                  |                  |             |
//!     |                  +--- terminate, failed start, end of the VM
//!     |                                     v             |
//!     +------------------------------->  Ended <----------+
//!                                           | close (also from any other state, by way of terminate)
//!                                           v
//!                            Closing ---> Closed
//! ```

use std::fmt;

/// Where a VM is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    Created,
    Starting,
    Running,
    Broken,
    Ended,
    Closing,
    Closed,
}

/// What can be asked of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Ask {
    Start,
    /// Anything that needs the running guest.
    Use,
    /// Pause, resume: the host only.
    Host,
    /// Give the VM a device or take one, before its guest boots or while it runs.
    Plug,
    Shutdown,
    Terminate,
    Close,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Do it.
    Go,
    /// Nothing is left to do.
    Done,
    /// It is being done: share the outcome.
    Join,
    /// No.
    Refuse(Refusal),
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// It has not been started.
    NotStarted,
    /// It is being started.
    Starting,
    /// It was started already.
    AlreadyStarted,
    /// Its connection to the guest is lost: it can only be terminated and closed.
    Broken,
    /// It has ended.
    Ended,
    /// It has not ended.
    NotEnded,
    /// It is closed, or being closed.
    Closed,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotStarted => "it has not been started",
            Self::Starting => "it is still starting",
            Self::AlreadyStarted => "it was started already",
            Self::Broken => "its connection to the guest is lost, it can only be terminated",
            Self::Ended => "it has ended",
            Self::NotEnded => "it has not ended",
            Self::Closed => "it is closed",
        })
    }
}

/// The table.
#[expect(clippy::match_same_arms, reason = "a line for each thing to know")]
pub(crate) fn admit(phase: Phase, ask: Ask) -> Verdict {
    use Verdict::{Done, Go, Join, Refuse};
    match (phase, ask) {
        (Phase::Created, Ask::Start) => Go,
        (Phase::Starting | Phase::Running | Phase::Broken, Ask::Start) => Refuse(Refusal::AlreadyStarted),

        (Phase::Running, Ask::Use | Ask::Host | Ask::Plug | Ask::Shutdown) => Go,
        (Phase::Broken, Ask::Host) => Go,
        (Phase::Created, Ask::Plug) => Go,
        (Phase::Created, Ask::Use | Ask::Host | Ask::Shutdown) => Refuse(Refusal::NotStarted),
        (Phase::Starting, Ask::Use | Ask::Host | Ask::Plug | Ask::Shutdown) => Refuse(Refusal::Starting),
        (Phase::Broken, Ask::Use | Ask::Plug | Ask::Shutdown) => Refuse(Refusal::Broken),

        (Phase::Created | Phase::Starting | Phase::Running | Phase::Broken, Ask::Terminate | Ask::Close) => Go,

        (Phase::Ended, Ask::Start | Ask::Use | Ask::Host | Ask::Plug) => Refuse(Refusal::Ended),
        (Phase::Ended, Ask::Shutdown) => Done,
        // The host may hold something for it as long as it is not closed.
        (Phase::Ended, Ask::Terminate | Ask::Close) => Go,
        (Phase::Closing | Phase::Closed, Ask::Shutdown | Ask::Terminate) => Done,
        (Phase::Closing, Ask::Close) => Join,
        (Phase::Closed, Ask::Close) => Done,
        (Phase::Closing | Phase::Closed, Ask::Start | Ask::Use | Ask::Host | Ask::Plug) => Refuse(Refusal::Closed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_table() {
        use Phase::{Broken, Closed, Closing, Created, Ended, Running, Starting};
        use Refusal as R;
        use Verdict::{Done, Go, Join, Refuse};
        // Columns: start, use, host, plug, shutdown, terminate, close.
        let refused =
            |start: R, other: R| [Refuse(start), Refuse(other), Refuse(other), Refuse(other), Refuse(other), Go, Go];
        let not_started = Refuse(R::NotStarted);
        let closed = Refuse(R::Closed);
        let table = [
            (Created, [Go, not_started, not_started, Go, not_started, Go, Go]),
            (Starting, refused(R::AlreadyStarted, R::Starting)),
            (Running, [Refuse(R::AlreadyStarted), Go, Go, Go, Go, Go, Go]),
            (Broken, [Refuse(R::AlreadyStarted), Refuse(R::Broken), Go, Refuse(R::Broken), Refuse(R::Broken), Go, Go]),
            (Ended, [Refuse(R::Ended), Refuse(R::Ended), Refuse(R::Ended), Refuse(R::Ended), Done, Go, Go]),
            (Closing, [closed, closed, closed, closed, Done, Done, Join]),
            (Closed, [closed, closed, closed, closed, Done, Done, Done]),
        ];
        let asks = [Ask::Start, Ask::Use, Ask::Host, Ask::Plug, Ask::Shutdown, Ask::Terminate, Ask::Close];
        for (phase, row) in table {
            for (ask, verdict) in asks.into_iter().zip(row) {
                assert_eq!(admit(phase, ask), verdict, "{phase:?} {ask:?}");
            }
        }
    }
}
