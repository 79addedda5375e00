//! What can be wrong with options.

use std::io;
use std::path::PathBuf;

use super::{MAX_PCI_PORTS, MAX_SCSI_CONTROLLERS, MAX_VPMEM_COUNT, MemoryMib};

/// What is wrong with options. Nothing was made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OptionsError {
    /// Memory of a size that no VM can have.
    #[error("memory of {mib} MiB: an even number from 2 to {} is allowed", MemoryMib::MAX.get())]
    BadMemory {
        /// The size given.
        mib: u64,
    },
    /// A negative number of processors, or more than there can be.
    #[error("{count} processors: a number from 1 on is allowed, or 0 for the host's default")]
    BadProcessorCount {
        /// The number given.
        count: i64,
    },
    /// A number outside of its range.
    #[error("{what} of {value}: at most {max} is allowed")]
    TooLarge {
        /// What it counts.
        what: &'static str,
        /// The number given.
        value: u64,
        /// The largest one allowed.
        max: u64,
    },
    /// More SCSI controllers than a VM can have.
    #[error("{count} SCSI controllers: 0 to {MAX_SCSI_CONTROLLERS} are allowed")]
    TooManyScsiControllers {
        /// The number given.
        count: u32,
    },
    /// More ports for PCI devices than a VM can have.
    #[error("{count} PCI ports: 0 to {MAX_PCI_PORTS} are allowed")]
    TooManyPciPorts {
        /// The number given.
        count: u32,
    },
    /// More memory-backed devices than a VM can have.
    #[error("{count} VPMem devices: 0 to {MAX_VPMEM_COUNT} are allowed")]
    TooManyVpmemDevices {
        /// The number given.
        count: u32,
    },
    /// Memory-backed devices of a size they cannot have.
    #[error("VPMem devices of {bytes} bytes: a multiple of 4096, from 4096 on, is allowed")]
    BadVpmemSize {
        /// The size given.
        bytes: u64,
    },
    /// A root disk takes the first memory-backed device, and there is none.
    #[error("a root file system of type VHD needs at least one VPMem device")]
    VhdWithoutVpmem,
    /// A Windows guest boots from a read-only layer and writes to another.
    #[error("at least 2 LayerFolders must be supplied, the last for what the guest writes; there is {count}")]
    TooFewLayerFolders {
        /// How many were given.
        count: usize,
    },
    /// A Windows guest without a guest connection never tells that it runs.
    #[error("a Windows guest needs a guest connection: of the library or of the host's service")]
    NoGuestConnection,
    /// A CPU group without an id.
    #[error("an id is needed for a CPU group")]
    NoCpuGroup,
    /// Deferred commit needs memory that may be overcommitted.
    #[error("EnableDeferredCommit is not supported on physically backed VMs")]
    DeferredCommitWithoutOvercommit,
    /// Devices cannot be backed physically while memory is not.
    #[error("FullyPhysicallyBacked needs AllowOvercommit to be off")]
    FullyPhysicalWithOvercommit,
    /// A boot file is not there, or cannot be looked at.
    #[error("{what} {}", path.display())]
    BootFile {
        /// `kernel`, `root file system`.
        what: &'static str,
        /// Where it should be.
        path: PathBuf,
        /// Why it cannot be used.
        source: io::Error,
    },
    /// The console's place cannot be used.
    #[error("console {}: {why}", path.display())]
    BadConsole {
        /// The path given.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A text that becomes part of the kernel's command line holds what ends or splits it.
    #[error("{what} {text:?}: line ends, zeros and a word `--` are not allowed")]
    BadKernelText {
        /// Which option.
        what: &'static str,
        /// The text given.
        text: String,
    },
}

/// By what they say: the cause of a [`BootFile`](OptionsError::BootFile) by its kind.
impl PartialEq for OptionsError {
    fn eq(&self, other: &Self) -> bool {
        let cause = |error: &Self| match error {
            Self::BootFile { source, .. } => Some(source.kind()),
            _ => None,
        };
        self.to_string() == other.to_string() && cause(self) == cause(other)
    }
}
