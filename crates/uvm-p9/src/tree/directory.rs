//! Open directories.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, FileType, RawDir, RawDirEntry, SeekFrom, fsync, seek, statat};
use rustix::io::Errno;

use super::descriptors::Permit;
use super::node::Handle;
use super::{Component, FileId, FileKind, Node, Tree};

/// An open directory. Nothing of what is read waits here for the next time: a client may have thousands of them open.
#[derive(Debug)]
pub struct Directory {
    fd: OwnedFd,
    handle: Arc<Handle>,
    /// The offset of what the descriptor reads next; `None` where that is not known.
    position: Mutex<Option<u64>>,
    _permit: Permit,
}

/// An entry of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its name; also `.` and `..`.
    pub name: &'a [u8],
    /// Its file. Of `..` in the root, and of a mount: the directory itself, and what is below the mount.
    pub id: FileId,
    /// What it is; `None` when it is gone already.
    pub kind: Option<FileKind>,
    /// The offset after it.
    pub next: u64,
}

/// Entries are read from the kernel in pieces of so many bytes. The longest takes 280.
const PIECE: std::ops::RangeInclusive<usize> = 512..=64 * 1024;

/// About how many bytes an entry takes besides its name: with the kernel, and with whoever takes it.
const ENTRY: usize = 24;

impl Directory {
    pub(super) fn new(fd: OwnedFd, permit: Permit, handle: Arc<Handle>) -> Self {
        Self { fd, handle, position: Mutex::default(), _permit: permit }
    }

    /// Reads entries from `offset` on: 0, or [`Entry::next`] of one read before, which holds as long as the file system
    /// keeps to it. `take` is called for each until it returns `false`, for an entry that it has no room for: that one is
    /// read again the next time. `room` is about how many bytes of entries it will take, each its name and 24 more.
    pub fn read(
        &self,
        tree: &Tree,
        offset: u64,
        room: usize,
        mut take: impl FnMut(Entry<'_>) -> bool,
    ) -> Result<(), Errno> {
        let mut position = self.position.lock().unwrap_or_else(PoisonError::into_inner);
        // Not known again before all of this has gone well.
        let known = position.take();
        if known != Some(offset) || offset == 0 {
            // Also when it seems to be at the beginning: that is how new entries come to be seen.
            seek(&self.fd, SeekFrom::Start(offset))?;
        }
        let (mut at, mut left) = (offset, room);
        let mut buffer = Vec::with_capacity(room.clamp(*PIECE.start(), *PIECE.end()));
        loop {
            // No more than there is room for, so that little is read twice.
            let piece = left.clamp(*PIECE.start(), *PIECE.end());
            let mut entries = RawDir::new(&self.fd, &mut buffer.spare_capacity_mut()[..piece]);
            let mut ended = true;
            while let Some(entry) = entries.next() {
                let entry = entry?;
                ended = false;
                if self.shows(tree, entry.file_name().to_bytes()) {
                    let entry = self.entry(&entry);
                    if !take(entry) {
                        // At once: some file systems count entries, and know the place only until others are removed.
                        seek(&self.fd, SeekFrom::Start(at))?;
                        *position = Some(at);
                        return Ok(());
                    }
                    left = left.saturating_sub(ENTRY + entry.name.len());
                }
                at = entry.next_entry_cookie();
                if entries.is_buffer_empty() {
                    break;
                }
            }
            if ended {
                *position = Some(at);
                return Ok(());
            }
        }
    }

    fn shows(&self, tree: &Tree, name: &[u8]) -> bool {
        match Component::new(name) {
            Ok(name) => tree.admits(&Node { handle: Arc::clone(&self.handle), place: None }, name),
            Err(_) => matches!(name, b"." | b".."),
        }
    }

    fn entry<'a>(&self, raw: &'a RawDirEntry<'_>) -> Entry<'a> {
        let name = raw.file_name().to_bytes();
        let own = name == b"." || self.handle.is_root && name == b"..";
        // The number of the root's parent is none of the client's business.
        let id = if own { self.handle.id } else { FileId { inode: raw.ino(), ..self.handle.id } };
        let kind = match raw.file_type() {
            // Some file systems do not tell.
            FileType::Unknown if !own => statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)
                .ok()
                .and_then(|stat| FileKind::from_type(FileType::from_raw_mode(stat.st_mode))),
            FileType::Unknown => Some(FileKind::Directory),
            known => FileKind::from_type(known),
        };
        Entry { name, id, kind, next: raw.next_entry_cookie() }
    }

    /// Waits until the entries are on the disk.
    pub fn sync(&self) -> Result<(), Errno> {
        fsync(&self.fd)
    }
}
