//! Budgets of descriptors.

use std::iter::successors;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::Errno;

/// How many descriptors may still be opened, by one tree or by several that draw on the same budget. Clones are one budget.
#[derive(Clone, Debug)]
pub struct Descriptors(Arc<Level>);

#[derive(Debug)]
struct Level {
    left: AtomicUsize,
    /// Draws on this one, too.
    whole: Option<Arc<Level>>,
}

impl Descriptors {
    /// At most so many at a time.
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Level { left: AtomicUsize::new(most), whole: None }))
    }

    /// A part of these: at most `most`, and no more than the other parts leave. Nothing is set aside for it.
    #[must_use]
    pub fn part(&self, most: usize) -> Self {
        Self(Arc::new(Level { left: AtomicUsize::new(most), whole: Some(Arc::clone(&self.0)) }))
    }

    /// For one descriptor; given back when the permit is dropped.
    ///
    /// # Errors
    /// `ENFILE`: there are none left.
    pub(super) fn take(&self) -> Result<Permit, Errno> {
        for level in self.0.levels() {
            let taken = level.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            if taken.is_err() {
                let before = self.0.levels().take_while(|&before| !std::ptr::eq(before, level));
                before.for_each(Level::give_back);
                return Err(Errno::NFILE);
            }
        }
        Ok(Permit(Arc::clone(&self.0)))
    }
}

impl Level {
    /// This one, what it is a part of, and so on.
    fn levels(&self) -> impl Iterator<Item = &Self> {
        successors(Some(self), |level| level.whole.as_deref())
    }

    fn give_back(&self) {
        self.left.fetch_add(1, Ordering::Relaxed);
    }
}

/// For one descriptor. It is declared after the descriptor, so that it is given back once that is closed.
#[derive(Debug)]
pub(super) struct Permit(Arc<Level>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.levels().for_each(Level::give_back);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_their_own_limit_and_that_of_the_whole() {
        let whole = Descriptors::new(3);
        let (one, two) = (whole.part(2), whole.part(2));
        let first = one.take().expect("1 of 2");
        let _second = one.take().expect("2 of 2");
        assert_eq!(one.take().err(), Some(Errno::NFILE), "its own limit");
        let third = two.take().expect("3 of 3");
        assert_eq!(two.take().err(), Some(Errno::NFILE), "the limit of the whole");
        drop(first);
        let _fourth = two.take().expect("what is given back to one is there for the other");
        drop(third);
        let _fifth = one.take().expect("what was refused has taken nothing");
        assert_eq!(one.take().err(), Some(Errno::NFILE));
    }
}
