//! What is plugged into a VM: disks, layers, shares, pipes, devices, networks.
//!
//! | module | concept |
//! | --- | --- |
//! | `machine` | the state of each thing: shared attaches, counts, removal, what is left when that fails; without I/O |
//! | `plan` | how a thing is plugged in and unplugged, and undone |
//! | `table` | what is asked for, matched with what is there; places |
//! | `held` | a caller's count of a thing |
//! | `scsi`, `vpmem`, `plan9`, `pipe`, `layers`, `vpci`, `network`, `share` | the kinds |

mod error;
mod held;
mod layers;
mod machine;
mod network;
mod pipe;
mod places;
mod plan;
mod plan9;
mod scsi;
mod share;
mod table;
mod vpci;
mod vpmem;

pub use error::ResourceError;
pub use layers::CombinedLayers;
pub use network::NetworkEndpoints;
pub use pipe::PipeMount;
pub use plan9::{Plan9Share, Plan9ShareOptions};
pub use scsi::{ScsiDisk, ScsiMount};
pub use share::Share;
pub use vpci::VpciDevice;
pub use vpmem::VpmemMount;

pub(crate) use held::Held;
pub(crate) use machine::{Effect, EntryId};
pub(crate) use plan::{AttachFailed, Connection, DetachFailed, Ends, Plan, Step};
pub(crate) use table::{Attached, Effects, Key, Limits, Table, Waiter, Wanted};
