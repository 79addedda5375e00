//! Attributes: reading and changing them.

use rustix::fs::{
    AtFlags, Gid, Mode, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid, chmodat, chownat, fstatfs, utimensat,
};
use rustix::io::Errno;

use super::node::stat_of;
use super::{Creator, Durability, File, FileAccess, FileId, FileKind, Node, OpenMode, Ownership, Tree, plain_mode};

/// A moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time {
    /// Since 1970.
    pub seconds: i64,
    /// Below 1,000,000,000.
    pub nanoseconds: u32,
}

/// What is known of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Which file.
    pub id: FileId,
    /// Type and permissions, as `st_mode`.
    pub mode: u32,
    /// Its owner, as the client is to see it.
    pub uid: u32,
    /// Its group, as the client is to see it.
    pub gid: u32,
    /// Hard links.
    pub links: u32,
    /// Of a device: its major and minor number.
    pub device: (u32, u32),
    /// Bytes.
    pub size: u64,
    /// Preferred size of I/O, in bytes.
    pub block_size: u32,
    /// Blocks of 512 bytes.
    pub blocks: u64,
    /// Last access.
    pub accessed: Time,
    /// Last change of the content.
    pub modified: Time,
    /// Last change of the attributes.
    pub changed: Time,
    /// When it was made; zero where the file system does not know.
    pub born: Time,
}

/// A new time of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeChange {
    /// The host's own time.
    Now,
    /// This.
    To(Time),
}

/// What to change of a file. What is `None` stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Permissions. Set-user-id and set-group-id are left out, but for the latter of a directory that has it.
    pub mode: Option<u32>,
    /// The owner.
    pub uid: Option<u32>,
    /// The group.
    pub gid: Option<u32>,
    /// The size, of a regular file.
    pub size: Option<u64>,
    /// Last access.
    pub accessed: Option<TimeChange>,
    /// Last change of the content.
    pub modified: Option<TimeChange>,
}

/// What is known of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSystem {
    /// Its type.
    pub kind: u32,
    /// Bytes of a block.
    pub block_size: u32,
    /// All blocks.
    pub blocks: u64,
    /// Free blocks.
    pub free: u64,
    /// Free blocks for users other than root.
    pub available: u64,
    /// All inodes.
    pub files: u64,
    /// Free inodes.
    pub free_files: u64,
    /// Longest name, in bytes.
    pub max_name: u32,
}

impl Tree {
    /// Reads the attributes of a file.
    pub fn attributes(&self, node: &Node) -> Result<Attributes, Errno> {
        let stat = stat_of(&node.handle.fd)?;
        let time = |of: rustix::fs::StatxTimestamp| Time { seconds: of.tv_sec, nanoseconds: of.tv_nsec };
        let (uid, gid) = match self.ownership {
            Ownership::Owner => self.owner,
            Ownership::Passthrough => (stat.stx_uid, stat.stx_gid),
        };
        Ok(Attributes {
            id: FileId::of(&stat),
            mode: stat.stx_mode.into(),
            uid,
            gid,
            links: stat.stx_nlink,
            device: (stat.stx_rdev_major, stat.stx_rdev_minor),
            size: stat.stx_size,
            block_size: stat.stx_blksize,
            blocks: stat.stx_blocks,
            accessed: time(stat.stx_atime),
            modified: time(stat.stx_mtime),
            changed: time(stat.stx_ctime),
            born: time(stat.stx_btime),
        })
    }

