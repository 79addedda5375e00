//! Where something is mounted: made, cleared, and who keeps it busy.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};

use super::StorageError;
use crate::log;

/// How many processes that keep a mount busy are named.
const NAMED: usize = 5;

/// Makes the directory, with those above it, for root alone, and has something mounted there; if that fails, what was made
/// is removed. A directory that something is mounted at is refused: the removal of either would take the other's.
pub(super) fn mount_at(path: &str, mount: impl FnOnce() -> Result<(), StorageError>) -> Result<(), StorageError> {
    let path = absolute(path)?;
    let is_new = make(path)?;
    // At what was made just now nothing is mounted; to read of all mounts takes the longer, the more there are.
    if !is_new {
        check_free(path)?;
    }
    let mounted = mount();
    if mounted.is_err() && is_new {
        // An empty directory is no harm.
        let _ = fs::remove_dir(path);
    }
    mounted
}

/// Why nothing is mounted at `path` where the device for it was waited for in vain. What is waited for in vain the host takes
/// back: if something else is mounted there, or a link to another device is there, which that would remove, this is said instead.
pub(super) fn taken_or(path: &str, late: StorageError) -> StorageError {
    absolute(path).and_then(|path| check_free(path).and_then(|()| check_unlinked(path))).err().unwrap_or(late)
}

/// An error if a link is there.
fn check_unlinked(path: &Path) -> Result<(), StorageError> {
    match fs::read_link(path) {
        Ok(to) => Err(StorageError::Bad(format!("{} is a link to {} already", path.display(), to.display()))),
        Err(_) => Ok(()),
    }
}

/// An error if something is mounted there.
fn check_free(path: &Path) -> Result<(), StorageError> {
    match Mounted::at(path) {
        Some(Mounted { source, .. }) => {
            Err(StorageError::Bad(format!("{source} is mounted at {} already", path.display())))
        }
        None => Ok(()),
    }
}

/// Makes the directory, with those above it, for root alone; says whether it was not there.
fn make(path: &Path) -> Result<bool, StorageError> {
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    let made = match builder.create(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => builder.recursive(true).create(path),
        made => made,
    };
    match made {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(StorageError::at(format!("make {}", path.display()))(e)),
    }
}

/// Makes `path` a link to a device.
pub(super) fn link(path: &str, device: &Path) -> Result<(), StorageError> {
    let path = absolute(path)?;
    if let Some(above) = path.parent() {
        make(above)?;
    }
    let linked = std::os::unix::fs::symlink(device, path);
    linked.map_err(StorageError::at(format!("link {} to {}", path.display(), device.display())))
}

/// [`clear`], but if something is mounted there that is not `expected`, that is an error.
pub(super) fn clear_if(path: &str, expected: impl FnOnce(&Mounted) -> bool) -> Result<(), StorageError> {
    let at = absolute(path)?;
    match Mounted::at(at) {
        Some(mounted) if !expected(&mounted) => Err(StorageError::Bad(format!(
            "{} ({}) is mounted at {}, not what is to be removed",
            mounted.source,
            mounted.filesystem,
            at.display()
        ))),
        _ => clear(path),
    }
}

