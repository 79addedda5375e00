//! What a client knows files by.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::locks::{FileLocks, LockCount};
use crate::share::Share;
use crate::tree::{Directory, File, Node, Opened, XattrMode};

/// A file of a share that a client knows, and has perhaps open.
#[derive(Debug)]
pub(super) struct Fid {
    pub(super) share: Arc<Share>,
    /// Who attached; counts where owners are passed through.
    pub(super) uid: Option<u32>,
    /// Tells fids of all clients apart.
    pub(super) key: u64,
    state: Mutex<State>,
    locks: Mutex<FidLocks>,
}

/// What the client has locked by a fid.
#[derive(Debug)]
enum FidLocks {
    /// Nothing so far.
    None,
    /// Something of this file, perhaps.
    Of(Arc<FileLocks>),
    /// Nothing any more: the client has let go of the fid.
    Retired,
}

#[derive(Debug)]
struct State {
    node: Node,
    role: Role,
}

/// What a fid is used for.
#[derive(Clone, Debug)]
pub(super) enum Role {
    /// Nothing yet.
    Named,
    /// A file is open.
    File(Arc<File>),
    /// A directory is open.
    Directory(Arc<Directory>),
    /// An extended attribute, or the list of them, is read.
    ReadXattr(Arc<XattrValue>),
    /// An extended attribute is written.
    WriteXattr(Arc<XattrWrite>),
}

/// What was read.
#[derive(Debug)]
pub(super) struct XattrValue {
    pub(super) bytes: Vec<u8>,
    pub(super) _charge: Charge,
}

/// What is written.
#[derive(Debug)]
pub(super) struct XattrWrite {
    pub(super) name: Box<[u8]>,
    pub(super) size: usize,
    pub(super) change: XattrChange,
    pub(super) value: Mutex<Vec<u8>>,
    pub(super) _charge: Charge,
}

/// What becomes of the attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum XattrChange {
    /// It is set.
    Set(XattrMode),
    /// It is removed.
    Remove,
}

impl Fid {
    pub(super) fn new(share: Arc<Share>, node: Node, uid: Option<u32>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let state = Mutex::new(State { node, role: Role::Named });
        Self { share, uid, key: NEXT.fetch_add(1, Ordering::Relaxed), state, locks: Mutex::new(FidLocks::None) }
    }

    /// The file.
    pub(super) fn node(&self) -> Node {
        self.state().node.clone()
    }

    /// The same file, under another name. If the client has put the fid to use for another file meanwhile, it stays that.
    pub(super) fn renamed(&self, node: Node) {
        let mut state = self.state();
        if state.node.is(&node) {
            state.node = node;
        }
    }

    pub(super) fn role(&self) -> Role {
        self.state().role.clone()
    }

    /// The open file. `EISDIR` for a directory, `EBADF` for what is not open.
    pub(super) fn file(&self) -> Result<Arc<File>, Errno> {
        match &self.state().role {
            Role::File(file) => Ok(Arc::clone(file)),
            Role::Directory(_) => Err(Errno::ISDIR),
            Role::Named | Role::ReadXattr(_) | Role::WriteXattr(_) => Err(Errno::BADF),
        }
    }

    /// Fails if the fid is in use.
    pub(super) fn must_be_unused(&self) -> Result<(), Errno> {
        if matches!(self.state().role, Role::Named) { Ok(()) } else { Err(Errno::INVAL) }
    }

    /// Puts a fid to use. `node` is another file when that was made just now. From then on it is this file's for good, so
    /// that what is locked by it is found when it is retired.
    pub(super) fn put_to_use(&self, node: Option<Node>, role: Role) -> Result<(), Errno> {
        let mut state = self.state();
        if !matches!(state.role, Role::Named) {
            return Err(Errno::INVAL);
        }
        state.role = role;
        if let Some(node) = node {
            state.node = node;
        }
        Ok(())
    }

    /// The locks of the open file, for as long as `work` takes: the fid is not retired meanwhile. `EISDIR` and `EBADF` as
    /// with [`file`](Self::file).
    pub(super) fn with_locks<T>(&self, work: impl FnOnce(&FileLocks) -> Result<T, Errno>) -> Result<T, Errno> {
        self.file()?;
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        if let FidLocks::None = *locks {
            *locks = FidLocks::Of(FileLocks::of(self.node().id()));
        }
        match &*locks {
            FidLocks::Of(locks) => work(locks),
            FidLocks::None | FidLocks::Retired => Err(Errno::BADF),
        }
    }

