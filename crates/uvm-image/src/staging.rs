//! Where things are made before they are moved into place: a directory that vanishes unless it is published.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};

use crate::data_dir::DataDir;
use crate::error::{ImageError, Intent, IoContext};

/// A directory in the data directory's `tmp`, on the same file system as everything else.
///
/// Its owner holds a lock on it, which dies with the owner. So [`sweep`] can tell what a killed builder left from
/// what another builder is at, and removes only the former.
pub(crate) struct Staging {
    path: PathBuf,
    /// Keeps the directory locked.
    _lock: File,
    /// False once it was moved away.
    armed: bool,
}

impl Staging {
    /// Makes an empty directory; `purpose` becomes part of its name.
    pub(crate) fn new(data_dir: &DataDir, purpose: &str) -> Result<Self, ImageError> {
        let parent = data_dir.tmp();
        fs::create_dir_all(&parent).at(Intent::Create, &parent)?;
        loop {
            let prefix = format!("{purpose}-{}-", std::process::id());
            let made = tempfile::Builder::new().prefix(&prefix).tempdir_in(&parent).at(Intent::Create, &parent)?;
            let path = made.keep();
            // A sweep may come between the two steps, take the unlocked directory for junk, and remove it.
            match lock_directory(&path) {
                Ok(lock) if still_there(&lock, &path) => {
                    fs::set_permissions(&path, fs::Permissions::from_mode(PUBLIC_DIR)).at(Intent::Write, &path)?;
                    return Ok(Self { path, _lock: lock, armed: true });
                }
                Ok(_) | Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::NOENT) => {}
                Err(error) => {
                    let _ = fs::remove_dir(&path);
                    return Err(ImageError::io(Intent::Lock, path, error.into()));
                }
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Moves the directory to `destination`, durably. What is there (it can only be damaged) is moved out of the way
    /// and removed; whoever has its files open keeps them.
    pub(crate) fn publish(mut self, data_dir: &DataDir, destination: &Path) -> Result<(), ImageError> {
        let parent = destination.parent().unwrap_or(data_dir.path());
        fs::create_dir_all(parent).at(Intent::Create, parent)?;
        sync_directory(&self.path)?;
        discard(data_dir, destination)?;
        fs::rename(&self.path, destination).at(Intent::Rename, destination)?;
        self.armed = false;
        sync_directory(parent)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.armed {
            remove(&self.path);
        }
    }
}

/// Removes what is at `path`, in one step seen from outside: it is moved to `tmp` first. Nothing there is fine. Makes
/// nothing new, because it must work on a full disk.
pub(crate) fn discard(data_dir: &DataDir, path: &Path) -> Result<(), ImageError> {
    let parent = data_dir.tmp();
    fs::create_dir_all(&parent).at(Intent::Create, &parent)?;
    for number in 0.. {
        let trash = parent.join(format!("trash-{}-{number}", std::process::id()));
        match fs::rename(path, &trash) {
            Ok(()) => {
                remove(&trash);
                break;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            // Another thread's, being removed just now.
            Err(error) if is_taken(&error) && number < MAX_TRASH => {}
            Err(error) => return Err(ImageError::io(Intent::Remove, path, error)),
        }
    }
    Ok(())
}

fn is_taken(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(error.kind(), Kind::DirectoryNotEmpty | Kind::AlreadyExists | Kind::NotADirectory | Kind::IsADirectory)
}

/// Removes junk, whatever it is. A failure is logged only: the next sweep tries again.
fn remove(path: &Path) -> bool {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "cannot remove junk; the next build tries again");
            false
        }
    }
}

/// Removes what killed builders left. Failures are logged only: junk must not keep anyone from building.
pub(crate) fn sweep(data_dir: &DataDir) {
    let Ok(entries) = fs::read_dir(data_dir.tmp()) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        // Held until it is gone, so that no two sweeps remove it, and its owner, if there is one, finds that out.
        let _lock = match lock_directory(&path) {
            Err(rustix::io::Errno::WOULDBLOCK) => continue,
            locked => locked.ok(),
        };
        if remove(&path) {
            tracing::info!(path = %path.display(), "removed what a killed builder left");
        }
    }
}

/// Makes the names in `path` survive a power failure.
pub(crate) fn sync_directory(path: &Path) -> Result<(), ImageError> {
    File::open(path).and_then(|dir| dir.sync_all()).at(Intent::Write, path)
}

fn lock_directory(path: &Path) -> rustix::io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = File::from(open(path, flags, Mode::empty())?);
    flock(&dir, FlockOperation::NonBlockingLockExclusive)?;
    Ok(dir)
}

fn still_there(dir: &File, path: &Path) -> bool {
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (dir.metadata(), fs::symlink_metadata(path)) {
        (Ok(held), Ok(named)) => identity(held) == identity(named),
        _ => false,
    }
}

/// More removals than this do not go on at once.
const MAX_TRASH: u32 = 1000;
/// Mode of a published directory: everyone may read it, whatever the umask, because QEMU runs as another user.
const PUBLIC_DIR: u32 = 0o755;

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &Path) -> Vec<String> {
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn dropped_staging_leaves_nothing_and_published_staging_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::at(dir.path()).unwrap();
        let goal = data.boot().join("k");
        for text in ["old", "new"] {
            let staging = Staging::new(&data, "t").unwrap();
            fs::write(staging.path().join("f"), text).unwrap();
            staging.publish(&data, &goal).unwrap();
        }
        assert_eq!(fs::read_to_string(goal.join("f")).unwrap(), "new");
        drop(Staging::new(&data, "t").unwrap());
        assert_eq!(names(&data.tmp()), Vec::<String>::new());
    }

    #[test]
    fn sweeping_takes_junk_and_leaves_what_a_living_builder_is_at() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::at(dir.path()).unwrap();
        let mine = Staging::new(&data, "mine").unwrap();
        fs::create_dir_all(data.tmp().join("junk-1-x/deep")).unwrap();
        fs::write(data.tmp().join("junk-1-x/deep/f"), "x").unwrap();
        fs::write(data.tmp().join("stray"), "x").unwrap();
        std::os::unix::fs::symlink(dir.path(), data.tmp().join("link")).unwrap();
        fs::write(dir.path().join("precious"), "x").unwrap();
        sweep(&data);
        assert_eq!(names(&data.tmp()), [mine.path().file_name().unwrap().to_str().unwrap()]);
        assert!(dir.path().join("precious").exists(), "a link is removed, not followed");
    }

    #[test]
    fn discarding_takes_anything_and_leaves_no_trash() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::at(dir.path()).unwrap();
        let path = dir.path().join("it");
        discard(&data, &path).expect("nothing is there");
        fs::create_dir_all(path.join("deep")).unwrap();
        discard(&data, &path).unwrap();
        fs::write(&path, "a file").unwrap();
        // What is being removed by others has the names that come first.
        let taken = |number: u32| data.tmp().join(format!("trash-{}-{number}", std::process::id()));
        fs::create_dir_all(taken(0).join("deep")).unwrap();
        fs::write(taken(1), "").unwrap();
        discard(&data, &path).unwrap();
        fs::create_dir_all(path.join("deep")).unwrap();
        discard(&data, &path).unwrap();
        assert!(!path.exists());
        assert!(
            names(&data.tmp()).iter().all(|name| name.ends_with("-0") || name.ends_with("-1")),
            "{:?}",
            names(&data.tmp())
        );
    }
}
