//! Boot files: a kernel and an initramfs that fit each other, and what is in them.
//!
//! ```text
//! boot/<key>/vmlinux or kernel     the kernel
//! boot/<key>/initrd.img            the initramfs
//! boot/<key>/manifest.json         the description
//! ```
//!
//! The key is a hash over everything they are made from. So the same options find the same files again, and another
//! agent, kernel or tool makes others beside them.

mod build;
mod entries;
mod given;
mod options;

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

pub use entries::BootFilesEntry;
pub use given::GivenBootFiles;
pub use options::BootFilesOptions;

use crate::data_dir::DataDir;
use crate::entries::Removed;
use crate::error::{ImageError, Intent, IoContext};
use crate::lock;
use crate::manifest::Manifest;
use crate::sealed::{self, Damage, Depth};

/// A directory of boot files that is intact and in use: as long as this value or a clone of it lives, nobody removes
/// the files. Keep it for as long as the VM runs.
#[derive(Clone, Debug)]
#[must_use = "the files may be removed once this is dropped"]
pub struct BootFiles {
    dir: PathBuf,
    manifest: Manifest,
    /// The open manifest, with a shared lock on it.
    _in_use: Arc<File>,
}

impl BootFiles {
    /// Finds the boot files that `options` describe, or makes them. When they are there, this takes a few
    /// milliseconds, needs no network and writes nothing. Several processes may do this at once: one makes them, the
    /// others wait.
    ///
    /// Files are compared with their manifest each time, by size and modification time, and by hash where those are
    /// in doubt; damaged ones are made anew. [`verify`](Self::verify) compares all hashes.
    ///
    /// # Errors
    /// Every error leaves what was there before, and nothing unfinished.
    pub fn ensure(options: &BootFilesOptions) -> Result<Self, ImageError> {
        build::ensure(options)
    }

    /// Opens boot files in any directory that has a `manifest.json`. Files are compared with it as
    /// [`ensure`](Self::ensure) does.
    ///
    /// # Errors
    /// [`ImageError::NotBootFiles`] without a manifest, [`ImageError::Damaged`] if something does not fit it.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, ImageError> {
        let dir = std::path::absolute(dir.as_ref()).at(Intent::Read, dir.as_ref())?;
        let path = dir.join(Manifest::FILE);
        loop {
            let file = match lock_shared(&path, ALONE_DEADLINE) {
                Ok(file) => file,
                Err(ImageError::Io { source, .. }) if is_missing(&source) => {
                    return Err(ImageError::NotBootFiles { dir });
                }
                Err(error) => return Err(error),
            };
            if !is_still_at(&file, &path) {
                continue; // removed, or replaced, between the two steps
            }
            let damaged = |damage| ImageError::damaged(&dir, damage, REMEDY);
            let manifest: Manifest = sealed::parse_description(&file).map_err(damaged)?;
            for name in [manifest.kernel.image.file_name(), Manifest::INITRD] {
                if !manifest.files.contains_key(name) {
                    return Err(damaged(Damage::Missing { file: name.into() }));
                }
            }
            sealed::check_files(&dir, &manifest.files, Depth::Quick).map_err(damaged)?;
            return Ok(Self { dir, manifest, _in_use: Arc::new(file) });
        }
    }

    /// Compares every file with its recorded hash.
    ///
    /// # Errors
    /// [`ImageError::Damaged`] names the first file that differs.
    pub fn verify(&self) -> Result<(), ImageError> {
        sealed::check_files(&self.dir, &self.manifest.files, Depth::Full)
            .map_err(|damage| ImageError::damaged(&self.dir, damage, REMEDY))
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The kernel to boot.
    pub fn kernel_path(&self) -> PathBuf {
        self.dir.join(self.manifest.kernel.image.file_name())
    }

    /// The initramfs to boot it with.
    pub fn initrd_path(&self) -> PathBuf {
        self.dir.join(Manifest::INITRD)
    }

    /// What is in them.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// All boot files in `data_dir`, the newest first, damaged ones included.
    pub fn list(data_dir: &DataDir) -> Result<Vec<BootFilesEntry>, ImageError> {
        entries::list(data_dir)
    }

    /// The boot files in `data_dir` that no running VM uses and that are not the newest of their kernel, the newest first:
    /// another agent, or another tool, has taken their place. If they are needed still, they are made anew. Damaged ones
    /// are not among them.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn superseded(data_dir: &DataDir) -> Result<Vec<BootFilesEntry>, ImageError> {
        entries::superseded(data_dir)
    }

    /// Removes boot files by key, or by the beginning of one if it fits only one.
    ///
    /// # Errors
    /// [`ImageError::InUse`] if a VM runs from them; then they stay.
    pub fn remove(data_dir: &DataDir, key: &str) -> Result<Removed, ImageError> {
        entries::remove(data_dir, key)
    }
}

/// Opens a manifest and locks it against removal of the files. Whoever removes them holds the lock alone, for an
/// instant; a wait past `deadline` means a stopped process, or a file that anybody may lock.
fn lock_shared(path: &Path, deadline: Duration) -> Result<File, ImageError> {
    let file = File::open(path).at(Intent::Read, path)?;
    let began = Instant::now();
    while !lock::try_lock(&file, FlockOperation::NonBlockingLockShared).at(Intent::Lock, path)? {
        if began.elapsed() >= deadline {
            let what = format!("boot files {}", path.parent().unwrap_or(path).display());
            return Err(ImageError::LockTimeout { what, holder: "another process".into(), waited: began.elapsed() });
        }
        lock::pause(deadline.saturating_sub(began.elapsed()));
    }
    Ok(file)
}

/// How long somebody may hold boot files alone: removing them takes as long as a rename.
const ALONE_DEADLINE: Duration = Duration::from_secs(10);

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Whether the open file is (still) what its path names.
fn is_still_at(file: &File, path: &Path) -> bool {
    let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(open), Ok(named)) => identity(open) == identity(named),
        _ => false,
    }
}

/// What to do about damaged boot files.
const REMEDY: &str = "remove it, and it is made anew when it is needed; one that you were given must be replaced";

#[cfg(test)]
mod tests {
    use rustix::fs::flock;

    use super::*;

    #[test]
    fn a_manifest_that_somebody_keeps_locked_is_told_of_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(Manifest::FILE);
        std::fs::write(&path, "{}").unwrap();
        let held = File::open(&path).unwrap();
        flock(&held, FlockOperation::NonBlockingLockExclusive).unwrap();
        let error = lock_shared(&path, Duration::from_millis(60)).unwrap_err();
        assert!(matches!(error, ImageError::LockTimeout { .. }), "{error}");
        assert!(error.to_string().contains(&dir.path().display().to_string()), "{error}");
        drop(held);
        let _one = lock_shared(&path, Duration::ZERO).unwrap();
        let _many = lock_shared(&path, Duration::ZERO).unwrap();
    }
}
