//! Memory for messages. Buffers for bulk are used again, so that a stream of reads or writes does not have the kernel
//! clear a megabyte for each.

use std::sync::{Arc, Mutex, PoisonError};

/// Up to so many bytes, a message has memory of its own.
pub(super) const SMALL: usize = 4096;

/// How many buffers wait for their next use.
const KEPT: usize = 8;

/// The buffers of a session, all of one size.
#[derive(Debug)]
pub(super) struct Buffers {
    size: usize,
    free: Mutex<Vec<Vec<u8>>>,
}

impl Buffers {
    pub(super) fn new(size: usize) -> Arc<Self> {
        Arc::new(Self { size, free: Mutex::default() })
    }

    /// A buffer of `len` bytes with anything in it that was this client's own.
    pub(super) fn take(self: &Arc<Self>, len: usize) -> Buffer {
        if len <= SMALL || len > self.size {
            return Buffer { bytes: vec![0; len], len, home: None };
        }
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let bytes = free.unwrap_or_else(|| vec![0; self.size]);
        Buffer { bytes, len, home: Some(Arc::clone(self)) }
    }

    /// What a message of `len` bytes takes.
    pub(super) fn cost(&self, len: usize) -> usize {
        if len <= SMALL { SMALL } else { self.size }
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
        let mut free = home.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < KEPT {
            free.push(std::mem::take(&mut self.bytes));
        }
    }
}
