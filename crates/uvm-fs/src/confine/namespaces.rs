//! Namespaces of its own, in which there is nothing but the share.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_change, move_mount, open_tree, unmount,
};

use super::{ConfineError, at};
use crate::guard::Access;
use crate::sys;

/// Where a process finds what it has open.
const OWN_FILES: &str = "/proc/self/fd";

/// Opens `/proc/self/fd` where it is: `..` leads from it to the root of the mounts that the process was started in.
pub(crate) fn open_own_files() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(OWN_FILES, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// What a process has of files.
#[derive(Debug)]
pub(crate) struct Place {
    /// The directory, which is the working directory.
    pub(crate) directory: OwnedFd,
    /// `/proc/self/fd`, by which a descriptor is opened anew.
    pub(crate) own_files: OwnedFd,
}

/// Makes the directory the root of a file system in which there is nothing else: no device opens there, no set-user-id bit
/// counts and no program runs; and leaves networks, inter-process communication and host name behind.
///
/// Without privileges, a user namespace comes first, in which this user is the only one.
///
/// # Errors
/// The system does not let it. Before the directory has become the root, nothing has changed that would keep it from
/// being served.
pub(crate) fn enter(directory: &OwnedFd, access: Access) -> Result<Place, ConfineError> {
    // A new mount namespace has its own copy of every mount; the working directory is in the copy then.
    rustix::process::fchdir(directory).map_err(at("enter the directory"))?;
    let own = libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    if rustix::process::geteuid().is_root() {
        sys::unshare(own).map_err(at("make namespaces"))?;
    } else {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        sys::unshare(own | libc::CLONE_NEWUSER).map_err(at("make namespaces with a user namespace"))?;
        map_ids(uid, gid).map_err(at("map the user into its namespace"))?;
    }
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(at("keep mounts private"))?;
    // A mount of its own, which is nowhere mounted: one that is opened by its path would lead on, by `..`, through all of
    // the host's mounts. It is this process's: nothing forks from here on.
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let own_files = open_tree(CWD, OWN_FILES, flags).map_err(at("copy the mount of its own files in /proc"))?;
    // Copied with what is mounted below: guests see that, too.
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, ".", flags).map_err(at("copy the share's mount"))?;
    let read_only = if access == Access::ReadOnly { libc::MOUNT_ATTR_RDONLY } else { 0 };
    let attributes = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC | read_only;
    sys::set_mount_attributes(tree.as_fd(), attributes).map_err(at("restrict the share's mount"))?;
    move_mount(&tree, "", CWD, ".", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(at("mount the share"))?;
    rustix::process::fchdir(&tree).map_err(at("enter the share's mount"))?;
    // The old root is put onto the new one, and taken off it.
    rustix::process::pivot_root(".", ".").map_err(at("make the share the root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(at("leave the old root"))?;
    rustix::process::chdir("/").map_err(at("enter the new root"))?;
    let directory = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(at("open the new root"))?;
    Ok(Place { directory, own_files })
}

/// The one user and group that a process without privileges may have in a namespace of its own.
fn map_ids(uid: u32, gid: u32) -> io::Result<()> {
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))
}
