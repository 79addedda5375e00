//! What is plugged into a VM: disks, layers, shares, pipes, devices, networks.
//!
//! | module | concept |
//! | --- | --- |
//! | `machine` | the state of each thing: shared attaches, counts, removal, what is left when that fails; without I/O |
//! | `effect`, `counts` | what the machine wants done; who has which part of a thing |
//! | `plan` | how a thing is plugged in and unplugged, and undone |
//! | `wanted`, `limits` | what is asked for, and what tells things apart; what the VM was created with |
//! | `table` | what is asked for, matched with what is there; places; what is nobody's any more |
//! | `waiter` | who waits for a thing or its end, and what follows |
//! | `held`, `owner` | a caller's count of a thing; whose it is while it is given back |
//! | `scsi`, `disk_options`, `resize`, `vpmem`, `plan9`, `virtio_fs`, `vsmb`, `pipe`, `layers`, `vpci`, `network`, `share` | the kinds |

mod counts;
mod disk_options;
mod effect;
mod error;
mod held;
mod layers;
mod limits;
mod machine;
mod network;
mod owner;
mod pipe;
mod places;
mod plan;
mod plan9;
mod resize;
mod scsi;
mod share;
mod table;
mod virtio_fs;
mod vpci;
mod vpmem;
mod vsmb;
mod waiter;
mod wanted;

pub use disk_options::{FileSystem, ScsiDisk};
pub use error::ResourceError;
pub use layers::CombinedLayers;
pub use network::NetworkEndpoints;
pub use pipe::{ContainerPipeMapping, PipeMount, is_pipe};
pub use plan9::{Plan9Share, Plan9ShareOptions};
pub use resize::Grow;
pub use scsi::ScsiMount;
pub use share::{Share, ShareKind, ShareOptions, ShareWay};
pub use vpci::VpciDevice;
pub use vpmem::{LayerMechanism, VpmemMount};
pub use vsmb::VsmbShare;

pub(crate) use effect::{Effect, EntryId};
pub(crate) use held::{Granted, Held};
pub(crate) use limits::Limits;
pub(crate) use owner::Owner;
pub(crate) use plan::{AttachFailed, Connection, DetachFailed, Ends, Plan, Step};
pub(crate) use table::{Attached, Effects, Table, Told};
pub(crate) use waiter::{Count, Waiter};
pub(crate) use wanted::{Key, Wanted};
