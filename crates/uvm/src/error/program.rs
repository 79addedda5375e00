//! How starting a program fails.

use std::time::Duration;

use uvm_platform::PlatformError;

use crate::bridge::BridgeError;

/// Why a program could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// The guest refused, or did not answer.
    #[error(transparent)]
    Guest(BridgeError),
    /// The host's service, which holds the guest connection, refused, or did not answer.
    #[error(transparent)]
    Host(PlatformError),
    /// A port for its standard streams cannot be opened.
    #[error("no port for its {stream}")]
    Port {
        /// Which stream.
        stream: &'static str,
        /// Why.
        source: PlatformError,
    },
    /// The guest started it but did not connect a standard stream. The process has been killed.
    #[error("the guest did not connect its {stream} within {waited:?}")]
    StreamNotDialled {
        /// Which stream.
        stream: &'static str,
        /// How long was waited.
        waited: Duration,
    },
}
