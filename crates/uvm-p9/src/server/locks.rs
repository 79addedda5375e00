//! Byte-range locks of all clients of this process.
//!
//! A lock is on a file of the host, whichever shares lead to it: several VMs may have one directory, each by a share of its
//! own. It belongs to a process of a client: a process never blocks itself, and one that unlocks a range unlocks it
//! whichever way it had locked it, as POSIX has it. What a client opened by one fid never blocks itself either: Linux sends
//! `flock` as the same request, under the number of whichever process calls it. Among its own processes a Linux client
//! decides by itself before it asks here.
//!
//! The locks of each file are under a mutex of their own: whoever fills a list holds up those who lock the same file, and
//! nobody else. There is no limit for all clients together, which one could use up for the others; each has its own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::io::Errno;

use crate::tree::FileId;

/// Whose lock it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) session: u64,
    pub(crate) client: Box<[u8]>,
    pub(crate) process: u32,
}

/// What a lock keeps out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LockKind {
    /// Those who write.
    Read,
    /// Everybody.
    Write,
}

/// A lock that is held, or asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lock {
    pub(crate) owner: Owner,
    /// The fid it was asked for by.
    pub(crate) fid: u64,
    pub(crate) kind: LockKind,
    /// First byte.
    pub(crate) start: u64,
    /// Last byte.
    pub(crate) end: u64,
}

impl Lock {
    fn overlaps(&self, start: u64, end: u64) -> bool {
        self.start <= end && start <= self.end
    }

    fn blocks(&self, wanted: &Self) -> bool {
        self.owner != wanted.owner
            && self.fid != wanted.fid
            && self.overlaps(wanted.start, wanted.end)
            && (self.kind == LockKind::Write || wanted.kind == LockKind::Write)
    }
}

/// The outcome of asking for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Locked {
    /// It is held now.
    Yes,
    /// Somebody else's is in the way.
    Blocked,
}

/// How many locks a session holds.
#[derive(Debug)]
pub(crate) struct LockCount {
    most: usize,
    held: AtomicUsize,
}

impl LockCount {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, held: AtomicUsize::new(0) }
    }

    /// `removed` of those it holds become `added`. `ENOLCK`: that would be too many. Never fails where there are no more
    /// than before.
    fn change(&self, removed: usize, added: usize) -> Result<(), Errno> {
        let changed = self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
            let held = held - removed + added;
            (added <= removed || held <= self.most).then_some(held)
        });
        changed.map(drop).map_err(|_| Errno::NOLCK)
    }

    fn give_back(&self, locks: usize) {
        self.held.fetch_sub(locks, Ordering::Relaxed);
    }
}

/// The locks of a file.
#[derive(Debug)]
pub(crate) struct FileLocks {
    file: FileId,
    locks: Mutex<Vec<Lock>>,
}

/// Those of the files that a fid of some client has locked, or has tried to.
static FILES: Mutex<BTreeMap<FileId, Weak<FileLocks>>> = Mutex::new(BTreeMap::new());

impl FileLocks {
    /// Those of a file. Whoever locks something holds on to this, and to the file.
    pub(crate) fn of(file: FileId) -> Arc<Self> {
        let mut files = files();
        if let Some(known) = files.get(&file).and_then(Weak::upgrade) {
            return known;
        }
        let new = Arc::new(Self { file, locks: Mutex::default() });
        files.insert(file, Arc::downgrade(&new));
        new
    }

    /// Locks a range, in place of what its owner held in it.
    pub(crate) fn lock(&self, wanted: Lock, count: &LockCount) -> Result<Locked, Errno> {
        let mut locks = self.locks();
        if locks.iter().any(|held| held.blocks(&wanted)) {
            return Ok(Locked::Blocked);
        }
        let (owner, start, end) = (wanted.owner.clone(), wanted.start, wanted.end);
        replace(&mut locks, &owner, start, end, Some(wanted), count)?;
        Ok(Locked::Yes)
    }

