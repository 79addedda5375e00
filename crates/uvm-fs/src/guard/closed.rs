//! Directories where file systems begin that are not entered.

use std::collections::HashSet;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::rules::errno;

/// How many such directories a guest may know at a time.
const MOST: usize = 1024;

/// Those the guest knows, by their numbers. A number is never given twice while the file system behind lives.
#[derive(Debug, Default)]
pub(super) struct Closed(Mutex<HashSet<u64>>);

impl Closed {
    fn all(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn has(&self, inode: u64) -> bool {
        self.all().contains(&inode)
    }

    /// Adds one the guest is about to know.
    pub(super) fn add(&self, inode: u64) -> io::Result<()> {
        let mut all = self.all();
        if all.len() >= MOST && !all.contains(&inode) {
            return Err(errno(libc::ENFILE));
        }
        all.insert(inode);
        Ok(())
    }

    /// The guest has forgotten it, unless it is `known` by another lookup.
    pub(super) fn forget(&self, inode: u64, known: impl FnOnce() -> bool) {
        if self.has(inode) && !known() {
            self.all().remove(&inode);
        }
    }

    pub(super) fn clear(&self) {
        self.all().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_stays_closed_and_the_rest_is_forgotten() {
        let closed = Closed::default();
        for inode in 0..MOST as u64 {
            closed.add(inode).expect("room");
        }
        closed.add(7).expect("it is there");
        closed.add(5000).expect_err("no room");
        closed.forget(7, || true);
        assert!(closed.has(7));
        closed.forget(7, || false);
        assert!(!closed.has(7));
        closed.add(5000).expect("room again");
    }
}
