//! The boot files that are there: listing and removing them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::{BootFiles, is_still_at};
use crate::data_dir::DataDir;
use crate::entries::{self, Removed};
use crate::error::{ImageError, Intent};
use crate::manifest::Manifest;
use crate::staging;

/// One directory of boot files.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BootFilesEntry {
    /// Its key.
    pub key: String,
    /// The directory.
    pub dir: PathBuf,
    /// When it was made.
    pub made: Option<SystemTime>,
    /// Bytes its files have. The kernel's are shared with the kernel it was made from.
    pub bytes: u64,
    /// Whether a running VM uses it.
    pub in_use: bool,
    /// What is in it; or what is wrong with it, as text.
    pub manifest: Result<Manifest, String>,
}

pub(super) fn list(data_dir: &DataDir) -> Result<Vec<BootFilesEntry>, ImageError> {
    let mut list = Vec::new();
    for (key, dir) in entries::list(&data_dir.boot())? {
        let in_use = matches!(lock_alone(&dir), Err(ImageError::InUse { .. }));
        let manifest = BootFiles::open(&dir).map(|files| files.manifest).map_err(|error| error.to_string());
        let made = fs::metadata(&dir).and_then(|metadata| metadata.modified()).ok();
        list.push(BootFilesEntry { key, made, bytes: entries::tree_size(&dir), in_use, manifest, dir });
    }
    list.sort_by(|a, b| b.made.cmp(&a.made).then_with(|| a.key.cmp(&b.key)));
    Ok(list)
}

pub(super) fn superseded(data_dir: &DataDir) -> Result<Vec<BootFilesEntry>, ImageError> {
    let mut kernels = BTreeSet::new();
    let mut old = list(data_dir)?;
    // The newest come first.
    old.retain(|entry| {
        let kernel = entry.manifest.as_ref().map(|manifest| manifest.kernel.name.clone());
        kernel.is_ok_and(|kernel| !kernels.insert(kernel)) && !entry.in_use
    });
    Ok(old)
}

pub(super) fn remove(data_dir: &DataDir, key: &str) -> Result<Removed, ImageError> {
    let (name, dir) = entries::find(&data_dir.boot(), key, "boot files")?;
    let bytes = entries::tree_size(&dir);
    // Held until the directory is out of the way: whoever opens the manifest meanwhile finds that out.
    let _alone = lock_alone_soon(&dir)?;
    staging::discard(data_dir, &dir)?;
    Ok(Removed { name, bytes })
}

/// As [`lock_alone`], but waits a moment for whoever only looks at the files.
fn lock_alone_soon(dir: &Path) -> Result<Option<File>, ImageError> {
    for _ in 0..10 {
        match lock_alone(dir) {
            Err(ImageError::InUse { .. }) => sleep(Duration::from_millis(20)),
            other => return other,
        }
    }
    lock_alone(dir)
}

/// Locks a directory of boot files against every user. `None` if it has no manifest that could be in use.
fn lock_alone(dir: &Path) -> Result<Option<File>, ImageError> {
    let path = dir.join(Manifest::FILE);
    let Ok(file) = File::open(&path) else { return Ok(None) };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) if is_still_at(&file, &path) => Ok(Some(file)),
        Ok(()) => Ok(None),
        Err(Errno::WOULDBLOCK) => {
            let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Err(ImageError::InUse { name })
        }
        Err(error) => Err(ImageError::io(Intent::Lock, path, error.into())),
    }
}
