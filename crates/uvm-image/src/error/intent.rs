//! What was tried on a path.

use std::fmt;
use std::io;
use std::path::Path;

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
    pub(super) fn writes(self) -> bool {
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