/// Unmounts what is mounted at `path` and removes the directory; removes a link that is there instead. That nothing is
/// there is success.
pub(super) fn clear(path: &str) -> Result<(), StorageError> {
    let path = absolute(path)?;
    let removing = || StorageError::at(format!("remove {}", path.display()));
    // Unlike its attributes, what a link says is never asked of a share's server, which may have gone.
    match fs::read_link(path) {
        Ok(_) => return fs::remove_file(path).map_err(removing()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        // It is no link.
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => {}
        Err(e) => return Err(removing()(e)),
    }
    match unmount(path, UnmountFlags::NOFOLLOW) {
        // It is no mount point: an earlier request has unmounted it.
        Ok(()) | Err(Errno::INVAL) => {}
        Err(Errno::BUSY) => {
            let step = format!("unmount {}, which is in use{}", path.display(), by_whom(path));
            return Err(StorageError::at(step)(Errno::BUSY.into()));
        }
        Err(e) => return Err(StorageError::at(format!("unmount {}", path.display()))(e.into())),
    }
    match fs::remove_dir(path) {
        // It was there before, with something in it.
        Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty || e.kind() == io::ErrorKind::ResourceBusy => Ok(()),
        removed => removed.map_err(removing()),
    }
}

/// How long a share's host may take at the end of the VM.
const LEFT_WITHIN: Duration = Duration::from_secs(2);

/// Unmounts every disk and what keeps it from being unmounted, the last mounted first, so that their file systems are left
/// as whole ones. Nobody uses them any more.
pub(crate) fn unmount_disks() {
    for (path, is_share) in to_unmount(Mounted::all()) {
        let left = if is_share { leave_share(path.clone()) } else { leave(&path) };
        if let Err(e) = left {
            log::console(format_args!("cannot unmount {}: {e}", path.display()));
        }
    }
}

/// Unmounts a disk; one that is in use is left whole, too, if nothing can be written to it any more.
fn leave(path: &Path) -> Result<(), Errno> {
    match unmount(path, UnmountFlags::NOFOLLOW) {
        Err(Errno::BUSY) => mount_remount(path, MountFlags::RDONLY, c""),
        left => left,
    }
}

/// Takes a share off what it is mounted on. Its host is told so, and may not answer: that is not waited for without limit.
fn leave_share(path: PathBuf) -> Result<(), Errno> {
    let (left, has_left) = mpsc::channel();
    let leaving = move || {
        // Whoever waited may have gone on.
        let _ = left.send(unmount(path, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH));
    };
    std::thread::Builder::new().spawn(leaving).map_err(|_| Errno::AGAIN)?;
    has_left.recv_timeout(LEFT_WITHIN).unwrap_or(Err(Errno::TIMEDOUT))
}

/// What is to be unmounted, in this order, and whether it is a share: shares, disks, overlays, and all that is mounted
/// beneath one of the latter.
/// Not the root: that cannot be unmounted.
fn to_unmount(mounts: Vec<Mounted>) -> Vec<(PathBuf, bool)> {
    let mut disks: Vec<PathBuf> = Vec::new();
    let mut found = Vec::new();
    for Mounted { source, path, filesystem } in mounts {
        if path.parent().is_none() {
            continue;
        }
        let is_share = matches!(filesystem.as_str(), "9p" | "virtiofs");
        let is_disk = source.starts_with("/dev/");
        // It keeps the disks it stands on.
        let is_overlay = filesystem == "overlay";
        if is_share || is_overlay || is_disk || disks.iter().any(|disk| path.starts_with(disk)) {
            found.push((path.clone(), is_share));
        }
        if is_disk || is_overlay {
            disks.push(path);
        }
    }
    found.reverse();
    found
}

/// A line of the kernel's list of mounts, in which some characters are written as octal numbers.
#[derive(Debug)]
pub(super) struct Mounted {
    pub(super) source: String,
    pub(super) path: PathBuf,
    pub(super) filesystem: String,
}

impl Mounted {
    /// What is mounted there; the last one hides the others.
    pub(super) fn at(path: &Path) -> Option<Self> {
        Self::all().into_iter().rfind(|mounted| mounted.path == path)
    }

    /// All that is mounted, in the order it came.
    fn all() -> Vec<Self> {
        Self::listed(&fs::read_to_string("/proc/self/mounts").unwrap_or_default())
    }

    fn listed(mounts: &str) -> Vec<Self> {
        mounts.lines().filter_map(Self::parse).collect()
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let (source, target, filesystem) = (words.next()?, words.next()?, words.next()?);
        Some(Self {
            source: String::from_utf8_lossy(&unescaped(source)).into_owned(),
            path: OsString::from_vec(unescaped(target)).into(),
            filesystem: filesystem.to_owned(),
        })
    }
}

/// Where a file system of one of these devices, by their numbers (`8:1`), is mounted, but at `path`.
pub(super) fn mounted_elsewhere(devices: &[String], path: &str) -> Option<PathBuf> {
    // No mount point is asked what it is: its server may have gone.
    elsewhere(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default(), devices, Path::new(path))
}

fn elsewhere(mounts: &str, devices: &[String], path: &Path) -> Option<PathBuf> {
    let places = mounts.lines().filter_map(|line| {
        // Its number, its parent's, the device's, what of it is mounted, where.
        let mut words = line.split(' ').skip(2);
        let (device, place) = (words.next()?, words.nth(1)?);
        devices.iter().any(|number| number == device).then(|| PathBuf::from(OsString::from_vec(unescaped(place))))
    });
    places.into_iter().find(|place| place != path)
}

fn unescaped(word: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = word.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let octal = after.first_chunk::<3>().filter(|_| *first == b'\\').and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        bytes.push(octal.unwrap_or(*first));
        rest = octal.map_or(after, |_| &after[3..]);
    }
    bytes
}

