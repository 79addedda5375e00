//! Files of the host: what is at a path, and whom one is opened to.

use std::path::{Path, PathBuf};

use crate::error::PlatformError;

/// Whom the host opens a file to, before a VM is given it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VmAccess {
    /// Nobody: the caller sees to it.
    #[default]
    Noop,
    /// Every VM. It is never taken back.
    Group,
    /// This VM.
    Individual,
}

/// What is at a path of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostFile {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Its size in bytes.
        bytes: u64,
        /// The directory it is in, spelt as the host wants it.
        directory: PathBuf,
        /// Its name there.
        name: String,
    },
}

impl HostFile {
    /// What is at a path of this machine; a link counts as what it leads to, with the name that has there. Blocking, for a
    /// moment.
    ///
    /// # Errors
    /// As [`PlatformVm::look_at`](crate::PlatformVm::look_at).
    pub fn at(path: &Path) -> Result<Self, PlatformError> {
        let bad = |why: String| PlatformError::BadInput { what: "file", value: path.display().to_string(), why };
        let meta = path.metadata().map_err(|e| bad(e.to_string()))?;
        if meta.is_dir() {
            return Ok(Self::Directory);
        }
        if !meta.is_file() {
            return Err(bad("it is neither a directory nor a regular file".into()));
        }
        let target;
        let is_link = path.symlink_metadata().is_ok_and(|meta| meta.is_symlink());
        let path = if is_link {
            target = path.canonicalize().map_err(|e| bad(e.to_string()))?;
            target.as_path()
        } else {
            path
        };
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| bad("its name is not Unicode".into()))?.to_owned();
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok(Self::File { bytes: meta.len(), directory: directory.to_owned(), name })
    }
}
