//! How a start fails: how far it came, and why.

use std::time::Duration;

use uvm_platform::{ExitStatus, PlatformError};

use crate::bridge::BridgeError;

/// How far a start came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartPhase {
    /// The host powers it on.
    PowerOn,
    /// The guest boots, until its init asks for entropy.
    Entropy,
    /// The guest boots, until its agent connects its log.
    Log,
    /// The guest boots, until its agent connects the bridge.
    Bridge,
    /// Host and guest agree on the protocol, the guest brings its processors online.
    Negotiation,
}

impl std::fmt::Display for StartPhase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::PowerOn => "the host did not power it on",
            Self::Entropy => "its init did not connect for entropy",
            Self::Log => "its agent did not connect its log",
            Self::Bridge => "its agent did not connect",
            Self::Negotiation => "its agent did not complete the handshake",
        })
    }
}

/// Why a start failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The time given to all of the start has passed.
    #[error("not done within {0:?}")]
    Timeout(Duration),
    /// The VM ended.
    #[error("the VM ended: {0}")]
    Exited(ExitStatus),
    /// It was terminated or closed meanwhile.
    #[error("it was given up meanwhile")]
    Cancelled,
    /// The host failed.
    #[error(transparent)]
    Host(PlatformError),
    /// A stream to the guest broke.
    #[error("the connection broke")]
    Io(#[source] std::io::Error),
    /// The guest did not answer as it must.
    #[error(transparent)]
    Bridge(BridgeError),
    /// The guest chose a protocol that was not offered.
    #[error(transparent)]
    Version(uvm_wire::negotiate::UnexpectedVersion),
    /// The agent in the boot files is not of this library's version.
    #[error("the boot files hold agent version {theirs:?}, this library needs {ours:?}: make them anew")]
    AgentVersion {
        /// What the library needs.
        ours: &'static str,
        /// What the boot files hold; empty for an agent that does not say, as the original.
        theirs: String,
    },
}
