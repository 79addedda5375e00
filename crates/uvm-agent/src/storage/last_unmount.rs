//! At the end of the VM: all that stands on disks is unmounted.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, open, openat, syncfs};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MountFlags, UnmountFlags, fsconfig_create,
    fsconfig_reconfigure, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, fspick, mount_remount, unmount,
};

use super::mounts::Mounted;
use crate::log;

/// What a share was mounted over is found once that is gone.
const PASSES: usize = 2;
/// How long it may take to leave a share, of which nobody is asked.
const LEFT_WITHIN: Duration = Duration::from_secs(2);

/// Unmounts every disk and what keeps it from being unmounted, the last mounted first, so that their file systems are left
/// as whole ones. Nobody uses them any more.
///
/// The host of a share is asked for nothing: it may never answer, and a device with a request that is not answered keeps the
/// kernel from powering off if the host takes the device back at that moment. So with a share, each disk is synchronised by
/// itself, as the call for all file systems asks hosts, too; and no path is followed through a share: a disk that is mounted in
/// one is got at by another way.
pub(crate) fn unmount_disks() {
    if Mounted::all().iter().any(Mounted::is_share) {
        bring_to_disk_in_shares();
    } else {
        rustix::fs::sync();
    }
    for _ in 0..PASSES {
        for (path, what) in to_unmount(Mounted::all()) {
            let left = match what {
                What::Share => leave_share(path.clone()),
                What::Disk => leave_disk(&path),
                What::Other => leave(&path),
            };
            if let Err(e) = left {
                log::console(format_args!("cannot unmount {}: {e}", path.display()));
            }
        }
    }
    // It cannot be unmounted, and may be on a disk.
    if let Err(e) = synchronise(Path::new("/")) {
        log::console(format_args!("cannot bring the root to its disk: {e}"));
    }
}

/// Brings the disks that are mounted in a share to their disks, without a path that leads over one.
fn bring_to_disk_in_shares() {
    for disk in in_shares(&Mounted::all()) {
        if let Err(e) = bring_to_disk(disk) {
            log::console(format_args!("cannot bring {} to {}: {e}", disk.path.display(), disk.source));
        }
    }
}

