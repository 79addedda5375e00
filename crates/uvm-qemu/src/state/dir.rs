//! A directory in the root: whether it is a VM's, who holds it, and how it is removed.
//!
//! A root may be any directory of the user's, so what is in it may be anything. A VM's is what has a lock and a journal that
//! begins as ours do; it comes to exist with both, by a rename. Everything else is left alone and never written to.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;
use uvm_platform::UvmId;

use super::journal::{self, HostObject};
use crate::{transport, virtio_fs};

/// The file whose lock tells whether an owner lives.
pub(super) const LOCK: &str = "lock";
/// All that may be in a state directory, in the order in which it is removed.
const KNOWN: [&str; 4] = [transport::SOCKET, virtio_fs::SOCKET, journal::NAME, LOCK];
/// What the names of state directories that are being made or removed begin with; no VM's id does.
const PART: &str = ".uvm-part-";

/// A VM's state directory that nobody owns. Its lock is ours.
#[derive(Debug)]
pub(super) struct Orphan {
    dir: OwnedFd,
    /// What is written down in it.
    pub(super) objects: Vec<HostObject>,
    _lock: File,
}

/// Who holds a state directory.
#[derive(Debug)]
pub(super) enum Holder {
    /// A process.
    Lives {
        owner_pid: u32,
    },
    Nobody(Orphan),
    /// There is no such directory, or it is not a VM's.
    NoVm,
}

impl Holder {
    /// Who holds the directory at `path`. To be called with the root's turn. Writes nothing.
    ///
    /// # Errors
    /// It looks like a VM's, but others may have written it, or it cannot be read.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let Some(dir) = open(path)? else { return Ok(Self::NoVm) };
        if stat(&dir, LOCK)?.is_none() || stat(&dir, journal::NAME)?.is_none() {
            return Ok(Self::NoVm);
        }
        require_own(&dir, "the directory")?;
        let Some(lock) = open_own(&dir, LOCK, OFlags::RDWR)? else { return Ok(Self::NoVm) };
        let held = match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => false,
            Err(Errno::WOULDBLOCK) => true,
            Err(e) => return Err(e.into()),
        };
        if !is_still_at(&dir, path) {
            // Its owner has removed it meanwhile.
            return Ok(Self::NoVm);
        }
        let Some(objects) = journal::read(dir.as_fd())? else { return Ok(Self::NoVm) };
        let Some(HostObject::Owner { pid }) = objects.first() else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its journal does not begin as those of VMs do"));
        };
        if held { Ok(Self::Lives { owner_pid: *pid }) } else { Ok(Self::Nobody(Orphan { dir, objects, _lock: lock })) }
    }
}

impl Orphan {
    /// Removes the directory, which is at `path`.
    pub(super) fn remove(self, path: &Path) -> io::Result<()> {
        remove(&mut path.to_owned(), self.dir.as_fd())
    }
}

/// The path of a directory beside `path` (a state directory) that does not exist yet: for one in the making, or in
/// removal.
fn part_of(path: &Path, attempt: u32) -> PathBuf {
    let id = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{PART}{id}-{attempt}"))
}

/// The id of the VM whose state directory is in the making, or in removal, under this name.
pub(super) fn id_of_part(name: &str) -> Option<&str> {
    let (id, attempt) = name.strip_prefix(PART)?.rsplit_once('-')?;
    (UvmId::new(id).is_ok() && attempt.parse::<u32>().is_ok()).then_some(id)
}

/// Calls `try_it` with paths of parts until one is free.
fn with_free_part(path: &Path, mut try_it: impl FnMut(&Path) -> Result<(), Errno>) -> io::Result<PathBuf> {
    for attempt in 0..MAX_PARTS {
        let part = part_of(path, attempt);
        match try_it(&part) {
            Ok(()) => return Ok(part),
            Err(Errno::EXIST | Errno::NOTEMPTY) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Err(io::Error::new(
        io::ErrorKind::AlreadyExists,
        format!("{} and {MAX_PARTS} more exist", part_of(path, 0).display()),
    ))
}

/// More than processes can be killed in the making of one VM before gc runs.
const MAX_PARTS: u32 = 1000;

/// Makes a directory that is to become `path`. To be called with the root's turn.
pub(super) fn make_part(path: &Path) -> io::Result<(PathBuf, OwnedFd)> {
    let part = with_free_part(path, |part| rustix::fs::mkdir(part, Mode::RWXU))?;
    let dir = open(&part)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    Ok((part, dir))
}

/// Gives a directory another name, at which nothing may be.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), Errno> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Not every file system can. Without it an empty directory at `to` would be replaced.
        Err(Errno::INVAL | Errno::NOSYS) if to.symlink_metadata().is_err() => rustix::fs::rename(from, to),
        Err(Errno::INVAL | Errno::NOSYS) => Err(Errno::EXIST),
        result => result,
    }
}

