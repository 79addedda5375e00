//! Calls about a container or the VM as a whole: start, shutdown, clean-up, limits, stacks.

use serde::{Deserialize, Serialize};

use crate::call::{Reply, sealed::Sealed};
use crate::json::{RawJson, cut_text, escaped_len, text};

/// Starts a container. A no-op in Linux guests, which start it with
/// [`ExecuteProcess`](crate::execute::ExecuteProcess); it succeeds even for an id nobody knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {}

/// Sends SIGTERM to a container's init process, or powers the VM off.
///
/// The answer does not wait for the exit. The VM itself never answers: the connection drops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShutdownGraceful {}

/// Sends SIGKILL to a container's init process, or powers the VM off.
///
/// The answer does not wait for the exit. The VM itself never answers: the connection drops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShutdownForced {}

/// Forgets a container that has ended; only then its id is free again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteContainerState {}

/// Changes a container's limits. Agents of January 2021, if they announce
/// [`update_container`](crate::negotiate::GuestDefinedCapabilities::update_container).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpdateContainer {
    /// The `linux.resources` of an OCI specification. A request without them is a generic failure.
    #[serde(rename = "Resources", with = "text::optional", skip_serializing_if = "Option::is_none")]
    pub resources: Option<RawJson>,
}

/// Asks the agent for its own stacks. Sent with the id of the VM; an agent does not look at the body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DumpStacks {}

/// Answers [`DumpStacks`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DumpStacksReply {
    /// The stacks, in whatever form the agent has them. The end is cut off where a response has no room for it.
    #[serde(rename = "GuestStacks")]
    pub guest_stacks: String,
}

impl Sealed for DumpStacksReply {}

impl Reply for DumpStacksReply {
    fn shrink(&mut self, excess: usize) -> bool {
        let length = escaped_len(&self.guest_stacks);
        cut_text(&mut self.guest_stacks, length.saturating_sub(excess))
    }
}
