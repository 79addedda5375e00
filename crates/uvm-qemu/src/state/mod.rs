//! What a VM leaves on the host, written down before it comes to exist, so that a later command can remove it.

mod claim;
mod dir;
mod gc;
mod journal;
mod root;

pub(crate) use claim::{ClaimError, StateDir};
pub use gc::{Reclaimed, gc};
pub(crate) use journal::HostObject;
pub use root::{LiveVm, StateRoot};
