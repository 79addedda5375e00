//! The guest's kernel and initramfs: found, downloaded, built, and kept for each user. No root is needed anywhere.
//!
//! ```no_run
//! use uvm_image::{BootFiles, BootFilesOptions};
//!
//! let files = BootFiles::ensure(&BootFilesOptions::from_env()?)?;
//! println!("boot {} with {}", files.kernel_path().display(), files.initrd_path().display());
//! # Ok::<_, uvm_image::ImageError>(())
//! ```
//!
//! Everything here blocks: call it from a thread that may.
//!
//! | module | concept |
//! | --- | --- |
//! | [`boot`] | boot files: the kernel and the initramfs of a VM |
//! | [`kernel`] | kernels: the distribution's, a trimmed one, installed or given ones |
//! | [`modules`] | kernel modules: dependencies, the choice of them, the agent's index |
//! | [`initramfs`] | the guest's root file system as a cpio archive |
//! | [`agent`], [`busybox`] | the programs in it |
//! | [`manifest`], [`sealed`] | what a directory holds, and whether it still does |
//! | `apt`, [`deb`] | packages: downloaded, and unpacked |
//! | [`elf`], [`compression`], [`digest`] | formats |
//! | [`store`], [`data_dir`] | where things are kept |
//! | `lock`, `staging` | several builders at once, and killed ones |
//! | [`exec`], [`progress`] | other programs; what the caller is told meanwhile |
//! | [`error`] | how all that fails |
//!
//! The decoders ([`deb`], [`elf`], [`kernel::bzimage`], [`modules::ModInfo`]) take any bytes: they are bounded, never
//! panic, and are fuzzed.

#![forbid(unsafe_code)]

pub mod agent;
mod apt;
pub mod boot;
pub mod busybox;
pub mod compression;
pub mod data_dir;
pub mod deb;
pub mod digest;
pub mod elf;
mod entries;
pub mod error;
pub mod exec;
pub mod initramfs;
pub mod kernel;
mod lock;
pub mod manifest;
pub mod modules;
mod program;
pub mod progress;
pub mod sealed;
mod staging;
pub mod store;
mod version;

#[cfg(test)]
#[path = "../tests/support/builders.rs"]
mod testing;

pub use agent::{AgentSource, VERSION_MARKER};
pub use boot::{BootFiles, BootFilesEntry, BootFilesOptions, GivenBootFiles};
pub use busybox::BusyboxSource;
pub use data_dir::DataDir;
pub use digest::Sha256;
pub use entries::Removed;
pub use error::{ImageError, ImageErrorKind};
pub use initramfs::ExtraFile;
pub use kernel::{Freshness, Kernel, KernelKind, KernelSource, TrimmedKernelOptions};
pub use manifest::{AgentKind, KernelImage, Manifest};
pub use progress::{CancelFlag, Progress, ProgressSink, Step};
pub use sealed::{Damage, FileRecord};
pub use store::{ImageDeadlines, ImageStore};
