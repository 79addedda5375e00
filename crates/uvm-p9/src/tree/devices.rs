//! The file systems within a tree: which may be entered, and numbers of files that clients tell them apart by.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{PROC_SUPER_MAGIC, fstatfs};
use rustix::io::Errno;

use super::node::{FileId, Handle};

/// The file systems met so far.
#[derive(Debug)]
pub(super) struct Devices {
    root: u64,
    /// In the order they were met, each number once, also of those that are gone. Only the host mounts file systems (and
    /// automounts, which a client's lookups may set off), so it is the host that has this grow.
    others: Mutex<Vec<u64>>,
}

impl Devices {
    pub(super) fn new(root: u64) -> Self {
        Self { root, others: Mutex::new(Vec::new()) }
    }

    /// Refuses a file of a file system that must not be entered.
    pub(super) fn admit(&self, handle: &Handle) -> Result<(), Errno> {
        let device = handle.id.device;
        if device == self.root {
            return Ok(());
        }
        // Numbers of devices are used anew once their file system is gone, so each file is looked at.
        if is_proc(&handle.fd)? {
            return Err(Errno::ACCESS);
        }
        self.index(device);
        Ok(())
    }

    /// A number for clients, who have one file system. Files of the root's keep their own numbers; those of others differ
    /// in the upper 16 bits. A file system that fills these, or the 65,536th, may have a number come up twice: to a client
    /// two files then look like hard links of one. This server never tells files apart by it.
    pub(super) fn number(&self, id: FileId) -> u64 {
        if id.device == self.root { id.inode } else { id.inode ^ (self.index(id.device) << 48) }
    }

    fn index(&self, device: u64) -> u64 {
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        let position = others.iter().position(|&other| other == device).unwrap_or_else(|| {
            others.push(device);
            others.len() - 1
        });
        position as u64 + 1
    }
}

/// Whether the file is on a file system of processes.
pub(super) fn is_proc(fd: &OwnedFd) -> Result<bool, Errno> {
    Ok(fstatfs(fd)?.f_type == PROC_SUPER_MAGIC)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn files_of_all_file_systems_have_numbers_of_their_own() {
        let devices = Devices::new(5);
        let ids = |device| (1..4).map(move |inode| FileId { device, inode });
        assert!(ids(5).all(|id| devices.number(id) == id.inode), "the root's keep theirs");
        let all: BTreeSet<u64> = [5, 6, 7].into_iter().flat_map(ids).map(|id| devices.number(id)).collect();
        assert_eq!(all.len(), 9);
        let id = FileId { device: 6, inode: 1 };
        assert_eq!(devices.number(id), devices.number(id));
    }
}
