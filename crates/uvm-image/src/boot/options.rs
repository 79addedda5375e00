//! What boot files are made from.

use std::path::PathBuf;

use crate::agent::AgentSource;
use crate::busybox::BusyboxSource;
use crate::error::ImageError;
use crate::initramfs::ExtraFile;
use crate::kernel::{Freshness, KernelSource};
use crate::store::ImageStore;

/// What boot files are made from. Plain data: nothing is looked at before
/// [`BootFiles::ensure`](super::BootFiles::ensure).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BootFilesOptions {
    /// Where they are made and kept.
    pub store: ImageStore,
    /// The kernel. Default: [`KernelSource::Distribution`].
    pub kernel: KernelSource,
    /// Whether to look for a newer kernel than those that are there. Default: [`Freshness::Cached`].
    pub freshness: Freshness,
    /// The agent. Default: [`AgentSource::Search`].
    pub agent: AgentSource,
    /// The guest's tools. Default: [`BusyboxSource::Distribution`].
    pub busybox: BusyboxSource,
    /// More files for the initramfs. Default: none.
    pub extra_files: Vec<ExtraFile>,
}

impl BootFilesOptions {
    /// The default boot files, in `store`.
    pub fn new(store: ImageStore) -> Self {
        Self {
            store,
            kernel: KernelSource::default(),
            freshness: Freshness::default(),
            agent: AgentSource::default(),
            busybox: BusyboxSource::default(),
            extra_files: Vec::new(),
        }
    }

    /// The default boot files, in the data directory that the environment names.
    ///
    /// # Errors
    /// [`ImageError::NoDataDir`].
    pub fn from_env() -> Result<Self, ImageError> {
        ImageStore::from_env().map(Self::new)
    }

    /// Boots another kernel.
    #[must_use]
    pub fn with_kernel(self, kernel: KernelSource) -> Self {
        Self { kernel, ..self }
    }

    /// Looks for a newer kernel, or does not.
    #[must_use]
    pub fn with_freshness(self, freshness: Freshness) -> Self {
        Self { freshness, ..self }
    }

    /// Takes the agent at `path` instead of searching for one.
    #[must_use]
    pub fn with_agent(self, path: impl Into<PathBuf>) -> Self {
        Self { agent: AgentSource::Path(path.into()), ..self }
    }

    /// Puts another busybox, or none, into the initramfs.
    #[must_use]
    pub fn with_busybox(self, busybox: BusyboxSource) -> Self {
        Self { busybox, ..self }
    }

    /// Puts one more file into the initramfs. Of two at the same path, the later one is taken.
    #[must_use]
    pub fn with_extra_file(mut self, file: ExtraFile) -> Self {
        self.extra_files.push(file);
        self
    }
}
