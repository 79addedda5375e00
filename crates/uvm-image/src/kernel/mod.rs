//! Guest kernels: where they come from, and how they are kept.

pub mod bzimage;
mod distribution;
mod entry;
mod files;
mod import;
mod installed;
pub mod kconfig;
mod trimmed;

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use bzimage::KernelError;
pub use entry::Kernel;
pub use trimmed::TrimmedKernelOptions;

use crate::error::ImageError;
use crate::lock::BuildLock;
use crate::staging;
use crate::store::ImageStore;

/// Which kernel the guest runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum KernelSource {
    /// The distribution's package, downloaded by apt and unpacked, not installed. One that is there already is taken
    /// without asking apt (see [`Freshness`]).
    #[default]
    Distribution,
    /// The trimmed kernel, which boots more than twice as fast. It must have been built
    /// ([`Kernel::build_trimmed`], `uvm image kernel`).
    Trimmed,
    /// A kernel that is installed on this machine, from `/boot` and `/lib/modules`.
    Installed {
        /// Its release. `None`: the running one if its files can be read, else the newest.
        release: Option<String>,
    },
    /// A kernel in the data directory, by name; see [`Kernel::list`].
    Named(String),
    /// Files somewhere on this machine.
    Paths {
        /// A bzImage, or an uncompressed ELF file with a PVH entry.
        kernel: PathBuf,
        /// Its modules: a directory like `/lib/modules/<release>`. `None`: it has everything built in.
        modules: Option<PathBuf>,
        /// Its configuration. `None`: nothing is known of it.
        config: Option<PathBuf>,
    },
}

/// Whether to look for something newer than what is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Freshness {
    /// Take what is there. Fast, and works without a network.
    #[default]
    Cached,
    /// Fetch fresh package lists and take the newest kernel they have.
    Newest,
}

/// Where a kernel in the data directory came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum KernelKind {
    /// The distribution's package.
    Distribution,
    /// Built from source with the trimmed configuration.
    Trimmed,
    /// Installed on this machine.
    Installed,
    /// Given by path.
    Given,
}

impl fmt::Display for KernelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Distribution => "distribution",
            Self::Trimmed => "trimmed",
            Self::Installed => "installed",
            Self::Given => "given",
        })
    }
}

/// Finds the kernel, or gets it.
pub(crate) fn ensure(store: &ImageStore, source: &KernelSource, freshness: Freshness) -> Result<Kernel, ImageError> {
    match source {
        KernelSource::Distribution => distribution::ensure(store, freshness),
        KernelSource::Trimmed => trimmed::find(store),
        KernelSource::Installed { release } => installed::ensure(store, release.as_deref()),
        KernelSource::Named(name) => Kernel::named(&store.data_dir, name),
        KernelSource::Paths { kernel, modules, config } => {
            files::ensure(store, KernelKind::Given, kernel, modules.as_deref(), config.as_deref())
        }
    }
}

/// Removes a kernel that is damaged, so that the next [`ensure`] makes it anew; or returns the damage of one that
/// nothing makes by the way.
pub(crate) fn repair(store: &ImageStore, source: &KernelSource, kernel: &Kernel) -> Result<(), ImageError> {
    let _lock = BuildLock::acquire(store, &lock_name(kernel.kind()), &format!("kernel {}", kernel.name()))?;
    // Now that nobody else repairs it: is it still damaged, or again intact?
    let Err(damaged) = kernel.verify() else { return Ok(()) };
    if kernel.kind() == KernelKind::Trimmed || matches!(source, KernelSource::Named(_)) {
        return Err(damaged);
    }
    store.progress.note(format!("{damaged}; making it anew"));
    staging::discard(&store.data_dir, kernel.dir())
}

/// Who makes a kernel of this kind holds the lock of this name.
pub(crate) fn lock_name(kind: KernelKind) -> String {
    format!("kernel-{kind}")
}
