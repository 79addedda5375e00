//! What every operation of this crate shares: where it keeps things, how long it waits, whom it tells.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use crate::apt::APT_LOCK;
use crate::data_dir::DataDir;
use crate::entries;
use crate::error::ImageError;
use crate::kernel::{KernelKind, lock_name};
use crate::lock::BuildLock;
use crate::progress::{CancelFlag, ProgressSink};
use crate::staging;

/// Where things are kept and how work on them is done. Plain data: making one touches nothing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ImageStore {
    /// Where everything is kept.
    pub data_dir: DataDir,
    /// Who is told of progress. Default: nobody.
    pub progress: ProgressSink,
    /// How the caller stops an operation. Default: a flag that nobody raises.
    pub cancel: CancelFlag,
    /// The longest waits. Default: [`ImageDeadlines::default`].
    pub deadlines: ImageDeadlines,
    /// Where programs are looked for, as in `PATH`. Default: `$PATH`.
    pub search_path: OsString,
}

impl ImageStore {
    /// The store in `data_dir`.
    pub fn new(data_dir: DataDir) -> Self {
        Self {
            data_dir,
            progress: ProgressSink::default(),
            cancel: CancelFlag::default(),
            deadlines: ImageDeadlines::default(),
            search_path: std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into()),
        }
    }

    /// The store in the data directory that the environment names.
    ///
    /// # Errors
    /// [`ImageError::NoDataDir`].
    pub fn from_env() -> Result<Self, ImageError> {
        DataDir::from_env().map(Self::new)
    }

    /// Tells `progress` what goes on.
    #[must_use]
    pub fn with_progress(self, progress: ProgressSink) -> Self {
        Self { progress, ..self }
    }

    /// Stops when `cancel` is raised.
    #[must_use]
    pub fn with_cancel(self, cancel: CancelFlag) -> Self {
        Self { cancel, ..self }
    }

    /// Waits no longer than `deadlines`.
    #[must_use]
    pub fn with_deadlines(self, deadlines: ImageDeadlines) -> Self {
        Self { deadlines, ..self }
    }

    /// Looks for programs in `search_path`, written as `PATH` is.
    #[must_use]
    pub fn with_search_path(self, search_path: impl Into<OsString>) -> Self {
        Self { search_path: search_path.into(), ..self }
    }

    /// Removes what can be had again: downloaded packages, package lists, kernel builds that were given up, and what
    /// killed builders left. Waits for whoever uses them. Boot files and kernels stay. Returns the bytes their files
    /// had.
    pub fn clean(&self) -> Result<u64, ImageError> {
        let _kernel = BuildLock::acquire(self, &lock_name(KernelKind::Trimmed), "the trimmed kernel")?;
        let _packages = BuildLock::acquire(self, APT_LOCK, "packages")?;
        let dirs = [self.data_dir.downloads(), self.data_dir.build(), self.data_dir.apt()];
        let bytes = dirs.iter().map(|dir| entries::tree_size(dir)).sum();
        for dir in &dirs {
            staging::discard(&self.data_dir, dir)?;
        }
        staging::sweep(&self.data_dir);
        Ok(bytes)
    }

    /// The program `name`, if this user can run one of that name.
    pub(crate) fn program(&self, name: impl AsRef<OsStr>) -> Option<PathBuf> {
        use rustix::fs::{Access, access};
        std::env::split_paths(&self.search_path)
            .filter(|dir| dir.is_absolute())
            .map(|dir| dir.join(name.as_ref()))
            .find(|path| path.is_file() && access(path, Access::EXEC_OK).is_ok())
    }
}

/// The longest waits, one per kind of operation. An expired one fails the whole operation, and the next try goes on
/// from what is finished.
///
/// Plain data with public fields: change what you need after [`ImageDeadlines::default`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageDeadlines {
    /// Another process makes the same thing. Default: 30 min, as long as a slow download may take.
    pub lock: Duration,
    /// One question to apt's package index. Default: 60 s.
    pub query: Duration,
    /// Refreshing package lists. Default: 10 min.
    pub lists: Duration,
    /// Downloading one package. Default: 30 min.
    pub download: Duration,
    /// Making a kernel's configuration. Default: 10 min.
    pub configure: Duration,
    /// Compiling a kernel. Default: 3 h.
    pub compile: Duration,
}

impl Default for ImageDeadlines {
    fn default() -> Self {
        Self {
            lock: Duration::from_secs(30 * 60),
            query: Duration::from_secs(60),
            lists: Duration::from_secs(10 * 60),
            download: Duration::from_secs(30 * 60),
            configure: Duration::from_secs(10 * 60),
            compile: Duration::from_secs(3 * 60 * 60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_by_the_search_path_only() {
        let store = ImageStore::new(DataDir::at("/nowhere").unwrap());
        let looking_in = |path: &str| store.clone().with_search_path(path).program("sh");
        assert!(looking_in("/nowhere:/bin:/usr/bin").is_some());
        assert_eq!(looking_in("/nowhere"), None);
        assert_eq!(looking_in(""), None, "an empty entry is not the current directory");
        assert_eq!(store.with_search_path("/").program("etc"), None, "a directory is no program");
    }
}
