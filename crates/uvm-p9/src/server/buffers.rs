//! Memory for messages. Buffers for bulk are used again, so that a stream of reads or writes does not have the kernel
//! clear a megabyte for each.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Up to so many bytes, a message has memory of its own.
pub(super) const SMALL: usize = 4096;

/// How many buffers wait for their next use, at most.
const KEPT: usize = 8;

/// The buffers of a session, all of one size.
#[derive(Debug)]
pub(super) struct Buffers {
    size: usize,
    /// None waits for its next use while there are so many.
    most: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    free: Vec<Vec<u8>>,
    used: usize,
}

impl Buffers {
    /// Buffers of `size` bytes. Those that wait for their next use are part of the `memory` that messages take, too.
    pub(super) fn new(size: usize, memory: usize) -> Arc<Self> {
        Arc::new(Self { size, most: memory / size, state: Mutex::default() })
    }

    /// A buffer of `len` bytes with anything in it that was this client's own.
    pub(super) fn take(self: &Arc<Self>, len: usize) -> Buffer {
        if len <= SMALL || len > self.size {
            return Buffer { bytes: vec![0; len], len, home: None };
        }
        let free = {
            let mut state = self.state();
            state.used += 1;
            state.free.pop()
        };
        let bytes = free.unwrap_or_else(|| vec![0; self.size]);
        Buffer { bytes, len, home: Some(Arc::clone(self)) }
    }

    /// What a message of `len` bytes takes.
    pub(super) fn cost(&self, len: usize) -> usize {
        if len <= SMALL { SMALL } else { self.size }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A message's bytes.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    len: usize,
    home: Option<Arc<Buffers>>,
}

impl Buffer {
    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }

    /// Leaves the first `len` bytes.
    pub(super) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Self {
        Self { len: bytes.len(), bytes, home: None }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(home) = &self.home else { return };
        let mut state = home.state();
        state.used -= 1;
        if state.free.len() < KEPT && state.used + state.free.len() < home.most {
            state.free.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 2 * SMALL;

    fn held(buffers: &Buffers) -> (usize, usize) {
        let state = buffers.state();
        (state.used, state.free.len())
    }

    #[test]
    fn buffers_that_wait_and_those_in_use_are_no_more_than_the_memory() {
        let buffers = Buffers::new(SIZE, 3 * SIZE);
        let mut used: Vec<_> = (0..5).map(|_| buffers.take(SIZE)).collect();
        assert_eq!(held(&buffers), (5, 0));
        drop(used.drain(..2));
        assert_eq!(held(&buffers), (3, 0), "there are as many in use as may be");
        drop(used.pop());
        assert_eq!(held(&buffers), (2, 1));
        used.clear();
        assert_eq!(held(&buffers), (0, 3));
        let _used = buffers.take(SIZE);
        assert_eq!(held(&buffers), (1, 2), "one that waited is used");
    }

    #[test]
    fn few_wait_however_much_memory_there_is() {
        let buffers = Buffers::new(SIZE, 1000 * SIZE);
        drop((0..100).map(|_| buffers.take(SIZE)).collect::<Vec<_>>());
        assert_eq!(held(&buffers), (0, KEPT));
    }

    #[test]
    fn a_small_message_has_memory_of_its_own() {
        let buffers = Buffers::new(SIZE, SIZE);
        drop(buffers.take(SMALL));
        assert_eq!(held(&buffers), (0, 0));
    }
}