    /// Unlocks what the owner holds in a range. Unlocking the middle of a range leaves two, so that it can fail, too.
    pub(crate) fn unlock(&self, owner: &Owner, start: u64, end: u64, count: &LockCount) -> Result<(), Errno> {
        replace(&mut self.locks(), owner, start, end, None, count)
    }

    /// Unlocks the file as `flock` does: what the owner holds by this fid; if that is nothing, what was locked as a whole by the
    /// same fid, which another process has inherited or passed on. Nothing by another fid that may be `flock`'s: Linux sends
    /// the same when a process closes one open file of which it has locked another. If there is none of all this, it is a
    /// process that unlocks its ranges, by whichever fid.
    pub(crate) fn unlock_whole(&self, owner: &Owner, fid: u64, count: &LockCount) {
        let mut locks = self.locks();
        let is_whole = |lock: &Lock| (lock.start, lock.end) == (0, u64::MAX);
        let of_both = |lock: &Lock| lock.owner == *owner && lock.fid == fid;
        let whole = |lock: &Lock| lock.fid == fid && is_whole(lock);
        let ranges = |lock: &Lock| lock.owner == *owner && !is_whole(lock);
        let ways: [&dyn Fn(&Lock) -> bool; 3] = [&of_both, &whole, &ranges];
        if let Some(way) = ways.into_iter().find(|way| locks.iter().any(*way)) {
            count.give_back(locks.extract_if(.., |lock| way(lock)).count());
        }
    }

    /// A lock that would be in the way.
    pub(crate) fn in_the_way(&self, wanted: &Lock) -> Option<Lock> {
        self.locks().iter().find(|held| held.blocks(wanted)).cloned()
    }

    /// Drops all that was locked by a fid.
    pub(crate) fn release(&self, fid: u64, count: &LockCount) {
        let released = self.locks().extract_if(.., |lock| lock.fid == fid).count();
        count.give_back(released);
    }

    fn locks(&self) -> MutexGuard<'_, Vec<Lock>> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for FileLocks {
    fn drop(&mut self) {
        let mut files = files();
        // Somebody may have asked anew once nobody held on to this.
        if files.get(&self.file).is_some_and(|known| known.strong_count() == 0) {
            files.remove(&self.file);
        }
    }
}

fn files() -> MutexGuard<'static, BTreeMap<FileId, Weak<FileLocks>>> {
    FILES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the owner's locks out of a range and puts `new` in.