/// Mounts the same file system once more, in no directory, and leaves it as a whole one if nobody has a file open to write to.
fn bring_to_disk(disk: &Mounted) -> Result<(), Errno> {
    let context = fsopen(&disk.filesystem, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", &disk.source)?;
    match fsconfig_create(&context) {
        // It is read-only: nothing was written to it.
        Err(Errno::BUSY | Errno::ROFS | Errno::ACCESS) => return Ok(()),
        made => made?,
    }
    let mounted = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    syncfs(openat(&mounted, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)?;
    let change = fspick(&mounted, "", FsPickFlags::FSPICK_EMPTY_PATH | FsPickFlags::FSPICK_CLOEXEC)?;
    fsconfig_set_flag(&change, "ro")?;
    match fsconfig_reconfigure(&change) {
        Err(Errno::BUSY) => Ok(()),
        changed => changed,
    }
}

/// The disks that are mounted in a share.
fn in_shares(mounts: &[Mounted]) -> Vec<&Mounted> {
    let is_in_one = |disk: &Mounted| mounts.iter().any(|mount| mount.is_share() && disk.path.starts_with(&mount.path));
    mounts.iter().filter(|mount| mount.source.starts_with("/dev/") && is_in_one(mount)).collect()
}

/// Brings what was written to a disk to it, whoever else has it mounted, and unmounts it; one that is in use is left whole, too,
/// if nothing can be written to it any more. Takes as long as the disk does.
fn leave_disk(path: &Path) -> Result<(), Errno> {
    match synchronise(path) {
        // Of some file systems a single file is mounted.
        Ok(()) | Err(Errno::NOTDIR) => {}
        Err(e) => log::console(format_args!("cannot bring {} to its disk: {e}", path.display())),
    }
    leave(path)
}

/// Unmounts what is mounted there, or leaves it read-only. It is not opened: what is no disk may have a share beneath it, whose
/// host is not to be asked.
fn leave(path: &Path) -> Result<(), Errno> {
    match unmount(path, UnmountFlags::NOFOLLOW) {
        Err(Errno::BUSY) => mount_remount(path, MountFlags::RDONLY, c""),
        left => left,
    }
}

fn synchronise(path: &Path) -> Result<(), Errno> {
    syncfs(open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Takes a share off what it is mounted on, and what is mounted in it with it. Its root is held on to: letting go of a share
/// asks its host.
fn leave_share(path: PathBuf) -> Result<(), Errno> {
    let (left, has_left) = mpsc::channel();
    let leaving = move || {
        let root = open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let detached = unmount(&path, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH);
        std::mem::forget(root);
        // Whoever waited may have gone on.
        let _ = left.send(detached);
    };
    std::thread::Builder::new().spawn(leaving).map_err(|_| Errno::AGAIN)?;
    has_left.recv_timeout(LEFT_WITHIN).unwrap_or(Err(Errno::TIMEDOUT))
}

/// What is to be unmounted, in this order, and what it is: shares, disks, overlays, and all that is mounted beneath
/// one of the latter.
/// Not what is mounted in a share, which goes with it, and not the root: that cannot be unmounted.
fn to_unmount(mounts: Vec<Mounted>) -> Vec<(PathBuf, What)> {
    let shares: Vec<PathBuf> = mounts.iter().filter(|mount| mount.is_share()).map(|mount| mount.path.clone()).collect();
    let mut disks: Vec<PathBuf> = Vec::new();
    let mut found = Vec::new();
    for mount in mounts {
        let is_share = mount.is_share();
        let Mounted { source, path, filesystem, .. } = mount;
        if path.parent().is_none() || shares.iter().any(|share| path.starts_with(share) && path != *share) {
            continue;
        }
        let is_disk = source.starts_with("/dev/");
        // It keeps the disks it stands on.
        let is_overlay = filesystem == "overlay";
        if is_share || is_overlay || is_disk || disks.iter().any(|disk| path.starts_with(disk)) {
            let what = if is_share {
                What::Share
            } else if is_disk {
                What::Disk
            } else {
                What::Other
            };
            found.push((path.clone(), what));
        }
        if is_disk || is_overlay {
            disks.push(path);
        }
    }
    found.reverse();
    found
}

/// What is mounted somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Share,
    Disk,
    /// On a disk, or over one.
    Other,
}

impl Mounted {
    /// Whether a host serves it.
    fn is_share(&self) -> bool {
        matches!(self.filesystem.as_str(), "9p" | "virtiofs")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_unmounted_after_what_is_on_them() {
        let mounts: String = [
            "/ - ext4 /dev/pmem0",
            "/proc - proc proc",
            "/a\\040b - ext4 /dev/sda",
            "/a\\040b/tmp - tmpfs tmpfs",
            "/a\\040b/share - 9p share",
            "/back\\134slash\\ - ext4 /dev/sdb",
            "/back - tmpfs tmpfs",
            "/alone - 9p 9p",
            "/alone/disk - ext4 /dev/sdc",
            "/alone/disk/tmp - tmpfs tmpfs",
            "/root - overlay overlay",
            "/root/proc - proc proc",
        ]
        .map(|mount| format!("1 1 0:1 / {} rw\n", mount.replace(" - ", " rw - ")))
        .concat();
        let found = to_unmount(Mounted::listed(&mounts));
        let found: Vec<_> = found.iter().map(|(path, what)| (path.to_str().expect("text"), *what)).collect();
        let expected = [
            ("/root/proc", What::Other),
            ("/root", What::Other),
            ("/alone", What::Share),
            ("/back\\slash\\", What::Disk),
            ("/a b/share", What::Share),
            ("/a b/tmp", What::Other),
            ("/a b", What::Disk),
        ];
        assert_eq!(found, expected);
        let mounts = Mounted::listed(&mounts);
        let in_shares: Vec<_> = in_shares(&mounts).into_iter().map(|disk| disk.source.as_str()).collect();
        assert_eq!(in_shares, ["/dev/sdc"]);
    }
}
