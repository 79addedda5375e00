//! A host of utility VMs on Windows: the Host Compute Service.
//!
//! What the service is sent is made by pure functions, on every system; a dry run needs no Windows:
//!
//! ```
//! use uvm_hcs::WindowsBuild;
//! use uvm_hcs::document::modify::modify;
//! use uvm_platform::requests::{Change, Device, VpmemDevice};
//!
//! let layer = Device::Vpmem(VpmemDevice::new(1, r"C:\layers\base.vhdx"));
//! let request = modify(&Change::Add(layer), None, WindowsBuild(19041))?;
//! assert!(request.contains(r#""ImageFormat":"Vhdx""#));
//! # Ok::<(), uvm_hcs::document::DocumentError>(())
//! ```
//!
//! | module | concept |
//! | --- | --- |
//! | [`win_path`] | paths of a Windows host, on every system |
//! | [`windows_build`] | what a build of Windows knows |
//! | [`document`] | from typed values to the service's documents, and back from its answers |
//! | [`host`] | what is needed of a Windows host, as traits |
//! | [`HcsPlatform`], [`HcsVm`] | the service as a host of utility VMs |
//! | `ComputeCore` | the service of this machine (Windows only) |
//! | `recording` | such a host in memory, which keeps every call (feature `recording`) |

#[cfg(any(windows, test))]
mod blocking_stream;
#[cfg(windows)]
mod compute_core;
mod create;
pub mod document;
mod files;
mod home;
pub mod host;
mod life;
mod network;
mod platform;
mod ports;
#[cfg(any(test, feature = "recording"))]
pub mod recording;
mod scratch;
#[cfg(test)]
mod test_spec;
mod vm;
pub mod win_path;
pub mod windows_build;

#[cfg(windows)]
pub use compute_core::ComputeCore;
pub use platform::HcsPlatform;
pub use vm::{Access, HcsVm};
pub use win_path::WinPath;
pub use windows_build::WindowsBuild;

/// The host's name in messages.
const PLATFORM: &str = "hcs";
