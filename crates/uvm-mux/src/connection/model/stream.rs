//! What the model knows of a stream, and of whoever waits for it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Poll, Wake, Waker};

use super::super::Slot;

/// Remembers whether it was woken since it was last found to have to wait.
#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Whoever waits for one direction at one end. A wait that ends without a wake-up is a lost one.
#[derive(Default)]
pub(super) struct Waiter {
    flag: Arc<Flag>,
    pub(super) waiting: bool,
}

impl Waiter {
    pub(super) fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.flag))
    }

    pub(super) fn polled<T>(&mut self, result: &Poll<T>) {
        if result.is_pending() {
            self.waiting = true;
            self.flag.0.store(false, Ordering::Relaxed);
        } else if std::mem::take(&mut self.waiting) {
            assert!(self.flag.0.load(Ordering::Relaxed), "ready without a wake-up");
        }
    }
}

/// One direction of a stream.
#[derive(Default)]
pub(super) struct Direction {
    pub(super) written: usize,
    pub(super) read: usize,
    pub(super) shut: bool,
    pub(super) ended: bool,
    pub(super) discarded: bool,
}

/// One end of a stream.
#[derive(Default)]
pub(super) struct StreamEnd {
    pub(super) slot: Option<Slot>,
    pub(super) reader: Waiter,
    pub(super) writer: Waiter,
}

pub(super) struct ModelStream {
    pub(super) seed: usize,
    pub(super) ends: [StreamEnd; 2],
    /// By the end that writes.
    pub(super) directions: [Direction; 2],
    /// Somebody cut it: a reset, a release, a refusal, a new epoch.
    pub(super) may_be_cut: bool,
    /// A restore may have put filler into it.
    pub(super) garbled: bool,
}

/// What every stream carries, each from a place of its own: a pattern that repeats after a prime number of bytes.
static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let period: Vec<u8> = (0..PERIOD).map(|i| (i * i / 7 + i / 3) as u8).collect();
    period.repeat(6)
});
const PERIOD: usize = 8191;
pub(super) const LONGEST: usize = 4 * PERIOD;

impl ModelStream {
    /// Up to [`LONGEST`] bytes that `end` writes, from byte `at` on.
    pub(super) fn bytes(&self, end: usize, at: usize) -> &'static [u8] {
        let start = (self.seed * 97 + end * 3001 + at) % PERIOD;
        &PATTERN[start..start + LONGEST]
    }
}
