//! Opening files, and making them.

use std::sync::Arc;

use rustix::fs::{Mode, OFlags, fchmod, openat2};
use rustix::io::Errno;

use super::node::{Handle, Place, stat_of};
use super::{CONFINED, Component, Creator, Directory, File, FileKind, Node, Ownership, Tree, plain_mode};

/// What is done with an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileAccess {
    /// It is read.
    Read,
    /// It is written.
    Write,
    /// Both.
    ReadWrite,
}

/// When what is written is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// When the host likes.
    Later,
    /// The data at once.
    Data,
    /// The data and the attributes at once.
    All,
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenMode {
    /// What for.
    pub access: FileAccess,
    /// Whether it is emptied.
    pub truncate: bool,
    /// Whether writes go to its end, whatever their offset.
    pub append: bool,
    /// When writes are on the disk.
    pub durability: Durability,
    /// Whether it has to be a directory.
    pub directory: bool,
}

impl OpenMode {
    fn writes(self) -> bool {
        self.access != FileAccess::Read || self.truncate
    }

    fn flags(self) -> OFlags {
        let mut flags = match self.access {
            FileAccess::Read => OFlags::RDONLY,
            FileAccess::Write => OFlags::WRONLY,
            FileAccess::ReadWrite => OFlags::RDWR,
        };
        flags.set(OFlags::TRUNC, self.truncate);
        flags.set(OFlags::APPEND, self.append);
        flags
            | match self.durability {
                Durability::Later => OFlags::empty(),
                Durability::Data => OFlags::DSYNC,
                Durability::All => OFlags::SYNC,
            }
    }
}

/// What to do about a file that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenThere {
    /// Open it.
    Open,
    /// Fail with `EEXIST`.
    Fail,
}

/// An open file.
#[derive(Debug)]
pub enum Opened {
    /// A regular one.
    File(File),
    /// A directory.
    Directory(Directory),
}

/// How often a file may be made and removed by somebody else while it is being opened or made.
const ATTEMPTS: u32 = 16;

impl Tree {
    /// Opens a regular file or a directory.
    ///
    /// # Errors
    /// `EPERM` for a fifo, a socket or a device, `ELOOP` for a symbolic link.
    pub fn open_node(&self, node: &Node, mode: OpenMode) -> Result<Opened, Errno> {
        if mode.writes() {
            self.must_be_writable()?;
        }
        match node.kind() {
            FileKind::Directory if mode.writes() => Err(Errno::ISDIR),
            FileKind::Directory => {
                let permit = self.budget.take()?;
                let fd = self.process_files.reopen(&node.handle.fd, OFlags::RDONLY | OFlags::DIRECTORY)?;
                Ok(Opened::Directory(Directory::new(fd, permit, Arc::clone(&node.handle))))
            }
            FileKind::Regular if mode.directory => Err(Errno::NOTDIR),
            FileKind::Regular => self.open_regular(node, mode).map(Opened::File),
            FileKind::Symlink => Err(Errno::LOOP),
            FileKind::Fifo | FileKind::Socket | FileKind::BlockDevice | FileKind::CharacterDevice => Err(Errno::PERM),
        }
    }

    /// Makes the regular file `name` in `directory`, with the permissions `mode`, and opens it.
    ///
    /// # Errors
    /// Those of [`open_node`](Self::open_node) for what is there already; `EACCES` for a name that the tree is not
    /// restricted to.
    pub fn create(
        &self,
        directory: &Node,
        name: Component<'_>,
        open: OpenMode,
        when_there: WhenThere,
        mode: u32,
        creator: Creator,
    ) -> Result<(Node, Opened), Errno> {
        self.must_admit_change(directory, name)?;
        if open.directory {
            return Err(Errno::INVAL);
        }
        for _ in 0..ATTEMPTS {
            // Always exclusive: the kernel must not open what somebody else has put there before its type is known.
            match self.create_new(directory, name, open, mode, creator) {
                Err(Errno::EXIST) if when_there == WhenThere::Open => {}
                done => return done.map(|(node, file)| (node, Opened::File(file))),
            }
            match self.lookup(directory, name) {
                Err(Errno::NOENT) => {}
                found => {
                    let node = found?;
                    let opened = self.open_node(&node, open)?;
                    return Ok((node, opened));
                }
            }
        }
        Err(Errno::BUSY)
    }

    fn create_new(
        &self,
        directory: &Node,
        name: Component<'_>,
        open: OpenMode,
        mode: u32,
        creator: Creator,
    ) -> Result<(Node, File), Errno> {
        let permits = (self.budget.take()?, self.budget.take()?);
        let flags = open.flags().difference(OFlags::TRUNC)
            | OFlags::CREATE
            | OFlags::EXCL
            | OFlags::NOFOLLOW
            | OFlags::NOCTTY
            | OFlags::CLOEXEC;
        let fd = openat2(
            &directory.handle.fd,
            name.as_bytes(),
            flags,
            plain_mode(mode) & Mode::from_raw_mode(0o777),
            CONFINED,
        )?;
        if self.ownership == Ownership::Passthrough {
            let (uid, gid) = super::attributes::owners(creator)?;
            rustix::fs::fchown(&fd, uid, gid)?;
        }
        // The process has a file mode creation mask; the client has applied its own already.
        if Mode::from_raw_mode(stat_of(&fd)?.stx_mode.into()) != plain_mode(mode) {
            fchmod(&fd, plain_mode(mode))?;
        }
        let handle = Handle::new(self.process_files.reopen(&fd, OFlags::PATH)?, permits.0)?;
        let node = Node { handle: Arc::new(handle), place: Some(Place::new(directory, name)) };
        Ok((node, File::new(fd, self.set_id, permits.1)))
    }

    /// Opens a file that is known to be regular.
    pub(super) fn open_regular(&self, node: &Node, mode: OpenMode) -> Result<File, Errno> {
        let permit = self.budget.take()?;
        if mode.writes() {
            self.drop_set_id(node)?;
        }
        let fd = self.process_files.reopen(&node.handle.fd, mode.flags())?;
        Ok(File::new(fd, self.set_id, permit))
    }
}
