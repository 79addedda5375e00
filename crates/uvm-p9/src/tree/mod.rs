//! A directory of the host, confined: every name is looked up, made and removed beneath its root, and nowhere else.
//!
//! This module knows nothing of any protocol. Its caller is a file server whose client is hostile, and it holds by these
//! rules:
//!
//! - A file is held by an `O_PATH` descriptor ([`Node`]), never by its path. It is found one name at a time from the
//!   descriptor of its directory. A [`Component`] is one name: no slash, no NUL, neither `.` nor `..`. So whatever is
//!   renamed meanwhile, one step leads from a directory of the tree to an entry of it. `openat2` is told to stay beneath
//!   and to follow no link besides.
//! - Links are read, never followed: following them is the client's own matter, among what it can reach.
//! - What is opened for I/O is a regular file or a directory. The type is that of the descriptor, which cannot change, and
//!   the file is opened by way of that descriptor (`/proc/self/fd`): one step of the kernel, without a name that somebody
//!   could swap. Fifos, sockets and devices are never opened.
//! - A file system of processes (procfs) within the tree is not entered: there, regular files are the server's own memory.
//! - Whether something may be changed is asked here, in each operation that changes something.
//! - Descriptors are counted, and there is a limit to them.

mod attributes;
mod component;
mod descriptors;
mod devices;
mod directory;
mod entries;
mod file;
mod node;
mod open;
mod process_files;
mod xattr;

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
pub use rustix::io::Errno;
use thiserror::Error;

pub use self::attributes::{Attributes, Changes, FileSystem, Time, TimeChange};
pub use self::component::Component;
pub use self::descriptors::Descriptors;
pub use self::directory::{Directory, Entry};
pub use self::entries::{NewNode, Removed};
pub use self::file::File;
pub use self::node::{FileId, FileKind, Node};
pub use self::open::{Durability, FileAccess, OpenMode, Opened, WhenThere};
pub use self::xattr::{XattrMode, is_user_attribute};

use self::devices::Devices;
use self::file::SetId;
use self::node::{Handle, Place};
use self::process_files::ProcessFiles;

/// Whether a tree can be changed through this server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Whatever changes something fails with `EROFS`.
    ReadOnly,
    /// As far as the owner's own rights go.
    #[default]
    ReadWrite,
}

/// Whom files belong to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ownership {
    /// All files seem to belong to the owner of this process, and new ones do. Changing a file's owner to anybody else
    /// fails with `EPERM`.
    #[default]
    Owner,
    /// Owners are as they are on the host, new files get those the client names, and the client may change them. This
    /// process has to be root's.
    Passthrough,
}

/// Who makes a file. Counts under [`Ownership::Passthrough`] only; `None` is the owner of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Creator {
    /// The user.
    pub uid: Option<u32>,
    /// The group.
    pub gid: Option<u32>,
}

/// What a tree is.
#[derive(Clone, Debug)]
pub struct TreeOptions {
    path: PathBuf,
    access: Access,
    ownership: Ownership,
    allowed: Option<BTreeSet<Vec<u8>>>,
    descriptors: Option<Descriptors>,
}

impl TreeOptions {
    /// All of the directory `path` of the host, to be changed, as the owner. Links in `path` are followed.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            access: Access::default(),
            ownership: Ownership::default(),
            allowed: None,
            descriptors: None,
        }
    }

    /// Whether the tree can be changed. Default: it can.
    #[must_use]
    pub fn with_access(self, access: Access) -> Self {
        Self { access, ..self }
    }

    /// Whom files belong to. Default: the owner.
    #[must_use]
    pub fn with_ownership(self, ownership: Ownership) -> Self {
        Self { ownership, ..self }
    }

    /// Only these names of the directory itself exist for the client, whether they are there or yet to be made; what is
    /// below them exists as it is. The directory's own attributes cannot be changed (`EACCES`): they are not the client's
    /// alone. Default: all names.
    #[must_use]
    pub fn restricted_to<N: Into<Vec<u8>>>(self, names: impl IntoIterator<Item = N>) -> Self {
        Self { allowed: Some(names.into_iter().map(Into::into).collect()), ..self }
    }

    /// What the tree's clients draw on altogether: one descriptor for each file they know, one more for each they have
    /// open, and sometimes one for its directory. Beyond, operations fail with `ENFILE`. Default: a budget of the tree's
    /// own, of half of what this process may have when it is opened, and at most 16,384. Where there are several trees,
    /// give them [parts](Descriptors::part) of one budget.
    #[must_use]
    pub fn with_descriptors(self, descriptors: Descriptors) -> Self {
        Self { descriptors: Some(descriptors), ..self }
    }
}

/// Why a tree cannot be served.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TreeError {
    /// The directory cannot be opened.
    #[error("cannot open the directory {} to share it", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// `/proc` is not there, or not what it should be. Files are opened by way of it.
    #[error("{} is no file system of processes, which shares need to open files", path.display())]
    NoProc {
        /// What was looked at.
        path: PathBuf,
    },
    /// The directory is on a file system of processes.
    #[error("{} is on a file system of processes, which gives away this process itself", path.display())]
    IsProc {
        /// The directory.
        path: PathBuf,
    },
    /// A name to restrict a tree to that is none.
    #[error("\"{}\" is no name of a file in a directory: up to 255 bytes without a slash", name.escape_ascii())]
    BadName {
        /// The name.
        name: Vec<u8>,
    },
    /// Owners can be passed through by root only.
    #[error("only root can pass owners of files through, and this process belongs to user {uid}")]
    NotRoot {
        /// The user.
        uid: u32,
    },
}

