//! How a run ended, and the exit code for it.

use uvm::ProcessExit;

use crate::report;

/// How a run ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The command ended.
    Exit(ProcessExit),
    /// This program was told to end by this signal.
    Signal(i32),
    /// The time was up.
    TimedOut,
    /// There is no such command.
    NotFound,
    /// The command cannot be run.
    NotExecutable,
    /// The VM could not be had. It has been said why.
    Failed,
}

impl End {
    /// Says why, too.
    pub(crate) fn failed(error: &(dyn std::error::Error + 'static)) -> Self {
        report::error(error);
        Self::Failed
    }

    /// The exit code, as container tools have it.
    pub(crate) fn code(&self) -> i32 {
        match self {
            // What a Linux process gives is 8 bits wide.
            Self::Exit(ProcessExit::Code(code)) => i32::try_from(*code).unwrap_or(255),
            Self::Exit(ProcessExit::Signal(Some(signal))) => i32::try_from(128 + signal).unwrap_or(255),
            Self::Exit(ProcessExit::Signal(None)) => {
                report::note("the command was killed by a signal; the guest's agent cannot tell by which");
                255
            }
            Self::Signal(signal) => 128 + signal,
            Self::TimedOut => {
                report::note("the time is up");
                124
            }
            Self::NotFound => 127,
            Self::NotExecutable => 126,
            Self::Failed => report::FAILED,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_container_tools() {
        for (end, code) in [
            (End::Exit(ProcessExit::Code(0)), 0),
            (End::Exit(ProcessExit::Code(42)), 42),
            (End::Exit(ProcessExit::Signal(Some(9))), 137),
            (End::Exit(ProcessExit::Signal(None)), 255),
            (End::Signal(2), 130),
            (End::TimedOut, 124),
            (End::Failed, 125),
            (End::NotExecutable, 126),
            (End::NotFound, 127),
        ] {
            assert_eq!(end.code(), code, "{end:?}");
        }
    }
}
