//! What kind of failure an error is.

use super::ImageError;

/// What kind of failure an [`ImageError`] is: stable across versions, unlike its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ImageErrorKind {
    /// The caller asked for something impossible.
    BadInput,
    /// Something asked for is not there.
    NotFound,
    /// It is in use, or being made by someone else.
    Busy,
    /// Disk space, permissions, input and output.
    Storage,
    /// A package could not be had.
    Download,
    /// A program that is needed is missing or failed.
    Tool,
    /// A file is not what it must be.
    Corrupt,
    /// The caller cancelled.
    Cancelled,
}

impl ImageError {
    /// What kind of failure this is.
    pub fn kind(&self) -> ImageErrorKind {
        match self {
            Self::BadInput { .. } | Self::NoDataDir | Self::AmbiguousName { .. } | Self::BadProgram { .. } => {
                ImageErrorKind::BadInput
            }
            Self::NoSuchKernel { .. }
            | Self::NoSuchEntry { .. }
            | Self::TrimmedKernelMissing { .. }
            | Self::NoInstalledKernel { .. }
            | Self::AgentNotFound { .. }
            | Self::NotBootFiles { .. } => ImageErrorKind::NotFound,
            Self::LockTimeout { .. } | Self::InUse { .. } => ImageErrorKind::Busy,
            Self::DiskFull { .. } | Self::SpaceNeeded { .. } | Self::NotWritable { .. } | Self::Io { .. } => {
                ImageErrorKind::Storage
            }
            Self::NoApt { .. }
            | Self::NoPackage { .. }
            | Self::BadPackageRecord { .. }
            | Self::PackageMismatch { .. } => ImageErrorKind::Download,
            Self::Spawn { .. }
            | Self::CommandFailed { .. }
            | Self::CommandTimeout { .. }
            | Self::BuildToolsMissing { .. }
            | Self::ConfigNotKept { .. }
            | Self::KernelBuild { .. } => ImageErrorKind::Tool,
            Self::BadPackage { .. }
            | Self::PackageLacks { .. }
            | Self::BadKernel { .. }
            | Self::KernelLacks { .. }
            | Self::BadModule { .. }
            | Self::Initramfs { .. }
            | Self::Damaged { .. } => ImageErrorKind::Corrupt,
            Self::Cancelled => ImageErrorKind::Cancelled,
        }
    }
}
