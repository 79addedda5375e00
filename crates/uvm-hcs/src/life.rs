//! Where a VM is in its life, and how it ended.
//!
//! ```text
//! created --start--> running <--pause/resume--> paused      each through `changing`, while the service is at it
//!    |                  |                          |
//!    +------------------+-- the service tells -----+--> ended
//! ```

use serde::Deserialize;
use uvm_platform::ExitStatus;
use uvm_wire::Hresult;

use crate::host::{HcsError, Notification};

/// Where a VM is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Created,
    Running,
    Paused,
    /// The service is taking it from one state to another.
    Changing,
    Ended(ExitStatus),
}

impl Life {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Created => "not started",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Changing => "between two states",
            Self::Ended(_) => "gone",
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        matches!(self, Self::Ended(_))
    }
}

/// What is known besides the service's word when a VM ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Evidence {
    /// Its owner had it terminated.
    pub(crate) terminated: bool,
    /// Its guest began to crash.
    pub(crate) crashed: bool,
    /// The service itself is gone: it would answer nothing.
    pub(crate) service_lost: bool,
}

/// How a VM ended, by what the service told of it.
pub(crate) fn classify(exit: &Notification, evidence: Evidence) -> ExitStatus {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    struct Told {
        exit_type: String,
    }
    let told: Told = serde_json::from_str(&exit.data).unwrap_or_default();
    if evidence.crashed {
        return ExitStatus::Panicked;
    }
    if evidence.terminated {
        return ExitStatus::Terminated;
    }
    match exit.status {
        HcsError::UNEXPECTED_EXIT => ExitStatus::Abnormal(format!("it exited unexpectedly ({})", exit.status)),
        Hresult::OK if told.exit_type == "UnexpectedExit" => ExitStatus::Abnormal("it exited unexpectedly".into()),
        Hresult::OK => ExitStatus::PoweredOff,
        code => ExitStatus::Abnormal(format!("the compute service ended it with {code}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::NotificationKind;

    #[test]
    fn d30_an_abnormal_end_is_told_apart() {
        let exit = |bits, data: &str| {
            let data = data.to_owned();
            Notification { data, ..Notification::new(NotificationKind::SystemExited, Hresult::from_bits(bits)) }
        };
        let by_itself = Evidence::default();
        let terminated = Evidence { terminated: true, ..by_itself };
        let crashed = Evidence { crashed: true, ..terminated };
        let abnormal = |why: &str| ExitStatus::Abnormal(why.into());
        for (exit, evidence, status) in [
            (exit(0, ""), by_itself, ExitStatus::PoweredOff),
            (exit(0, r#"{"ExitType":"GracefulExit"}"#), by_itself, ExitStatus::PoweredOff),
            (exit(0, r#"{"ExitType":"UnexpectedExit"}"#), by_itself, abnormal("it exited unexpectedly")),
            (exit(0xc037_0106, "nonsense"), by_itself, abnormal("it exited unexpectedly (0xc0370106)")),
            (exit(0x8007_0005, ""), by_itself, abnormal("the compute service ended it with 0x80070005")),
            (exit(0xc037_0106, ""), terminated, ExitStatus::Terminated),
            (exit(0, ""), crashed, ExitStatus::Panicked),
        ] {
            assert_eq!(classify(&exit, evidence), status, "{exit:?} {evidence:?}");
        }
    }
}
