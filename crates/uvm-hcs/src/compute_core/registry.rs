//! What callbacks find their own by: numbers that are used once.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Things by number.
pub(super) struct Registry<T>(Mutex<Numbered<T>>);

struct Numbered<T> {
    next: usize,
    things: BTreeMap<usize, T>,
}

/// The number of a thing, in the shape of a callback's context. It points at nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number(usize);

impl Number {
    pub(super) fn to_context(self) -> *const c_void {
        ptr::without_provenance(self.0)
    }

    pub(super) fn from_context(context: *const c_void) -> Self {
        Self(context.addr())
    }
}

impl<T> Registry<T> {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(Numbered { next: 1, things: BTreeMap::new() }))
    }

    /// A number that no thing has had.
    pub(super) fn reserve(&self) -> Number {
        let mut numbered = self.lock();
        let number = numbered.next;
        numbered.next += 1;
        Number(number)
    }

    pub(super) fn put(&self, number: Number, thing: T) {
        self.lock().things.insert(number.0, thing);
    }

    pub(super) fn remove(&self, number: Number) -> Option<T> {
        self.lock().things.remove(&number.0)
    }

    pub(super) fn get(&self, number: Number) -> Option<T>
    where
        T: Clone,
    {
        self.lock().things.get(&number.0).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Numbered<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
