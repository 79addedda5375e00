//! At the end of the VM: all that stands on disks is unmounted.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};

use super::mounts::Mounted;
use crate::log;

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
    for Mounted { source, path, filesystem, .. } in mounts {
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
            "/root - overlay overlay",
            "/root/proc - proc proc",
        ]
        .map(|mount| format!("1 1 0:1 / {} rw\n", mount.replace(" - ", " rw - ")))
        .concat();
        let found = to_unmount(Mounted::listed(&mounts));
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
}