fn replace(
    locks: &mut Vec<Lock>,
    owner: &Owner,
    start: u64,
    end: u64,
    new: Option<Lock>,
    count: &LockCount,
) -> Result<(), Errno> {
    let in_range = |lock: &Lock| lock.owner == *owner && lock.overlaps(start, end);
    let mut added: Vec<Lock> = new.into_iter().collect();
    let mut removed = 0;
    for lock in locks.iter().filter(|lock| in_range(lock)) {
        removed += 1;
        if lock.start < start {
            added.push(Lock { end: start - 1, ..lock.clone() });
        }
        if lock.end > end {
            added.push(Lock { start: end + 1, ..lock.clone() });
        }
    }
    count.change(removed, added.len())?;
    locks.retain(|lock| !in_range(lock));
    locks.append(&mut added);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// A file for a test of its own: there is one list a file in the process.
    const fn file(inode: u64) -> FileId {
        FileId { device: u64::MAX, inode }
    }

    fn is_known(file: FileId) -> bool {
        files().contains_key(&file)
    }

    const BYTES: u64 = 24;

    fn owner(process: u32) -> Owner {
        Owner { session: u64::from(process / 2), client: b"guest".as_slice().into(), process }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Lock { process: u32, fid: u64, write: bool, start: u64, length: u64 },
        Unlock { process: u32, start: u64, length: u64 },
        Release { fid: u64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        let range = (0..BYTES, 1..BYTES);
        prop_oneof![
            4 => (0..4u32, 0..3u64, any::<bool>(), range.clone()).prop_map(|(process, fid, write, (start, length))| {
                // No session has the fids of another.
                let fid = 2 * fid + owner(process).session;
                Step::Lock { process, fid, write, start, length }
            }),
            2 => (0..4u32, range).prop_map(|(process, (start, length))| Step::Unlock { process, start, length }),
            1 => (0..6u64).prop_map(|fid| Step::Release { fid }),
        ]
    }

    /// Per byte and process: the fid and the kind.
    type Model = HashMap<(u64, u32), (u64, LockKind)>;

    proptest! {
        /// Against a model that knows every byte by itself.
        #[test]
        fn locks_are_as_if_each_byte_had_its_own(steps in prop::collection::vec(step(), 1..60)) {
            let locks = FileLocks::of(file(1));
            let counts = [LockCount::new(10_000), LockCount::new(10_000)];
            let count = |process: u32| &counts[owner(process).session as usize];
            let mut model = Model::new();
            for step in steps {
                match step {
                    Step::Lock { process, fid, write, start, length } => {
                        let kind = if write { LockKind::Write } else { LockKind::Read };
                        let bytes = start..start + length;
                        let blocked = model.iter().any(|(&(byte, other), &(other_fid, held))| {
                            bytes.contains(&byte)
                                && other != process
                                && other_fid != fid
                                && (held == LockKind::Write || kind == LockKind::Write)
                        });
                        let end = start + length - 1;
                        let wanted = Lock { owner: owner(process), fid, kind, start, end };
                        prop_assert_eq!(locks.in_the_way(&wanted).is_some(), blocked);
                        let outcome = locks.lock(wanted, count(process));
                        prop_assert_eq!(outcome, Ok(if blocked { Locked::Blocked } else { Locked::Yes }));
                        if !blocked {
                            model.extend(bytes.map(|byte| ((byte, process), (fid, kind))));
                        }
                    }
                    Step::Unlock { process, start, length } => {
                        locks.unlock(&owner(process), start, start + length - 1, count(process)).unwrap();
                        model.retain(|&(byte, other), _| other != process || !(start..start + length).contains(&byte));
                    }
                    Step::Release { fid } => {
                        locks.release(fid, &counts[(fid % 2) as usize]);
                        model.retain(|_, &mut (other, _)| other != fid);
                    }
                }
                let held = locks.locks();
                let counted: usize = counts.iter().map(|count| count.held.load(Ordering::Relaxed)).sum();
                prop_assert_eq!(counted, held.len());
                let bytes: usize = held.iter().map(|lock| (lock.end - lock.start + 1) as usize).sum();
                prop_assert_eq!(bytes, model.len());
            }
        }
    }

    #[test]
    fn splitting_ranges_meets_the_limit_and_unlocking_all_never_does() {
        let (locks, count) = (FileLocks::of(file(2)), LockCount::new(3));
        let whole = Lock { owner: owner(1), fid: 1, kind: LockKind::Write, start: 0, end: u64::MAX };
        assert_eq!(locks.lock(whole.clone(), &count), Ok(Locked::Yes));
        assert_eq!(locks.unlock(&owner(1), 10, 10, &count), Ok(()));
        assert_eq!(locks.unlock(&owner(1), 20, 20, &count), Ok(()));
        assert_eq!(locks.unlock(&owner(1), 30, 30, &count), Err(Errno::NOLCK));
        assert_eq!(locks.unlock(&owner(1), 0, u64::MAX, &count), Ok(()));
        assert_eq!((locks.locks().len(), count.held.load(Ordering::Relaxed)), (0, 0));
        assert_eq!(locks.lock(whole, &LockCount::new(0)), Err(Errno::NOLCK));
    }

    #[test]
    fn a_file_has_one_list_for_as_long_as_somebody_holds_on_to_it() {
        let one = FileLocks::of(file(3));
        assert!(Arc::ptr_eq(&one, &FileLocks::of(file(3))) && !Arc::ptr_eq(&one, &FileLocks::of(file(4))));
        assert!(is_known(file(3)) && !is_known(file(4)), "nobody holds on to that");
        drop(one);
        assert!(!is_known(file(3)));
    }
}
