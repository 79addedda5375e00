//! Where something is mounted: made, cleared, and who keeps it busy. Paths are [`resolved`](super::path::resolved) ones.

use std::collections::{HashMap, HashSet};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use super::StorageError;
use super::block::{BlockDevice, Names};
use super::mounts::Mounted;
use super::path::link_at;
use super::turns::Place;

/// How many processes that keep a mount busy are named.
const NAMED: usize = 5;

/// What this agent has made at paths of the guest, as far as removals have to know. Clones share it. An agent that was started
/// anew knows of nothing, and leaves directories, and what is mounted of devices that are gone.
#[derive(Clone, Debug, Default)]
pub(super) struct MountPoints(Arc<Mutex<Books>>);

#[derive(Debug, Default)]
struct Books {
    /// Directories that were not there before.
    made: HashSet<PathBuf>,
    /// Which device was mounted, or linked to, and what the kernel called it: it may be gone before it is removed.
    devices: HashMap<PathBuf, (Place, Names)>,
}

impl MountPoints {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the directory, with those above it, for root alone, and has something mounted there; if that fails, what was made
    /// is removed. A directory that something is mounted at is refused: the removal of either would take the other's. So is a
    /// link: what is mounted by way of it is elsewhere.
    pub(super) fn mount_at(
        &self,
        path: &Path,
        mount: impl FnOnce() -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let is_new = make(path)?;
        // At what was made just now nothing is mounted; to read of all mounts takes the longer, the more there are.
        if !is_new {
            check_free(path)?;
        }
        let mounted = mount();
        match &mounted {
            Ok(()) if is_new => drop(self.books().made.insert(path.to_owned())),
            // An empty directory is no harm.
            Err(_) if is_new => drop(fs::remove_dir(path)),
            _ => {}
        }
        mounted
    }

    /// Makes `path` a link to the device of a place.
    pub(super) fn link(&self, path: &Path, place: Place, device: &BlockDevice) -> Result<(), StorageError> {
        if let Some(above) = path.parent() {
            make(above)?;
        }
        let node = device.node();
        let linked = std::os::unix::fs::symlink(&node, path);
        linked.map_err(StorageError::at(format!("link {} to {}", path.display(), node.display())))?;
        self.note(path, place, device.names());
        Ok(())
    }

    /// Notes what a device is called that is there now.
    pub(super) fn note(&self, path: &Path, place: Place, names: Names) {
        self.books().devices.insert(path.to_owned(), (place, names));
    }

    /// Forgets a device that is gone for good.
    pub(super) fn forget(&self, place: &Place) {
        self.books().devices.retain(|_, (of, _)| of != place);
    }

    /// Unmounts the device of a place, or removes the link to it, if `path` is where it is: by the names that it has now, and
    /// those it had when it came there. Before it is unmounted, `check` has to pass. What is there of anything else stays, and
    /// is no error: nothing is there to be removed. Tells whether it was mounted.
    pub(super) fn clear_of(
        &self,
        path: &Path,
        place: &Place,
        mut names: Names,
        check: impl FnOnce() -> Result<(), StorageError>,
    ) -> Result<bool, StorageError> {
        if let Some((_, noted)) = self.books().devices.get(path).filter(|(of, _)| of == place) {
            names.extend(noted.clone());
        }
        if let Some(to) = link_at(path)? {
            if names.nodes.contains(&to) {
                fs::remove_file(path).map_err(StorageError::at(format!("remove {}", path.display())))?;
                self.books().devices.remove(path);
            }
            return Ok(false);
        }
        let mut there: Vec<_> = Mounted::all().into_iter().filter(|mounted| mounted.path == path).collect();
        let top = there.pop();
        match &top {
            Some(top) if names.numbers.contains(&top.number) => check()?,
            Some(top) if there.iter().any(|below| names.numbers.contains(&below.number)) => {
                let step = format!("unmount {}, over which {} is mounted", path.display(), top.source);
                return Err(StorageError::at(step)(Errno::BUSY.into()));
            }
            Some(_) => return Ok(false),
            None => {}
        }
        self.clear(path)?;
        Ok(top.is_some())
    }

    /// [`clear`](Self::clear), but if something is mounted there that is not `expected`, that is an error.
    pub(super) fn clear_if(&self, path: &Path, expected: impl FnOnce(&Mounted) -> bool) -> Result<(), StorageError> {
        match Mounted::at(path) {
            Some(mounted) if !expected(&mounted) => Err(StorageError::Bad(format!(
                "{} ({}) is mounted at {}, not what is to be removed",
                mounted.source,
                mounted.filesystem,
                path.display()
            ))),
            _ => self.clear(path),
        }
    }