/// Removes the state directory `dir`, whose lock the caller has. `path`, where it is, follows it.
///
/// # Errors
/// Something is in it that no VM makes: then it stays as it is. After any other error it may be tried again.
pub(super) fn remove(path: &mut PathBuf, dir: BorrowedFd<'_>) -> io::Result<()> {
    refuse_unknown(dir)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // In one step no VM's directory any more: killed in between, this leaves something that gc knows.
    if id_of_part(&name).is_none() {
        *path = with_free_part(path, |part| rename(path, part))?;
    }
    discard(path, dir)
}

/// Removes what is known by name, then the directory, if that was all.
pub(super) fn discard(path: &Path, dir: BorrowedFd<'_>) -> io::Result<()> {
    for name in KNOWN {
        match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(about(&format!("remove {name}"), e)),
        }
    }
    match fs::remove_dir(path) {
        // With the lock file gone, gc may have been faster.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Half of a state directory: its maker, or who was removing it, was killed.
#[derive(Debug)]
pub(super) struct Part {
    dir: OwnedFd,
    _lock: Option<File>,
}

impl Part {
    /// The part at `path`, if nobody is at it. To be called with the root's turn, which whoever makes one holds.
    pub(super) fn abandoned(path: &Path) -> io::Result<Option<Self>> {
        let Some(dir) = open(path)? else { return Ok(None) };
        require_own(&dir, "the directory")?;
        refuse_unknown(dir.as_fd())?;
        let lock = open_own(&dir, LOCK, OFlags::RDWR)?;
        if let Some(lock) = &lock {
            match rustix::fs::flock(lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(Some(Self { dir, _lock: lock }))
    }

    pub(super) fn discard(self, path: &Path) -> io::Result<()> {
        discard(path, self.dir.as_fd())
    }
}

/// Opens a directory. `None` if there is none, or one of another user that this one may not read.
fn open(path: &Path) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(dir) => Ok(Some(dir)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(Errno::ACCESS) if !rustix::fs::lstat(path).is_ok_and(|stat| is_own(&stat)) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Opens the regular file `name`, which must be this user's alone to write. `None` if there is none.
pub(super) fn open_own(dir: impl AsFd, name: &str, access: OFlags) -> io::Result<Option<File>> {
    // A FIFO of this name must not be waited for.
    let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(e) => return Err(about(name, e)),
    };
    require_own(&file, name)?;
    if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{name}: it is no regular file")));
    }
    Ok(Some(file.into()))
}

fn stat(dir: &OwnedFd, name: &str) -> io::Result<Option<Stat>> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(about(name, e)),
    }
}

fn is_own(stat: &Stat) -> bool {
    stat.st_uid == rustix::process::geteuid().as_raw()
}

/// Refuses what somebody else could have written: it would lead us to remove and kill what they name.
fn require_own(file: impl AsFd, what: &str) -> io::Result<()> {
    let stat = rustix::fs::fstat(file)?;
    let denied = |why: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("{what}: {why}")));
    if !is_own(&stat) {
        return denied(format!("it belongs to user {}, not to {}", stat.st_uid, rustix::process::geteuid().as_raw()));
    }
    let mode = stat.st_mode & 0o7777;
    if mode & OTHERS_WRITE != 0 {
        return denied(format!("its mode is {mode:04o}: others than its owner may write it"));
    }
    Ok(())
}

/// The mode's bits that let a group, or everybody, write.
pub(super) const OTHERS_WRITE: u32 = 0o022;

fn refuse_unknown(dir: BorrowedFd<'_>) -> io::Result<()> {
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        let bytes = name.to_bytes();
        let is_known = KNOWN.iter().any(|known| known.as_bytes() == bytes) && entry.file_type() != FileType::Directory;
        if !is_known && bytes != b"." && bytes != b".." {
            return Err(io::Error::new(
                io::ErrorKind::DirectoryNotEmpty,
                format!("{:?} in it was not made by a VM; move it away", name.to_string_lossy()),
            ));
        }
    }
    Ok(())
}

fn is_still_at(dir: &OwnedFd, path: &Path) -> bool {
    match (rustix::fs::fstat(dir), rustix::fs::lstat(path)) {
        (Ok(open), Ok(named)) => (open.st_dev, open.st_ino) == (named.st_dev, named.st_ino),
        _ => false,
    }
}

fn about(what: &str, e: Errno) -> io::Error {
    io::Error::new(e.kind(), format!("{what}: {e}"))
}
