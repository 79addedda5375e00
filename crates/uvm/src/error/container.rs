//! How making and using a container fails.

use uvm_platform::PlatformError;

use crate::bridge::BridgeError;

/// Why something about a container failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContainerError {
    /// The id cannot be that of a container.
    #[error(transparent)]
    Id(uvm_wire::ids::InvalidContainerId),
    /// This VM has a container with this id, whose handle is open.
    #[error("it already exists")]
    Exists,
    /// What describes it, or a part of it, is no JSON object. The guest was not asked.
    #[error("its {what} must be a JSON object")]
    Document {
        /// Which document: "specification", ...
        what: &'static str,
        /// What it is.
        source: uvm_wire::JsonError,
    },
    /// The specification lacks something without which no agent can make a container, and some fail themselves. The
    /// guest was not asked.
    #[error("its specification has no object {missing:?}")]
    Incomplete {
        /// The key.
        missing: &'static str,
    },
    /// The guest answered with something that was not asked for.
    #[error("the guest's answer makes no sense")]
    Answer(#[source] uvm_wire::JsonError),
    /// The guest refused, or did not answer.
    #[error(transparent)]
    Guest(BridgeError),
    /// The host's service, which holds the guest connection, refused, or did not answer.
    #[error(transparent)]
    Host(Box<PlatformError>),
}
