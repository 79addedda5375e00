//! How a VM ended, from what its process and QMP said.

use uvm_platform::ExitStatus;

use crate::spawn::ChildExit;

/// What was heard before the process ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Evidence {
    /// The reason in QMP's `SHUTDOWN` event.
    pub(crate) shutdown_reason: Option<String>,
    /// QMP told of a guest panic.
    pub(crate) panicked: bool,
    /// The owner asked for the end.
    pub(crate) terminated: bool,
}

/// The verdict. A signal of our own is the owner's doing; a clean exit is what QMP says it was.
pub(crate) fn classify(exit: ChildExit, evidence: &Evidence) -> ExitStatus {
    match (exit, evidence.shutdown_reason.as_deref()) {
        (ChildExit::Signal(9), _) if evidence.terminated => ExitStatus::Terminated,
        (ChildExit::Signal(signal), _) => ExitStatus::HostProcessKilled(signal),
        (ChildExit::Code(0), _) if evidence.panicked => ExitStatus::Panicked,
        (ChildExit::Code(0), Some("guest-shutdown")) => ExitStatus::PoweredOff,
        (ChildExit::Code(0), Some("guest-reset")) => ExitStatus::Reset,
        (ChildExit::Code(0), Some("guest-panic")) => ExitStatus::Panicked,
        (ChildExit::Code(0), Some("host-qmp-quit")) => ExitStatus::Terminated,
        (ChildExit::Code(0), Some(reason)) => ExitStatus::Abnormal(format!("its host process quit ({reason})")),
        (ChildExit::Code(code), _) => ExitStatus::HostProcessExited(code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_its_name() {
        let heard = |reason: &str, panicked, terminated| Evidence {
            shutdown_reason: Some(reason.to_owned()).filter(|reason| !reason.is_empty()),
            panicked,
            terminated,
        };
        let table = [
            (ChildExit::Code(0), heard("guest-shutdown", false, false), ExitStatus::PoweredOff),
            // The guest was quicker than our kill.
            (ChildExit::Code(0), heard("guest-shutdown", false, true), ExitStatus::PoweredOff),
            (ChildExit::Code(0), heard("guest-reset", false, false), ExitStatus::Reset),
            (ChildExit::Code(0), heard("guest-reset", true, false), ExitStatus::Panicked),
            (ChildExit::Code(0), heard("guest-panic", false, false), ExitStatus::Panicked),
            (ChildExit::Code(0), heard("host-qmp-quit", false, false), ExitStatus::Terminated),
            (ChildExit::Code(0), heard("", false, false), ExitStatus::HostProcessExited(0)),
            (ChildExit::Code(1), heard("", false, false), ExitStatus::HostProcessExited(1)),
            (ChildExit::Signal(9), heard("", false, true), ExitStatus::Terminated),
            (ChildExit::Signal(9), heard("", false, false), ExitStatus::HostProcessKilled(9)),
            (ChildExit::Signal(31), heard("", false, true), ExitStatus::HostProcessKilled(31)),
        ];
        for (exit, evidence, status) in table {
            assert_eq!(classify(exit, &evidence), status, "{exit:?} {evidence:?}");
        }
        let by_signal = classify(ChildExit::Code(0), &heard("host-signal", false, false));
        assert_eq!(by_signal.to_string(), "its host process quit (host-signal)");
    }
}