    /// Unmounts what is mounted at `path`, and removes the directory if it was made for that. That nothing is there is success.
    pub(super) fn clear(&self, path: &Path) -> Result<(), StorageError> {
        match unmount(path, UnmountFlags::NOFOLLOW) {
            // It is no mount point: an earlier request has unmounted it, or nothing could be mounted at what is there.
            Ok(()) | Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR) => {}
            Err(Errno::BUSY) => {
                let step = format!("unmount {}, which is in use{}", path.display(), by_whom(path));
                return Err(StorageError::at(step)(Errno::BUSY.into()));
            }
            Err(e) => return Err(StorageError::at(format!("unmount {}", path.display()))(e.into())),
        }
        let is_made = {
            let mut books = self.books();
            books.devices.remove(path);
            books.made.contains(path)
        };
        if is_made {
            remove_directory(path).map_err(StorageError::at(format!("remove {}", path.display())))?;
            self.books().made.remove(path);
        }
        Ok(())
    }
}

/// Why nothing is mounted at `path` where the device for it was waited for in vain. What is waited for in vain the host takes
/// back; what is there already is worth more to whoever reads it.
pub(super) fn taken_or(path: &Path, late: StorageError) -> StorageError {
    check_free(path).err().unwrap_or(late)
}

/// An error if something is mounted there, or a link is there.
fn check_free(path: &Path) -> Result<(), StorageError> {
    if let Some(to) = link_at(path)? {
        return Err(StorageError::Bad(format!("{} is a link to {} already", path.display(), to.display())));
    }
    match Mounted::at(path) {
        Some(Mounted { source, .. }) => {
            Err(StorageError::Bad(format!("{source} is mounted at {} already", path.display())))
        }
        None => Ok(()),
    }
}

/// Somebody may have put something in it, or something else in its place: that is theirs.
fn remove_directory(path: &Path) -> io::Result<()> {
    use io::ErrorKind::{DirectoryNotEmpty, NotADirectory, NotFound, ResourceBusy};
    match fs::remove_dir(path) {
        Err(e) if matches!(e.kind(), DirectoryNotEmpty | NotADirectory | NotFound | ResourceBusy) => Ok(()),
        removed => removed,
    }
}

/// Makes the directory, with those above it, for root alone; says whether it was not there.
fn make(path: &Path) -> Result<bool, StorageError> {
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    let made = match (builder.create(path), path.parent()) {
        (Err(e), Some(above)) if e.kind() == io::ErrorKind::NotFound => {
            // Of several at once, it would not be known whether the last was there.
            builder.recursive(true).create(above).and_then(|()| builder.recursive(false).create(path))
        }
        (made, _) => made,
    };
    match made {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(StorageError::at(format!("make {}", path.display()))(e)),
    }
}

/// Which processes have something open beneath a path, for people to read.
fn by_whom(path: &Path) -> String {
    let mut found: Vec<String> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|process| holds(*process, path))
        .take(NAMED + 1)
        .map(|process| {
            let name = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
            format!("{} ({process})", name.trim_end())
        })
        .collect();
    if found.len() > NAMED {
        found.truncate(NAMED);
        found.push("more".into());
    }
    if found.is_empty() { String::new() } else { format!(" by {}", found.join(", ")) }
}

