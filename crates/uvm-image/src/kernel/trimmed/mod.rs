//! The trimmed kernel: built from the distribution's kernel source, with all that a guest needs built in.
//!
//! The build is done in `build/` in the data directory, under a lock, and goes on where an earlier one was
//! interrupted. Only the finished kernel is moved to `kernels/`.

mod build;
mod source;
mod tools;

use std::num::NonZeroUsize;

use super::entry::Kernel;
use super::{Freshness, KernelKind};
use crate::digest::Sha256;
use crate::error::ImageError;
use crate::store::ImageStore;

/// How the trimmed kernel is built.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TrimmedKernelOptions {
    /// Where it is built and kept.
    pub store: ImageStore,
    /// What must be in its configuration, on top of the smallest one. Default: the one that comes with this crate.
    pub config_fragment: String,
    /// How many compilers run at once. Default: one a processor.
    pub jobs: NonZeroUsize,
    /// Whether to look for a newer source than that of the kernel that is there. Default: [`Freshness::Cached`].
    pub freshness: Freshness,
}

impl TrimmedKernelOptions {
    /// The configuration fragment that comes with this crate.
    pub const DEFAULT_FRAGMENT: &str = include_str!("../../../guest-kernel.config");

    /// The default options, in `store`.
    pub fn new(store: ImageStore) -> Self {
        Self {
            store,
            config_fragment: Self::DEFAULT_FRAGMENT.to_owned(),
            jobs: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            freshness: Freshness::default(),
        }
    }

    /// Uses another configuration fragment.
    #[must_use]
    pub fn with_config_fragment(self, config_fragment: impl Into<String>) -> Self {
        Self { config_fragment: config_fragment.into(), ..self }
    }

    /// Runs so many compilers at once.
    #[must_use]
    pub fn with_jobs(self, jobs: NonZeroUsize) -> Self {
        Self { jobs, ..self }
    }

    /// Looks for a newer source, or does not.
    #[must_use]
    pub fn with_freshness(self, freshness: Freshness) -> Self {
        Self { freshness, ..self }
    }
}

impl Kernel {
    /// Builds the trimmed kernel, unless it is there already. Takes about 20 CPU minutes and 3 GiB of disk; returns
    /// at once when there is nothing to do.
    ///
    /// # Errors
    /// Besides those of every operation: [`ImageError::BuildToolsMissing`], [`ImageError::SpaceNeeded`],
    /// [`ImageError::ConfigNotKept`], [`ImageError::KernelBuild`].
    pub fn build_trimmed(options: &TrimmedKernelOptions) -> Result<Self, ImageError> {
        build::ensure(options)
    }
}

/// The trimmed kernel, which must have been built. One with this program's own configuration is preferred.
pub(super) fn find(store: &ImageStore) -> Result<Kernel, ImageError> {
    let kernels = Kernel::usable(&store.data_dir, KernelKind::Trimmed)?;
    let current = configuration(TrimmedKernelOptions::DEFAULT_FRAGMENT);
    if let Some(kernel) = kernels.iter().find(|kernel| kernel.source().ends_with(&current)) {
        return Ok(kernel.clone());
    }
    match kernels.into_iter().next() {
        Some(kernel) => {
            let text = format!(
                "{} has another configuration than this version's; `uvm image kernel` builds that",
                kernel.name()
            );
            store.progress.note(text);
            Ok(kernel)
        }
        None => Err(ImageError::TrimmedKernelMissing { dir: store.data_dir.kernels() }),
    }
}

/// How a kernel's source text ends: which configuration it was built with.
fn configuration(fragment: &str) -> String {
    format!(", configuration {}", Sha256::of(fragment.as_bytes()).short(12))
}
