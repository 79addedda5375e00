//! Files that a client knows, by descriptors.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Statx, StatxFlags, statx};
use rustix::io::Errno;

use super::Component;
use super::descriptors::Permit;

/// What tells files of the host apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    /// The file system.
    pub device: u64,
    /// The file in it.
    pub inode: u64,
}

/// What a file is. It never becomes anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A directory.
    Directory,
    /// A regular file.
    Regular,
    /// A symbolic link.
    Symlink,
    /// A fifo.
    Fifo,
    /// A socket.
    Socket,
    /// A device that is written in blocks.
    BlockDevice,
    /// A device of another kind.
    CharacterDevice,
}

impl FileKind {
    /// `None` for what Linux does not have.
    pub(super) fn from_type(kind: FileType) -> Option<Self> {
        match kind {
            FileType::Directory => Some(Self::Directory),
            FileType::RegularFile => Some(Self::Regular),
            FileType::Symlink => Some(Self::Symlink),
            FileType::Fifo => Some(Self::Fifo),
            FileType::Socket => Some(Self::Socket),
            FileType::BlockDevice => Some(Self::BlockDevice),
            FileType::CharacterDevice => Some(Self::CharacterDevice),
            FileType::Unknown => None,
        }
    }
}

/// A file of a [`Tree`](super::Tree), whatever its name is now and whether it still has one. Clones share a descriptor.
#[derive(Clone, Debug)]
pub struct Node {
    pub(super) handle: Arc<Handle>,
    /// Where it was found; `None` for the root.
    pub(super) place: Option<Place>,
}

impl Node {
    /// Which file it is.
    pub fn id(&self) -> FileId {
        self.handle.id
    }

    /// What it is.
    pub fn kind(&self) -> FileKind {
        self.handle.kind
    }

    /// Whether it is the same file, by the same descriptor.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.handle, &other.handle)
    }

    pub(super) fn must_be_directory(&self) -> Result<(), Errno> {
        if self.kind() == FileKind::Directory { Ok(()) } else { Err(Errno::NOTDIR) }
    }
}

/// A name in a directory.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) directory: Arc<Handle>,
    pub(super) name: Arc<[u8]>,
}

impl Place {
    pub(super) fn new(directory: &Node, name: Component<'_>) -> Self {
        Self { directory: Arc::clone(&directory.handle), name: name.as_bytes().into() }
    }

    /// The directory, as what names are looked up in.
    pub(super) fn directory(&self) -> Node {
        Node { handle: Arc::clone(&self.directory), place: None }
    }
}

/// An `O_PATH` descriptor and what never changes about its file.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) fd: OwnedFd,
    pub(super) id: FileId,
    pub(super) kind: FileKind,
    /// Whether it is the root's directory, wherever it was found.
    pub(super) is_root: bool,
    _permit: Permit,
}

impl Handle {
    pub(super) fn new(fd: OwnedFd, permit: Permit) -> Result<Self, Errno> {
        let stat = stat_of(&fd)?;
        let kind = FileKind::from_type(FileType::from_raw_mode(stat.stx_mode.into())).ok_or(Errno::NODEV)?;
        Ok(Self { fd, id: FileId::of(&stat), kind, is_root: false, _permit: permit })
    }
}

impl FileId {
    pub(super) fn of(stat: &Statx) -> Self {
        Self { device: u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor), inode: stat.stx_ino }
    }
}

/// The attributes of a descriptor's own file.
pub(super) fn stat_of(fd: &OwnedFd) -> Result<Statx, Errno> {
    statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::BTIME)
}
