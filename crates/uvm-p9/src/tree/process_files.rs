//! `/proc/self/fd`: the way to a file that is held by a descriptor.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use super::TreeError;
use super::devices::is_proc;

/// The directory of this process's descriptors. An entry leads to the descriptor's file itself: the kernel follows it
/// without looking up any name of the tree, so nothing that is renamed or replaced there matters.
///
/// That holds for the entry itself. What is opened through one still has to be of a type that may be opened, which is
/// [`Tree::open_node`](super::Tree::open_node)'s to check.
#[derive(Debug)]
pub(super) struct ProcessFiles(OwnedFd);

const PATH: &str = "/proc/self/fd";

impl ProcessFiles {
    /// Opens it, once: whoever mounts something else over `/proc` later changes nothing for what goes by
    /// [`entry`](Self::entry).
    pub(super) fn open() -> Result<Self, TreeError> {
        let opened = openat(CWD, PATH, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        match opened.and_then(|fd| Ok((is_proc(&fd)?, fd))) {
            Ok((true, fd)) => Ok(Self(fd)),
            Ok((false, _)) | Err(_) => Err(TreeError::NoProc { path: PATH.into() }),
        }
    }

    /// The directory and the entry in it, for calls that take both.
    pub(super) fn entry(&self, fd: impl AsFd) -> (&OwnedFd, String) {
        (&self.0, fd.as_fd().as_raw_fd().to_string())
    }

    /// The entry as a path, for calls that take nothing else. It is looked up anew each time: whoever mounts something else
    /// over `/proc`, root in this process's mount namespace, decides what these calls find. A guest cannot.
    pub(super) fn path(fd: impl AsFd) -> String {
        format!("{PATH}/{}", fd.as_fd().as_raw_fd())
    }

    /// Opens the file of a descriptor once more.
    pub(super) fn reopen(&self, fd: impl AsFd, flags: OFlags) -> Result<OwnedFd, Errno> {
        let (directory, entry) = self.entry(fd);
        openat(directory, entry, flags | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())
    }
}