    /// Changes attributes of a file, in the order of their fields; those before one that fails are changed. `open` is the
    /// file where it is open already: its size can be changed whatever its permissions are by now.
    ///
    /// # Errors
    /// `EACCES` for the root of a tree that is restricted to names, `EPERM` for an owner other than the one it seems to
    /// have (see [`Ownership::Owner`]), `EPERM` for permissions and owner of a device, `EOPNOTSUPP` for the permissions of
    /// a symbolic link, `EISDIR` or `EINVAL` for the size of what is no regular file.
    pub fn change(&self, node: &Node, open: Option<&File>, changes: &Changes) -> Result<(), Errno> {
        self.must_admit_attributes(node)?;
        let owners = self.changed_owners(changes)?;
        if let Some(mode) = changes.mode {
            self.set_mode(node, mode)?;
        }
        if let Some((uid, gid)) = owners {
            if matches!(node.kind(), FileKind::BlockDevice | FileKind::CharacterDevice) {
                return Err(Errno::PERM);
            }
            chownat(&node.handle.fd, c"", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if let Some(size) = changes.size {
            self.set_size(node, open, size)?;
        }
        if changes.accessed.is_some() || changes.modified.is_some() {
            let times =
                Timestamps { last_access: timespec(changes.accessed)?, last_modification: timespec(changes.modified)? };
            utimensat(&node.handle.fd, c"", &times, AtFlags::EMPTY_PATH)?;
        }
        Ok(())
    }

    /// About the file system a file is on.
    pub fn file_system(&self, node: &Node) -> Result<FileSystem, Errno> {
        let stat = fstatfs(&node.handle.fd)?;
        Ok(FileSystem {
            kind: stat.f_type.cast_unsigned() as u32,
            block_size: block_size(stat.f_bsize, stat.f_frsize),
            blocks: stat.f_blocks,
            free: stat.f_bfree,
            available: stat.f_bavail,
            files: stat.f_files,
            free_files: stat.f_ffree,
            max_name: 255,
        })
    }

    fn changed_owners(&self, changes: &Changes) -> Result<Option<Owners>, Errno> {
        if changes.uid.is_none() && changes.gid.is_none() {
            return Ok(None);
        }
        match self.ownership {
            Ownership::Passthrough => owners(Creator { uid: changes.uid, gid: changes.gid }).map(Some),
            Ownership::Owner => {
                let (uid, gid) = self.owner;
                let same = changes.uid.is_none_or(|new| new == uid) && changes.gid.is_none_or(|new| new == gid);
                if same { Ok(None) } else { Err(Errno::PERM) }
            }
        }
    }

    pub(super) fn set_mode(&self, node: &Node, mode: u32) -> Result<(), Errno> {
        match node.kind() {
            FileKind::Symlink => return Err(Errno::OPNOTSUPP),
            FileKind::BlockDevice | FileKind::CharacterDevice => return Err(Errno::PERM),
            FileKind::Directory | FileKind::Regular | FileKind::Fifo | FileKind::Socket => {}
        }
        let kept = if node.kind() == FileKind::Directory {
            // It says whom new files belong to, and gives nobody any rights.
            u32::from(stat_of(&node.handle.fd)?.stx_mode) & mode & Mode::SGID.as_raw_mode()
        } else {
            0
        };
        // `fchmod` does not take descriptors of this kind. It is no link, so this one step ends at the file itself.
        let (directory, entry) = self.process_files.entry(&node.handle.fd);
        chmodat(directory, entry, plain_mode(mode) | Mode::from_raw_mode(kept), AtFlags::empty())
    }

    fn set_size(&self, node: &Node, open: Option<&File>, size: u64) -> Result<(), Errno> {
        match (node.kind(), open) {
            (FileKind::Regular, Some(file)) => {
                self.drop_set_id(node)?;
                match file.set_len(size) {
                    // Opened for reading only.
                    Err(Errno::INVAL | Errno::BADF) => self.set_size(node, None, size),
                    done => done,
                }
            }
            (FileKind::Regular, None) => {
                let mode = OpenMode {
                    access: FileAccess::Write,
                    truncate: false,
                    append: false,
                    durability: Durability::Later,
                    directory: false,
                };
                self.open_regular(node, mode)?.set_len(size)
            }
            (FileKind::Directory, _) => Err(Errno::ISDIR),
            _ => Err(Errno::INVAL),
        }
    }

    /// Takes set-user-id and set-group-id from a regular file whose content a client is about to change. The kernel does
    /// it by itself, but not when the writer is root.
    pub(super) fn drop_set_id(&self, node: &Node) -> Result<(), Errno> {
        let mode = u32::from(stat_of(&node.handle.fd)?.stx_mode);
        if mode & (Mode::SUID | Mode::SGID).as_raw_mode() == 0 {
            return Ok(());
        }
        match self.set_mode(node, mode) {
            // Somebody else's file that we may write to all the same: there the kernel does it.
            Err(Errno::PERM) if self.owner.0 != 0 => Ok(()),
            done => done,
        }
    }
}

/// The blocks that a file system is counted in are its fragments, where it has these; others are for I/O.
fn block_size<N: TryInto<u32>>(of_io: N, fragment: N) -> u32 {
    let fragment = fragment.try_into().ok().filter(|&bytes| bytes != 0);
    fragment.or_else(|| of_io.try_into().ok()).unwrap_or(4096)
}

/// Owner and group in the kernel's terms; `None` stays as it is.
type Owners = (Option<Uid>, Option<Gid>);

/// Owners in the kernel's terms, where the number beyond the last means "as it is".
pub(super) fn owners(creator: Creator) -> Result<Owners, Errno> {
    let check = |id: Option<u32>| if id == Some(u32::MAX) { Err(Errno::INVAL) } else { Ok(id) };
    Ok((check(creator.uid)?.map(Uid::from_raw), check(creator.gid)?.map(Gid::from_raw)))
}

fn timespec(change: Option<TimeChange>) -> Result<Timespec, Errno> {
    match change {
        None => Ok(Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }),
        Some(TimeChange::Now) => Ok(Timespec { tv_sec: 0, tv_nsec: UTIME_NOW }),
        // The kernel's own two special values are among what is too large.
        Some(TimeChange::To(time)) if time.nanoseconds >= 1_000_000_000 => Err(Errno::INVAL),
        Some(TimeChange::To(time)) => Ok(Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_counted_in_fragments_not_in_what_is_best_for_io() {
        assert_eq!(block_size(1_048_576_i64, 4096), 4096);
        assert_eq!(block_size(512_i64, 0), 512);
        assert_eq!(block_size(i64::MAX, -1), 4096);
    }
}