/// A directory of the host, confined.
#[derive(Debug)]
pub struct Tree {
    root: Arc<Handle>,
    access: Access,
    ownership: Ownership,
    /// Owner and group of this process.
    owner: (u32, u32),
    set_id: SetId,
    allowed: Option<BTreeSet<Vec<u8>>>,
    devices: Devices,
    budget: Descriptors,
    process_files: ProcessFiles,
}

/// Said to `openat2` with every name.
const CONFINED: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_SYMLINKS);

impl Tree {
    /// Opens the root. Nothing else is opened before somebody asks.
    ///
    /// # Errors
    /// Each of [`TreeError`].
    pub fn open(options: TreeOptions) -> Result<Self, TreeError> {
        let TreeOptions { path, access, ownership, allowed, descriptors } = options;
        if let Some(name) = allowed.iter().flatten().find(|name| Component::new(name).is_err()) {
            return Err(TreeError::BadName { name: name.clone() });
        }
        let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        if ownership == Ownership::Passthrough && owner.0 != 0 {
            return Err(TreeError::NotRoot { uid: owner.0 });
        }
        let process_files = ProcessFiles::open()?;
        let budget = descriptors.unwrap_or_else(default_descriptors);
        // `openat2` here, too, so that a kernel without it (before 5.6) is found out now.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = openat2(CWD, &path, flags, Mode::empty(), ResolveFlags::empty())
            .and_then(|fd| Ok((budget.take()?, fd)))
            .and_then(|(permit, fd)| Ok((devices::is_proc(&fd)?, Handle::new(fd, permit)?, SetId::of_process()?)));
        let (is_proc, mut root, set_id) =
            opened.map_err(|errno| TreeError::Open { path: path.clone(), source: errno.into() })?;
        if is_proc {
            return Err(TreeError::IsProc { path });
        }
        root.is_root = true;
        let devices = Devices::new(root.id.device);
        Ok(Self { root: Arc::new(root), access, ownership, owner, set_id, allowed, devices, budget, process_files })
    }

    /// The root. Takes no further descriptor.
    pub fn root(&self) -> Node {
        Node { handle: Arc::clone(&self.root), place: None }
    }

    /// The file called `name` in `directory`: a link itself, not what it points to.
    ///
    /// # Errors
    /// `ENOENT` also for a name that the tree is not restricted to, `EACCES` for a file system of processes.
    pub fn lookup(&self, directory: &Node, name: Component<'_>) -> Result<Node, Errno> {
        directory.must_be_directory()?;
        if !self.admits(directory, name) {
            return Err(Errno::NOENT);
        }
        let permit = self.budget.take()?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat2(&directory.handle.fd, name.as_bytes(), flags, Mode::empty(), CONFINED)?;
        let mut handle = Handle::new(fd, permit)?;
        self.devices.admit(&handle)?;
        // The host may have mounted the directory itself in it once more.
        handle.is_root = handle.id == self.root.id;
        Ok(Node { handle: Arc::new(handle), place: Some(Place::new(directory, name)) })
    }

    /// A number for the file, different from that of every other file of the tree as long as either is there, and as no
    /// mounted file system in the tree fills the upper 16 bits of its own.
    pub fn number(&self, id: FileId) -> u64 {
        self.devices.number(id)
    }

    /// Whether the tree can be changed.
    pub fn access(&self) -> Access {
        self.access
    }

    fn must_be_writable(&self) -> Result<(), Errno> {
        match self.access {
            Access::ReadOnly => Err(Errno::ROFS),
            Access::ReadWrite => Ok(()),
        }
    }

    /// Whether the name exists for clients at all.
    fn admits(&self, directory: &Node, name: Component<'_>) -> bool {
        match &self.allowed {
            Some(allowed) if directory.handle.is_root => allowed.contains(name.as_bytes()),
            _ => true,
        }
    }

    /// Checks that attributes of the file may be changed. Those of a directory of which the client has some names only
    /// say who gets at the others.
    fn must_admit_attributes(&self, node: &Node) -> Result<(), Errno> {
        self.must_be_writable()?;
        if self.allowed.is_some() && node.handle.is_root { Err(Errno::ACCESS) } else { Ok(()) }
    }

    /// Checks that something may be made, moved or removed under the name.
    fn must_admit_change(&self, directory: &Node, name: Component<'_>) -> Result<(), Errno> {
        self.must_be_writable()?;
        directory.must_be_directory()?;
        if self.admits(directory, name) { Ok(()) } else { Err(Errno::ACCESS) }
    }
}

/// The process has other uses for descriptors, and a client must not take what it needs for them.
fn default_descriptors() -> Descriptors {
    let own = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    Descriptors::new(own.map_or(usize::MAX, |most| usize::try_from(most / 2).unwrap_or(usize::MAX)).min(16_384))
}

/// The bits of a mode that clients set: without set-user-id and set-group-id.
fn plain_mode(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o1777)
}