    /// The client has it no more: its locks are released, and it gets no new ones.
    fn retire(&self, count: &LockCount) {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        if let FidLocks::Of(locks) = std::mem::replace(&mut *locks, FidLocks::Retired) {
            locks.release(self.key, count);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Opened> for Role {
    fn from(opened: Opened) -> Self {
        match opened {
            Opened::File(file) => Self::File(Arc::new(file)),
            Opened::Directory(directory) => Self::Directory(Arc::new(directory)),
        }
    }
}

/// The fids of a client, by its own numbers.
#[derive(Debug)]
pub(super) struct Fids {
    most: usize,
    /// Of what is locked by them.
    pub(super) lock_count: LockCount,
    table: Mutex<Table>,
    /// What is not the client's any more, and not closed yet.
    retired: Mutex<Vec<Arc<Fid>>>,
}

#[derive(Debug, Default)]
struct Table {
    by_number: HashMap<u32, Arc<Fid>>,
    /// The client has gone: it gets no more.
    closed: bool,
}

impl Fids {
    pub(super) fn new(most: usize, locks: usize) -> Self {
        Self { most, lock_count: LockCount::new(locks), table: Mutex::default(), retired: Mutex::default() }
    }

    /// `EBADF`: there is none.
    pub(super) fn get(&self, number: u32) -> Result<Arc<Fid>, Errno> {
        self.table().by_number.get(&number).cloned().ok_or(Errno::BADF)
    }

    /// `EINVAL`: the number is in use; `EMFILE`: there are as many as the client may have; `EBADF`: it has gone.
    pub(super) fn insert(&self, number: u32, fid: Fid) -> Result<(), Errno> {
        let mut table = self.table();
        if table.closed {
            return Err(Errno::BADF);
        }
        let count = table.by_number.len();
        match table.by_number.entry(number) {
            Entry::Occupied(_) => Err(Errno::INVAL),
            Entry::Vacant(_) if count >= self.most => Err(Errno::MFILE),
            Entry::Vacant(vacant) => {
                vacant.insert(Arc::new(fid));
                Ok(())
            }
        }
    }

    /// Puts a fid in place of `old`, which the client must still have under the number.
    pub(super) fn replace(&self, number: u32, old: &Arc<Fid>, fid: Fid) -> Result<(), Errno> {
        {
            let mut table = self.table();
            match table.by_number.get_mut(&number) {
                Some(place) if Arc::ptr_eq(place, old) => *place = Arc::new(fid),
                _ => return Err(Errno::BADF),
            }
        }
        old.retire(&self.lock_count);
        Ok(())
    }

    pub(super) fn remove(&self, number: u32) -> Result<Arc<Fid>, Errno> {
        let fid = self.table().by_number.remove(&number).ok_or(Errno::BADF)?;
        fid.retire(&self.lock_count);
        Ok(fid)
    }

    /// Takes all fids from the client and releases their locks. Does not block: the files are closed by
    /// [`close_retired`](Self::close_retired). `false`: there are none to close.
    pub(super) fn retire_all(&self) -> bool {
        let fids = std::mem::take(&mut self.table().by_number);
        let mut retired = self.retired();
        for fid in fids.into_values() {
            fid.retire(&self.lock_count);
            retired.push(fid);
        }
        !retired.is_empty()
    }

    /// The same, and the client gets no more.
    pub(super) fn close(&self) -> bool {
        self.table().closed = true;
        self.retire_all()
    }

    /// Closes what was taken from the client. Blocks as long as the file system does: one over a network may write what is
    /// not written yet, another frees a file that has no name any more.
    pub(super) fn close_retired(&self) {
        let retired = std::mem::take(&mut *self.retired());
        drop(retired);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn retired(&self) -> MutexGuard<'_, Vec<Arc<Fid>>> {
        self.retired.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that a client may still have held for it.
#[derive(Debug)]
pub(super) struct Memory(Arc<AtomicUsize>);

impl Memory {
    pub(super) fn new(bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes)))
    }

    /// `ENOMEM`: it holds too many.
    pub(super) fn take(&self, bytes: usize) -> Result<Charge, Errno> {
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        if taken.is_ok() { Ok(Charge { bytes, left: Arc::clone(&self.0) }) } else { Err(Errno::NOMEM) }
    }
}

/// Bytes that are held; given back on drop.
#[derive(Debug)]
pub(super) struct Charge {
    bytes: usize,
    left: Arc<AtomicUsize>,
}

impl Charge {
    /// Gives back what is more than `bytes`.
    pub(super) fn shrink(&mut self, bytes: usize) {
        let excess = self.bytes.saturating_sub(bytes);
        self.bytes -= excess;
        self.left.fetch_add(excess, Ordering::Relaxed);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.left.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::locks::{Lock, LockKind, Locked, Owner};
    use crate::tree::{Component, Creator, Durability, FileAccess, OpenMode, TreeOptions, WhenThere};

    const MODE: OpenMode = OpenMode {
        access: FileAccess::Write,
        truncate: false,
        append: false,
        durability: Durability::Later,
        directory: false,
    };

    /// The attack: locks are kept under the file that the fid has made, and looked for under the directory that it was.
    #[test]
    fn a_fid_that_has_made_a_file_while_its_directory_was_renamed_is_that_files() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        let share = Share::open("s", TreeOptions::new(dir.path())).unwrap();
        let (tree, root) = (&share.tree, share.tree.root());
        let fid = Fid::new(Arc::clone(&share), tree.lookup(&root, Component::new(b"d").unwrap()).unwrap(), None);
        let directory = fid.node();
        let renamed = tree.rename_node(&directory, &root, Component::new(b"renamed").unwrap()).unwrap();
        let name = Component::new(b"f").unwrap();
        let made = tree.create(&directory, name, MODE, WhenThere::Fail, 0o644, Creator::default());
        let (file, opened) = made.unwrap();
        fid.put_to_use(Some(file.clone()), opened.into()).unwrap();
        fid.renamed(renamed.clone());
        assert_eq!(fid.node().id(), file.id());
        // Without that, the new name counts.
        let fid = Fid::new(Arc::clone(&share), directory, None);
        fid.renamed(renamed);
        tree.remove_node(&file).unwrap();
        tree.remove_node(&fid.node()).unwrap();
    }

    /// A request to lock something may run while the client lets go of the fid, or goes.
    #[test]
    fn a_fid_that_is_let_go_of_has_no_locks_and_gets_none() {
        let dir = tempfile::tempdir().unwrap();
        let share = Share::open("s", TreeOptions::new(dir.path())).unwrap();
        let (tree, root) = (&share.tree, share.tree.root());
        let fids = Fids::new(10, 10);
        let lock = |fid: &Fid| {
            let owner = Owner { session: 0, client: Box::default(), process: 1 };
            let wanted = Lock { owner, fid: fid.key, kind: LockKind::Write, start: 0, end: 0 };
            fid.with_locks(|locks| locks.lock(wanted, &fids.lock_count))
        };
        let name = Component::new(b"f").unwrap();
        let made = tree.create(&root, name, MODE, WhenThere::Fail, 0o644, Creator::default());
        let (file, opened) = made.unwrap();
        let fid = Fid::new(Arc::clone(&share), root, None);
        assert_eq!(lock(&fid), Err(Errno::BADF), "not open");
        fid.put_to_use(Some(file.clone()), opened.into()).unwrap();
        fids.insert(1, fid).unwrap();
        let running = fids.get(1).unwrap();
        assert_eq!(lock(&running), Ok(Locked::Yes));
        fids.remove(1).unwrap();
        let locks = FileLocks::of(file.id());
        let owner = Owner { session: 1, client: Box::default(), process: 1 };
        let other = Lock { owner, fid: u64::MAX, kind: LockKind::Read, start: 0, end: u64::MAX };
        assert_eq!(locks.in_the_way(&other), None);
        assert_eq!(lock(&running), Err(Errno::BADF));
        assert_eq!(locks.in_the_way(&other), None);
    }
}
