//! Why a document cannot be made.

use uvm_platform::{Feature, PlatformError};

use crate::PLATFORM;
use crate::windows_build::WindowsBuild;

/// Why a document cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// The host's build is too old for it.
    #[error("{feature}: not supported on builds older than {needed}; this is {build}")]
    TooOld {
        /// What was asked for.
        feature: Feature,
        /// The first build that has it.
        needed: WindowsBuild,
        /// The host's.
        build: WindowsBuild,
    },
    /// The service has no such thing.
    #[error("{feature}: {why}")]
    Missing {
        /// What was asked for.
        feature: Feature,
        /// Why it cannot be had.
        why: &'static str,
    },
    /// A value that the service does not take.
    #[error("{what} {value:?}: {why}")]
    BadValue {
        /// What it is.
        what: &'static str,
        /// The value given.
        value: String,
        /// What is allowed.
        why: &'static str,
    },
    /// The additional JSON cannot be merged.
    #[error("failed to merge additional JSON '{text}'")]
    Addition {
        /// The text given.
        text: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

impl DocumentError {
    pub(crate) fn bad(what: &'static str, value: &dyn std::fmt::Display, why: &'static str) -> Self {
        Self::BadValue { what, value: value.to_string(), why }
    }

    /// Fails on builds older than `needed`.
    pub(crate) fn require(feature: Feature, needed: WindowsBuild, build: WindowsBuild) -> Result<(), Self> {
        if build < needed { Err(Self::TooOld { feature, needed, build }) } else { Ok(()) }
    }
}

impl From<DocumentError> for PlatformError {
    fn from(error: DocumentError) -> Self {
        match error {
            DocumentError::TooOld { feature, needed, build } => Self::Unsupported {
                feature,
                platform: PLATFORM,
                why: format!("it needs build {needed}, this is {build}"),
            },
            DocumentError::Missing { feature, why } => {
                Self::Unsupported { feature, platform: PLATFORM, why: why.into() }
            }
            DocumentError::BadValue { what, value, why } => Self::BadInput { what, value, why: why.into() },
            DocumentError::Addition { text, source } => {
                Self::BadInput { what: "additional JSON", value: text, why: source.to_string() }
            }
        }
    }
}
