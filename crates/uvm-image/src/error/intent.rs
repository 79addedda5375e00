//! What was tried on a path, and the error that fits what the system said to it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::ImageError;

/// What was tried on a path; its text follows "cannot".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Intent {
    /// Read a file or a directory, or ask about it.
    Read,
    /// Create a file or a directory.
    Create,
    /// Write a file's contents or attributes.
    Write,
    /// Move a file or a directory into place.
    Rename,
    /// Remove a file or a directory.
    Remove,
    /// Lock a file.
    Lock,
}

impl Intent {
    fn writes(self) -> bool {
        !matches!(self, Self::Read)
    }
}

impl fmt::Display for Intent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Create => "create",
            Self::Write => "write",
            Self::Rename => "move",
            Self::Remove => "remove",
            Self::Lock => "lock",
        })
    }
}

/// Adds the path and what was tried to a system error.
pub(crate) trait IoContext<T> {
    fn at(self, intent: Intent, path: &Path) -> Result<T, ImageError>;
}

impl<T, E: Into<io::Error>> IoContext<T> for Result<T, E> {
    fn at(self, intent: Intent, path: &Path) -> Result<T, ImageError> {
        self.map_err(|error| ImageError::io(intent, path, error.into()))
    }
}

impl ImageError {
    /// The variant that fits what the system said: a full disk and a forbidden write are told apart from the rest,
    /// because there is something the user can do about them.
    pub(crate) fn io(intent: Intent, path: impl Into<PathBuf>, source: io::Error) -> Self {
        use io::ErrorKind as Kind;
        let path = path.into();
        match source.kind() {
            Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge if intent.writes() => {
                Self::DiskFull { path, source }
            }
            Kind::PermissionDenied | Kind::ReadOnlyFilesystem if intent.writes() => {
                Self::NotWritable { intent, path, source }
            }
            _ => Self::Io { intent, path, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classify(intent: Intent, errno: rustix::io::Errno) -> ImageErrorName {
        match ImageError::io(intent, "/x", errno.into()) {
            ImageError::DiskFull { .. } => ImageErrorName::Full,
            ImageError::NotWritable { .. } => ImageErrorName::Forbidden,
            ImageError::Io { .. } => ImageErrorName::Other,
            other => panic!("{other}"),
        }
    }

    #[derive(Debug, PartialEq)]
    enum ImageErrorName {
        Full,
        Forbidden,
        Other,
    }

    #[test]
    fn full_disks_and_forbidden_writes_are_told_apart() {
        use rustix::io::Errno;
        for errno in [Errno::NOSPC, Errno::DQUOT, Errno::FBIG] {
            assert_eq!(classify(Intent::Write, errno), ImageErrorName::Full, "{errno}");
        }
        for errno in [Errno::ACCESS, Errno::PERM, Errno::ROFS] {
            assert_eq!(classify(Intent::Create, errno), ImageErrorName::Forbidden, "{errno}");
            assert_eq!(classify(Intent::Read, errno), ImageErrorName::Other, "reading needs another remedy: {errno}");
        }
        assert_eq!(classify(Intent::Write, Errno::IO), ImageErrorName::Other);
    }
}
