//! Byte-range locks of all clients of a share.
//!
//! A lock belongs to a process of a client: a process never blocks itself, and one that unlocks a range unlocks it
//! whichever way it had locked it, as POSIX has it. What a client opened by one fid never blocks itself either: Linux sends
//! `flock` as the same request, under the number of whichever process calls it. Among its own processes a Linux client
//! decides by itself before it asks here.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

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

/// The locks of a share.
#[derive(Debug, Default)]
pub(crate) struct Locks(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    /// No file is without locks.
    files: HashMap<FileId, Vec<Lock>>,
    /// How many each session holds.
    held: HashMap<u64, usize>,
}

impl Locks {
    /// Locks a range, in place of what its owner held in it. `alive` says whether the fid is still the client's: it is
    /// looked at under the table's own lock, as [`release`](Self::release) needs it to be.
    pub(crate) fn lock(&self, file: FileId, wanted: Lock, alive: &AtomicBool, most: usize) -> Result<Locked, Errno> {
        let mut table = self.table();
        if !alive.load(Ordering::Relaxed) {
            return Err(Errno::BADF);
        }
        if table.files.get(&file).is_some_and(|locks| locks.iter().any(|held| held.blocks(&wanted))) {
            return Ok(Locked::Blocked);
        }
        let (owner, start, end) = (wanted.owner.clone(), wanted.start, wanted.end);
        table.replace(file, &owner, start, end, Some(wanted), most)?;
        Ok(Locked::Yes)
    }

    /// Unlocks what the owner holds in a range. Unlocking the middle of a range leaves two, so that it can fail, too.
    pub(crate) fn unlock(&self, file: FileId, owner: &Owner, start: u64, end: u64, most: usize) -> Result<(), Errno> {
        self.table().replace(file, owner, start, end, None, most)
    }

    /// A lock that would be in the way.
    pub(crate) fn in_the_way(&self, file: FileId, wanted: &Lock) -> Option<Lock> {
        self.table().files.get(&file)?.iter().find(|held| held.blocks(wanted)).cloned()
    }

    /// Drops all that was locked by a fid, which gets no more.
    pub(crate) fn release(&self, file: FileId, fid: u64, alive: &AtomicBool) {
        let mut table = self.table();
        alive.store(false, Ordering::Relaxed);
        let Table { files, held } = &mut *table;
        let Some(locks) = files.get_mut(&file) else { return };
        for lock in locks.extract_if(.., |lock| lock.fid == fid) {
            give_back(held, lock.owner.session);
        }
        if locks.is_empty() {
            files.remove(&file);
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn give_back(held: &mut HashMap<u64, usize>, session: u64) {
    if let Some(count) = held.get_mut(&session) {
        *count -= 1;
        if *count == 0 {
            held.remove(&session);
        }
    }
}

impl Table {
    /// Takes the owner's locks out of a range and puts `new` in.
    fn replace(
        &mut self,
        file: FileId,
        owner: &Owner,
        start: u64,
        end: u64,
        new: Option<Lock>,
        most: usize,
    ) -> Result<(), Errno> {
        let locks = self.files.get(&file).map_or(&[][..], Vec::as_slice);
        let in_range = |lock: &Lock| lock.owner == *owner && lock.overlaps(start, end);
        let mut added: Vec<Lock> = new.into_iter().collect();
        for lock in locks.iter().filter(|lock| in_range(lock)) {
            if lock.start < start {
                added.push(Lock { end: start - 1, ..lock.clone() });
            }
            if lock.end > end {
                added.push(Lock { start: end + 1, ..lock.clone() });
            }
        }
        let removed = locks.iter().filter(|lock| in_range(lock)).count();
        let count = self.held.get(&owner.session).copied().unwrap_or_default() - removed + added.len();
        if count > most && added.len() > removed {
            return Err(Errno::NOLCK);
        }
        if count == 0 {
            self.held.remove(&owner.session);
        } else {
            self.held.insert(owner.session, count);
        }
        let locks = self.files.entry(file).or_default();
        locks.retain(|lock| !in_range(lock));
        locks.append(&mut added);
        if locks.is_empty() {
            self.files.remove(&file);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FILE: FileId = FileId { device: 1, inode: 2 };
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
            4 => (0..4u32, 0..6u64, any::<bool>(), range.clone())
                .prop_map(|(process, fid, write, (start, length))| Step::Lock { process, fid, write, start, length }),
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
            let locks = Locks::default();
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
                        prop_assert_eq!(locks.in_the_way(FILE, &wanted).is_some(), blocked);
                        let outcome = locks.lock(FILE, wanted, &AtomicBool::new(true), 10_000);
                        prop_assert_eq!(outcome, Ok(if blocked { Locked::Blocked } else { Locked::Yes }));
                        if !blocked {
                            model.extend(bytes.map(|byte| ((byte, process), (fid, kind))));
                        }
                    }
                    Step::Unlock { process, start, length } => {
                        locks.unlock(FILE, &owner(process), start, start + length - 1, 10_000).unwrap();
                        model.retain(|&(byte, other), _| other != process || !(start..start + length).contains(&byte));
                    }
                    Step::Release { fid } => {
                        locks.release(FILE, fid, &AtomicBool::new(true));
                        model.retain(|_, &mut (other, _)| other != fid);
                    }
                }
                let table = locks.table();
                let held = table.files.get(&FILE).map_or(&[][..], Vec::as_slice);
                prop_assert_eq!(table.held.values().sum::<usize>(), held.len());
                let bytes: usize = held.iter().map(|lock| (lock.end - lock.start + 1) as usize).sum();
                prop_assert_eq!(bytes, model.len());
            }
        }
    }

    #[test]
    fn splitting_ranges_meets_the_limit_and_unlocking_all_never_does() {
        let (locks, alive) = (Locks::default(), AtomicBool::new(true));
        let whole = Lock { owner: owner(1), fid: 1, kind: LockKind::Write, start: 0, end: u64::MAX };
        assert_eq!(locks.lock(FILE, whole.clone(), &alive, 3), Ok(Locked::Yes));
        assert_eq!(locks.unlock(FILE, &owner(1), 10, 10, 3), Ok(()));
        assert_eq!(locks.unlock(FILE, &owner(1), 20, 20, 3), Ok(()));
        assert_eq!(locks.unlock(FILE, &owner(1), 30, 30, 3), Err(Errno::NOLCK));
        assert_eq!(locks.unlock(FILE, &owner(1), 0, u64::MAX, 0), Ok(()));
        assert!(locks.table().files.is_empty() && locks.table().held.is_empty());
        assert_eq!(locks.lock(FILE, whole, &alive, 0), Err(Errno::NOLCK));
    }

    #[test]
    fn a_released_fid_gets_no_lock() {
        let (locks, alive) = (Locks::default(), AtomicBool::new(true));
        let wanted = Lock { owner: owner(1), fid: 1, kind: LockKind::Read, start: 0, end: 0 };
        locks.release(FILE, 1, &alive);
        assert_eq!(locks.lock(FILE, wanted, &alive, 3), Err(Errno::BADF));
        assert!(locks.table().files.is_empty());
    }
}
