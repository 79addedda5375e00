//! How a host fails.

use std::error::Error as StdError;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use crate::capabilities::Feature;
use crate::hosted::GuestFault;
use crate::id::UvmId;
use crate::vm::ExitStatus;

/// A cause of any type. Clones share it.
#[derive(Clone)]
pub struct Cause(Arc<dyn StdError + Send + Sync>);

impl Cause {
    /// Takes an error, or a text.
    pub fn new(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self(cause.into().into())
    }
}

impl Deref for Cause {
    type Target = dyn StdError + Send + Sync;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Why a host could not do something. The variant's doc says in what state things are left. Whoever waits for the same
/// thing gets a clone.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlatformError {
    /// The host cannot do this at all. Nothing was changed.
    #[error("{feature}: not supported on {platform}: {why}")]
    Unsupported {
        /// What was asked for.
        feature: Feature,
        /// The host's name.
        platform: &'static str,
        /// Why it cannot be had here.
        why: String,
    },
    /// Another VM with this id is there. Nothing was changed.
    #[error("a utility VM {id} already exists ({holder})")]
    AlreadyExists {
        /// The id that is taken.
        id: UvmId,
        /// Who holds it, as far as is known.
        holder: String,
    },
    /// Something the caller gave cannot be used. Nothing was changed.
    #[error("{what} {value:?} cannot be used: {why}")]
    BadInput {
        /// What kind of thing it is: `kernel`, `console socket`.
        what: &'static str,
        /// The value given.
        value: String,
        /// What is wrong with it, and what is allowed.
        why: String,
    },
    /// The host refused or failed. What was begun has been undone.
    #[error("cannot {intent}")]
    Host {
        /// What was tried, as the object of "cannot".
        intent: String,
        /// The host's own words.
        source: Cause,
    },
    /// The host's service, which holds the guest connection, refused or failed at a container or a process in the guest.
    /// What was begun has been undone.
    #[error("cannot {intent}")]
    InGuest {
        /// What was tried, as the object of "cannot".
        intent: String,
        /// What kind of failure it is.
        fault: GuestFault,
        /// The service's own words.
        source: Cause,
    },
    /// The host did not answer in time. The operation may yet take effect; the VM is still there.
    #[error("{what}: no answer within {waited:?}{last_words}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        waited: Duration,
        /// What the VM did meanwhile.
        last_words: Box<LastWords>,
    },
    /// The VM is not running any more. It can only be closed.
    #[error("{what}: the VM has ended: {status}{last_words}")]
    Ended {
        /// What was tried.
        what: String,
        /// How the VM ended.
        status: ExitStatus,
        /// What it said last.
        last_words: Box<LastWords>,
    },
    /// Its owner has not allowed it. Nothing was changed.
    #[error("{intent} is not allowed: {why}")]
    NotAllowed {
        /// What was tried.
        intent: String,
        /// What would allow it.
        why: String,
    },
    /// The request does not fit the VM's state. Nothing was changed.
    #[error("cannot {intent}: the VM is {state}")]
    WrongState {
        /// What was tried, as the object of "cannot".
        intent: &'static str,
        /// The state it is in.
        state: &'static str,
    },
}

impl PlatformError {
    /// The error of a VM that has no device for virtual sockets at the moment.
    pub fn no_virtual_sockets(platform: &'static str) -> Self {
        let why = "the VM has no device for them; ask for it in its options, or add it".into();
        Self::Unsupported { feature: Feature::VirtualSockets, platform, why }
    }

    /// A [`PlatformError::Host`] with its cause.
    pub fn host(intent: impl Into<String>, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Host { intent: intent.into(), source: Cause::new(source) }
    }
}

/// What a VM said and did before something went wrong: the tail of every message that blames it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LastWords {
    /// How far the VM had come, e.g. "QEMU runs, the guest's kernel has printed nothing".
    pub phase: Option<String>,
    /// The last lines of the host process's own error output.
    pub host_output: Vec<String>,
    /// The last lines of the guest's console.
    pub console: Vec<String>,
}

impl fmt::Display for LastWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(phase) = &self.phase {
            write!(f, "; {phase}")?;
        }
        for (name, lines) in [("its host process said", &self.host_output), ("its console ends with", &self.console)] {
            if !lines.is_empty() {
                write!(f, "; {name}:")?;
                for line in lines {
                    write!(f, "\n    {line}")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_keeps_its_type_in_a_clone() {
        let error = PlatformError::host("look", std::io::Error::from(std::io::ErrorKind::NotFound)).clone();
        let cause = error.source().and_then(|cause| cause.downcast_ref::<std::io::Error>());
        assert_eq!(cause.map(std::io::Error::kind), Some(std::io::ErrorKind::NotFound));
        assert_eq!(error.to_string(), "cannot look");
        let text = PlatformError::host("look", "it is dark");
        assert_eq!(text.source().map(ToString::to_string).as_deref(), Some("it is dark"));
    }

    #[test]
    fn last_words_are_quoted_only_when_there_are_any() {
        assert_eq!(LastWords::default().to_string(), "");
        let words = LastWords {
            phase: Some("the kernel is booting".into()),
            host_output: vec![],
            console: vec!["Kernel panic".into(), "---".into()],
        };
        assert_eq!(words.to_string(), "; the kernel is booting; its console ends with:\n    Kernel panic\n    ---");
    }
}
