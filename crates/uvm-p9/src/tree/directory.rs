//! Open directories.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, FileType, RawDir, SeekFrom, fsync, seek, statat};
use rustix::io::Errno;

use super::node::{Handle, Permit};
use super::{Component, FileId, FileKind, Node, Tree};

/// An open directory.
#[derive(Debug)]
pub struct Directory {
    fd: OwnedFd,
    handle: Arc<Handle>,
    cursor: Mutex<Cursor>,
    _permit: Permit,
}

/// Where reading is. The descriptor has one position, behind the entries that wait here.
#[derive(Debug, Default)]
struct Cursor {
    /// The offset of what comes next.
    at: u64,
    /// Read from the kernel, and not yet taken: few, as no more is read than there is room for.
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    name: Box<[u8]>,
    inode: u64,
    kind: FileType,
    next: u64,
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

impl Directory {
    pub(super) fn new(fd: OwnedFd, permit: Permit, handle: Arc<Handle>) -> Self {
        Self { fd, handle, cursor: Mutex::default(), _permit: permit }
    }

    /// Reads entries from `offset` on: 0, or [`Entry::next`] of one read before, which holds as long as the file system
    /// keeps to it. `take` is called for each until it returns `false`, for an entry that it has no room for. `room` is
    /// about how many bytes of entries it will take.
    pub fn read(
        &self,
        tree: &Tree,
        offset: u64,
        room: usize,
        mut take: impl FnMut(Entry<'_>) -> bool,
    ) -> Result<(), Errno> {
        let mut cursor = self.cursor.lock().unwrap_or_else(PoisonError::into_inner);
        if cursor.at != offset || offset == 0 {
            // Also when it seems to be at the beginning: that is how new entries come to be seen.
            cursor.waiting.clear();
            seek(&self.fd, SeekFrom::Start(offset))?;
            cursor.at = offset;
        }
        let mut buffer = Vec::new();
        loop {
            while let Some(waiting) = cursor.waiting.front() {
                if self.shows(tree, &waiting.name) && !take(self.entry(waiting)) {
                    return Ok(());
                }
                cursor.at = waiting.next;
                cursor.waiting.pop_front();
            }
            buffer.reserve(room.clamp(*PIECE.start(), *PIECE.end()));
            self.fill(&mut cursor.waiting, &mut buffer)?;
            if cursor.waiting.is_empty() {
                return Ok(());
            }
        }
    }

    fn fill(&self, waiting: &mut VecDeque<Waiting>, buffer: &mut Vec<u8>) -> Result<(), Errno> {
        let mut entries = RawDir::new(&self.fd, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry?;
            waiting.push_back(Waiting {
                name: entry.file_name().to_bytes().into(),
                inode: entry.ino(),
                kind: entry.file_type(),
                next: entry.next_entry_cookie(),
            });
            if entries.is_buffer_empty() {
                break;
            }
        }
        Ok(())
    }

    fn shows(&self, tree: &Tree, name: &[u8]) -> bool {
        match Component::new(name) {
            Ok(name) => tree.admits(&Node { handle: Arc::clone(&self.handle), place: None }, name),
            Err(_) => matches!(name, b"." | b".."),
        }
    }

    fn entry<'a>(&self, waiting: &'a Waiting) -> Entry<'a> {
        let Waiting { name, inode, kind, next } = waiting;
        let own = matches!(&name[..], b".") || self.handle.is_root && matches!(&name[..], b"..");
        // The number of the root's parent is none of the client's business.
        let id = if own { self.handle.id } else { FileId { inode: *inode, ..self.handle.id } };
        let kind = match kind {
            // Some file systems do not tell.
            FileType::Unknown if !own => statat(&self.fd, &name[..], AtFlags::SYMLINK_NOFOLLOW)
                .ok()
                .and_then(|stat| FileKind::from_type(FileType::from_raw_mode(stat.st_mode))),
            FileType::Unknown => Some(FileKind::Directory),
            known => FileKind::from_type(*known),
        };
        Entry { name, id, kind, next: *next }
    }

    /// Waits until the entries are on the disk.
    pub fn sync(&self) -> Result<(), Errno> {
        fsync(&self.fd)
    }
}