/// By the names the kernel gives: to look at the files would ask the servers of shares, which may not answer.
fn holds(process: u32, path: &Path) -> bool {
    let directory = PathBuf::from(format!("/proc/{process}"));
    let open = fs::read_dir(directory.join("fd")).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let places = ["cwd", "root", "exe"].map(|name| directory.join(name));
    open.chain(places).any(|file| fs::read_link(file).is_ok_and(|file| file.starts_with(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place::Disk { controller: 0, lun: 1 };

    fn names(number: &str, node: &str) -> Names {
        Names { numbers: vec![number.into()], nodes: vec![node.into()] }
    }

    fn unchecked() -> Result<(), StorageError> {
        panic!("there is nothing to be unmounted")
    }

    #[test]
    fn directories_are_made_and_cleared() {
        let dir = tempfile::tempdir().expect("a directory");
        let (points, path) = (MountPoints::default(), dir.path().join("a/b"));
        let fails = || {
            assert!(path.is_dir());
            Err(StorageError::Bad("no mount".into()))
        };
        points.mount_at(&path, fails).expect_err("it fails");
        assert!(!path.exists());
        // What was there stays.
        points.mount_at(&path, || Ok(())).expect("made");
        points.mount_at(&path, fails).expect_err("it fails");
        assert!(path.is_dir());
        points.clear(&path).expect("not mounted");
        points.clear(&path).expect("gone already");
        assert!(!path.exists() && dir.path().join("a").is_dir());
    }

    #[test]
    fn a_directory_that_was_there_before_stays_and_so_does_what_somebody_has_put_in_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let points = MountPoints::default();
        points.mount_at(dir.path(), || Ok(())).expect("mounted");
        points.clear(dir.path()).expect("not mounted");
        assert!(dir.path().is_dir());
        let made = dir.path().join("made");
        points.mount_at(&made, || Ok(())).expect("mounted");
        fs::write(made.join("file"), "").expect("written");
        points.clear(&made).expect("not mounted");
        assert!(made.join("file").exists());
        // From then on it is somebody's.
        fs::remove_file(made.join("file")).expect("removed");
        points.clear(&made).expect("not mounted");
        assert!(made.is_dir());
    }

    #[test]
    fn links_lead_to_their_device_and_go_with_it_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let (points, path) = (MountPoints::default(), dir.path().join("a/link"));
        let late = || StorageError::Late("late".into());
        assert_eq!(taken_or(&path, late()).to_string(), "late");
        let link = || {
            points.link(&path, PLACE, &BlockDevice::new(dir.path(), Path::new("/dev"), "sda")).expect("linked");
        };
        link();
        assert!(taken_or(&path, late()).to_string().ends_with("is a link to /dev/sda already"));
        assert_eq!(fs::read_link(&path).expect("a link"), Path::new("/dev/sda"));
        let clear = |place: &Place, names| {
            assert!(!points.clear_of(&path, place, names, unchecked).expect("cleared"));
            path.symlink_metadata().is_err()
        };
        let other = Place::Disk { controller: 0, lun: 2 };
        assert!(!clear(&other, names("8:16", "/dev/sdb")), "it leads to another");
        points.clear(&path).expect("nothing is mounted");
        assert!(clear(&other, names("8:0", "/dev/sda")), "it leads there");
        assert!(clear(&other, names("8:0", "/dev/sda")), "it is gone");
        // The device is gone already.
        link();
        assert!(!clear(&other, Names::default()), "it was another's");
        assert!(clear(&PLACE, Names::default()), "it was its own");
        link();
        points.forget(&PLACE);
        assert!(!clear(&PLACE, Names::default()), "nobody knows whose it is");
    }

    #[test]
    fn nothing_is_mounted_by_way_of_a_link_or_over_another_mount() {
        let dir = tempfile::tempdir().expect("a directory");
        let (points, link) = (MountPoints::default(), dir.path().join("link"));
        std::os::unix::fs::symlink("/proc", &link).expect("linked");
        let error = points.mount_at(&link, || panic!("it was mounted")).expect_err("a link").to_string();
        assert!(error.ends_with("/link is a link to /proc already"), "{error}");
        points.clear(&link).expect("nothing is there");
        assert_eq!(fs::read_link(&link).expect("it is nobody's"), Path::new("/proc"));
        let error = points.mount_at(Path::new("/proc"), || panic!("it was mounted")).expect_err("taken").to_string();
        assert!(error.ends_with("is mounted at /proc already"), "{error}");
    }

    #[test]
    fn what_is_mounted_of_another_device_stays() {
        let points = MountPoints::default();
        let proc = Mounted::at(Path::new("/proc")).expect("mounted");
        let clear =
            |names, check: fn() -> Result<(), StorageError>| points.clear_of(Path::new("/proc"), &PLACE, names, check);
        assert!(!clear(names("8:16", "/dev/sdb"), unchecked).expect("nothing to do"));
        assert!(!clear(Names::default(), unchecked).expect("nothing to do"));
        // Its own it would be, and is asked for.
        let refuse = || Err(StorageError::Bad("in use".into()));
        assert_eq!(clear(names(&proc.number, "/dev/x"), refuse).expect_err("in use").to_string(), "in use");
        // By what was noted of it when it came.
        points.note(Path::new("/proc"), PLACE, names(&proc.number, "/dev/x"));
        assert_eq!(clear(Names::default(), refuse).expect_err("in use").to_string(), "in use");
        assert!(Mounted::at(Path::new("/proc")).is_some());
    }

    #[test]
    fn whoever_keeps_a_device_busy_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let _open = fs::File::open(dir.path()).expect("open");
        assert!(holds(std::process::id(), dir.path()));
        assert!(by_whom(dir.path()).contains(&format!("({})", std::process::id())));
        let beside = dir.path().join("nothing");
        assert!(!holds(std::process::id(), &beside));
        assert_eq!(by_whom(&beside), "");
    }
}
