//! The layer before the file system: it looks at every request, and passes on what stays in the share.
//!
//! Behind it is a file system that trusts the names it is given, such as virtiofsd's `PassthroughFs`. That one works with
//! descriptors, and takes one name from a directory of the share at a time: so a name that is one name, and leads nowhere
//! itself, cannot leave it, whatever is renamed meanwhile. Nothing here relies on the process being confined.

mod closed;
mod operations;
mod rules;

use std::ffi::CStr;
use std::io;

use virtiofsd::filesystem::{Context, Entry, Extensions, FileSystem, OpenOptions, SetattrValid};
use virtiofsd::fuse::{ATTR_SUBMOUNT, Attr, ROOT_ID, SetattrIn};

use self::closed::Closed;
use self::rules::errno;

/// Whether a guest may change a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It cannot (`EROFS`), whatever it mounts.
    ReadOnly,
    /// It may.
    ReadWrite,
}

/// Whose the files of a share are, as a guest sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owners {
    /// All seem to be this user's and group's, and others cannot be asked for (`EPERM`). Files are made as the process's
    /// own user makes them.
    One {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
    },
    /// The host's own numbers; the guest's root is root of the files.
    Passthrough,
}

/// A file system of which a guest gets no more than its share.
///
/// * A name is one of 1 to 255 bytes, without slash, neither `.` nor `..` (`EINVAL`, `ENAMETOOLONG`), in every request that
///   has one. What a symbolic link says is data.
/// * Devices are not made (`EPERM`), by renaming neither; permissions and owners of those that are there are not changed.
///   Behind must be a file system that opens nothing but regular files and directories.
/// * Set-user-id and set-group-id bits are left out of every mode, but for the latter of a directory that has it.
/// * Of extended attributes only `user.*` exist (`EOPNOTSUPP`).
/// * Other file systems mounted in the share are entered, but those without blocks (those of processes and of the
///   kernel's objects) are not: there, names and files would give rights (`EACCES`). A single file of one, mounted over one of the share's, is
///   neither opened nor changed (`EACCES`).
/// * Nothing is saved and nothing restored: a VM that is saved has no share.
#[derive(Debug)]
pub struct Guarded<F> {
    inner: F,
    access: Access,
    owners: Owners,
    closed: Closed,
}

impl<F: FileSystem<Inode = u64, Handle = u64>> Guarded<F> {
    /// Puts the layer before `inner`, which nobody else may reach.
    pub fn new(inner: F, access: Access, owners: Owners) -> Self {
        Self { inner, access, owners, closed: Closed::default() }
    }

    fn must_be_writable(&self) -> io::Result<()> {
        match self.access {
            Access::ReadOnly => Err(errno(libc::EROFS)),
            Access::ReadWrite => Ok(()),
        }
    }

    /// Passes a name of `directory`.
    fn must_admit(&self, directory: u64, name: &CStr) -> io::Result<()> {
        rules::name(name)?;
        self.must_be_open(directory)
    }

    /// Passes a directory that is not of a file system that gives rights. What is in one is never known to the guest.
    fn must_be_open(&self, inode: u64) -> io::Result<()> {
        if self.closed.has(inode) { Err(errno(libc::EACCES)) } else { Ok(()) }
    }

    /// Passes a file that is not of a file system without blocks, unless the whole share is of one: a single file of another
    /// one may be mounted over one of the share's, and no entry tells of that.
    fn must_have_blocks(&self, context: Context, inode: u64) -> io::Result<()> {
        let has_none = |inode| Ok::<_, io::Error>(self.inner.statfs(context, inode)?.f_blocks == 0);
        if has_none(inode)? && !has_none(ROOT_ID)? { Err(errno(libc::EACCES)) } else { Ok(()) }
    }

    /// Passes what the file system behind may open, for whatever request.
    fn must_be_safe_to_open(&self, context: Context, inode: u64) -> io::Result<()> {
        self.must_be_open(inode)?;
        self.must_have_blocks(context, inode)
    }

    /// Passes a name under which something may come, go or change.
    fn must_admit_change(&self, directory: u64, name: &CStr) -> io::Result<()> {
        rules::name(name)?;
        self.must_be_writable()?;
        self.must_be_open(directory)
    }

    /// Who asks, as the file system behind is to see it.
    fn context(&self, context: Context) -> Context {
        match self.owners {
            // Root's: for whom the file system behind changes its user to nobody else.
            Owners::One { .. } => Context { uid: 0.into(), gid: 0.into(), ..context },
            Owners::Passthrough => context,
        }
    }

    /// What comes along when a file is made: no label, and groups only where the guest's numbers count.
    fn extensions(&self, extensions: Extensions) -> io::Result<Extensions> {
        if extensions.secctx.is_some() {
            return Err(errno(libc::EOPNOTSUPP));
        }
        Ok(match self.owners {
            Owners::One { .. } => Extensions::default(),
            Owners::Passthrough => extensions,
        })
    }

    fn shown(&self, attr: Attr) -> Attr {
        match self.owners {
            Owners::One { uid, gid } => Attr { uid: uid.into(), gid: gid.into(), ..attr },
            Owners::Passthrough => attr,
        }
    }

    /// An entry as the guest is to see it. Where another file system begins, looks which.
    fn entry(&self, context: Context, mut entry: Entry) -> io::Result<Entry> {
        if entry.attr.flags & ATTR_SUBMOUNT != 0 && !self.closed.has(entry.inode) {
            let closed = self.inner.statfs(context, entry.inode).map(|of| of.f_blocks == 0);
            let noted = closed.and_then(|closed| if closed { self.closed.add(entry.inode) } else { Ok(()) });
            if let Err(error) = noted {
                self.forget(context, entry.inode, 1);
                return Err(error);
            }
        }
        entry.attr = self.shown(entry.attr);
        Ok(entry)
    }

    /// The mode of a file, with its type.
    fn mode(&self, context: Context, inode: u64) -> io::Result<u32> {
        Ok(self.inner.getattr(context, inode, None)?.0.mode)
    }

    /// Takes out of a change what is as it is to be, and refuses what must not be.
    fn owner_change(&self, attr: &SetattrIn, mut valid: SetattrValid) -> io::Result<SetattrValid> {
        let Owners::One { uid, gid } = self.owners else { return Ok(valid) };
        let other_user = valid.contains(SetattrValid::UID) && attr.uid != uid.into();
        let other_group = valid.contains(SetattrValid::GID) && attr.gid != gid.into();
        if other_user || other_group {
            return Err(errno(libc::EPERM));
        }
        valid.remove(SetattrValid::UID | SetattrValid::GID);
        Ok(valid)
    }

    /// Opens what is there already, by its name, without making it.
    fn open_existing(
        &self,
        context: Context,
        parent: u64,
        name: &CStr,
        kill_priv: bool,
        flags: u32,
    ) -> io::Result<(Entry, Option<u64>, OpenOptions)> {
        let entry = self.lookup(context, parent, name)?;
        let opened = if flags & libc::O_EXCL.cast_unsigned() == 0 {
            self.open(context, entry.inode, kill_priv, flags)
        } else {
            Err(errno(libc::EEXIST))
        };
        match opened {
            Ok((handle, options)) => Ok((entry, handle, options)),
            Err(error) => {
                self.forget(context, entry.inode, 1);
                Err(error)
            }
        }
    }
}
