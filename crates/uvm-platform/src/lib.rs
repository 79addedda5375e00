//! What a host of utility VMs offers to the library above it.
//!
//! A host (QEMU on Linux, the Host Compute Service on Windows, [`fake::FakePlatform`] in tests) implements
//! [`Platform`] and [`PlatformVm`]. Both are dyn-compatible, so that a program picks its host at run time and no public
//! type above is generic over it. What crosses this border is typed values, no QMP or HRESULT; JSON only where a host's
//! service passes on what the guest is told, in the guest's words.
//!
//! | module | concept |
//! | --- | --- |
//! | [`id`] | the checked identifier of a VM |
//! | [`spec`], [`windows`] | the VM to create: memory, processors, boot, console |
//! | [`files`] | what guests boot from, by the ways of the host |
//! | [`hosted`] | containers and processes by way of a host's service that holds the guest connection |
//! | [`requests`] | what is plugged into a running VM, changed, unplugged |
//! | [`network`] | namespaces and endpoints of a host's networks |
//! | [`capabilities`] | what a host can do, asked before it is tried |
//! | [`deadlines`] | the longest waits, one per kind of operation |
//! | [`vm`] | the traits a host implements, life-cycle events |
//! | [`hvsocket`] | which ports of virtual sockets may be used, and from which side |
//! | [`VmThread`] | the thread a VM's own I/O runs on |
//! | [`stream`] | byte streams between host and guest, by port |
//! | [`transport`] | the seam under those streams |
//! | [`error`] | how a host fails |
//! | [`fake`] | a host in memory, with planted faults |

pub mod capabilities;
pub mod deadlines;
pub mod error;
pub mod fake;
mod figures;
pub mod files;
pub mod hosted;
pub mod hvsocket;
pub mod id;
pub mod network;
pub mod requests;
pub mod spec;
pub mod stream;
pub mod transport;
pub mod vm;
mod vm_thread;
pub mod windows;

pub use capabilities::{Capabilities, CgroupSupport, Feature, VpmemLimits};
pub use deadlines::Deadlines;
pub use error::{LastWords, PlatformError};
pub use files::{FileKind, LocalFiles, PlatformFiles};
pub use hosted::{
    ContainerCommand, ContainerExit, GuestFault, HostedGuest, NewContainer, NewProcess, PlatformContainer,
    PlatformProcess, ProcessStdio,
};
pub use hvsocket::{HvSocketServiceConfig, HvSocketServiceId};
pub use id::{InvalidUvmId, UvmId};
pub use network::{Endpoint, PlatformNetwork};
pub use spec::VmSpec;
pub use stream::{GuestListener, GuestStream, Port};
pub use transport::{GuestTransport, Link};
pub use vm::{
    Accelerator, CreatedVm, ExitStatus, HostGuestConnection, MemoryStatistics, Platform, PlatformVm, VmEvent, VmEvents,
    VmProperties, VmStatistics,
};
pub use vm_thread::VmThread;
pub use windows::WcowSpec;

/// A boxed future that may borrow from its caller: what makes the host traits dyn-compatible.
pub type BoxFuture<'a, T> = futures_core::future::BoxFuture<'a, T>;