/// The path, if something may be mounted there.
pub(super) fn absolute(path: &str) -> Result<&Path, StorageError> {
    let directory = Path::new(path);
    if directory.is_absolute() && directory.parent().is_some() {
        return Ok(directory);
    }
    Err(StorageError::Bad(format!("mount path {path:?} is not the full path of a directory beneath the root")))
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

    #[test]
    fn other_mounts_of_a_device_are_found_by_its_numbers() {
        let mounts = "22 1 8:16 / /run/data rw,relatime shared:1 - ext4 /dev/sdb rw\n\
                      23 1 8:17 /sub /mnt/a\\040b rw - ext4 /dev/disk/by-id/x rw\n\
                      24 1 0:5 / /dev rw - devtmpfs devtmpfs rw\n";
        let devices = |numbers: &[&str]| numbers.iter().map(|&number| number.to_owned()).collect::<Vec<_>>();
        let found = |numbers: &[&str], path: &str| elsewhere(mounts, &devices(numbers), Path::new(path));
        assert_eq!(found(&["8:16"], "/run/data"), None);
        assert_eq!(found(&["8:16"], ""), Some("/run/data".into()));
        assert_eq!(found(&["8:16", "8:17"], "/run/data"), Some("/mnt/a b".into()));
        assert_eq!(found(&["8:1"], ""), None);
    }

    #[test]
    fn directories_are_made_and_cleared_and_links_too() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a/b");
        let text = path.to_str().expect("text");
        let fails = || {
            assert!(path.is_dir());
            Err(StorageError::Bad("no mount".into()))
        };
        mount_at(text, fails).expect_err("it fails");
        assert!(!path.exists());
        // What was there stays.
        mount_at(text, || Ok(())).expect("made");
        mount_at(text, fails).expect_err("it fails");
        assert!(path.is_dir());
        clear(text).expect("not mounted");
        clear(text).expect("gone already");
        assert!(!path.exists());
        let late = || StorageError::Late("late".into());
        assert_eq!(taken_or(text, late()).to_string(), "late");
        link(text, Path::new("/dev/sda")).expect("linked");
        assert!(taken_or(text, late()).to_string().ends_with("is a link to /dev/sda already"));
        assert_eq!(fs::read_link(&path).expect("a link"), Path::new("/dev/sda"));
        clear(text).expect("removed");
        assert!(path.symlink_metadata().is_err());
    }

    #[test]
    fn a_directory_with_something_in_it_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("file"), "").expect("written");
        clear(dir.path().to_str().expect("text")).expect("not mounted");
        assert!(dir.path().join("file").exists());
    }

    #[test]
    fn disks_are_unmounted_after_what_is_on_them() {
        let mounts = "/dev/pmem0 / ext4 ro 0 0\nproc /proc proc rw 0 0\n/dev/sda /a\\040b ext4 rw 0 0\n\
                      tmpfs /a\\040b/tmp tmpfs rw 0 0\nshare /a\\040b/share 9p rw 0 0\n\
                      /dev/sdb /back\\134slash\\ ext4 rw 0 0\ntmpfs /back tmpfs rw 0 0\n9p /alone 9p rw 0 0\n\
                      overlay /root overlay rw 0 0\nproc /root/proc proc rw 0 0\n\n";
        let found = to_unmount(Mounted::listed(mounts));
        let found: Vec<_> = found.iter().map(|(path, share)| (path.to_str().expect("text"), *share)).collect();
        let expected = [
            ("/root/proc", false),
            ("/root", false),
            ("/alone", true),
            ("/back\\slash\\", false),
            ("/a b/share", true),
            ("/a b/tmp", false),
            ("/a b", false),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn nothing_is_mounted_over_another_mount() {
        let error = mount_at("/proc", || panic!("it was mounted")).expect_err("it is mounted").to_string();
        assert!(error.ends_with("is mounted at /proc already"), "{error}");
    }

    #[test]
    fn paths_are_full_ones_and_not_the_root() {
        for path in ["", "/", "relative", "./x"] {
            let error = mount_at(path, || panic!("{path}")).expect_err(path).to_string();
            assert!(error.contains(&format!("{path:?}")), "{error}");
        }
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
