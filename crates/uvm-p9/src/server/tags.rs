//! Requests that are not answered yet, by their tags, and what becomes of those the client wants forgotten.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The requests of a session. `F` is what answers a flush.
#[derive(Debug)]
pub(super) struct Tags<F>(Mutex<State<F>>);

#[derive(Debug)]
struct State<F> {
    next: u64,
    requests: HashMap<u16, Request<F>>,
}

#[derive(Debug)]
struct Request<F> {
    number: u64,
    running: bool,
    /// Answered after the request is.
    flushes: Vec<F>,
}

impl<F> Tags<F> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(State { next: 0, requests: HashMap::new() }))
    }

    /// Takes note of a request. Its number tells it from others with the same tag; `None`: the tag is in use.
    pub(super) fn begin(&self, tag: u16) -> Option<u64> {
        let mut state = self.state();
        let number = state.next;
        match state.requests.entry(tag) {
            Entry::Occupied(_) => return None,
            Entry::Vacant(vacant) => vacant.insert(Request { number, running: false, flushes: Vec::new() }),
        };
        state.next += 1;
        Some(number)
    }

    /// The request is about to run. `false`: it was flushed.
    pub(super) fn run(&self, tag: u16, number: u64) -> bool {
        match self.state().requests.get_mut(&tag) {
            Some(request) if request.number == number => {
                request.running = true;
                true
            }
            _ => false,
        }
    }

    /// The request is done: `answer` sends its answer and then those of the flushes that waited for it. Only then may the
    /// tag be used anew, so it is sent under the lock.
    pub(super) fn finish(&self, tag: u16, answer: impl FnOnce(Vec<F>)) {
        let mut state = self.state();
        if let Some(request) = state.requests.remove(&tag) {
            answer(request.flushes);
        }
    }

    /// Forgets a request that waits. One that runs cannot be stopped: it is answered first, the flush after it. `answer`
    /// sends the answer of a flush that need not wait.
    pub(super) fn flush(&self, old: u16, flush: F, answer: impl FnOnce(F)) {
        let mut state = self.state();
        if let Some(request) = state.requests.get_mut(&old)
            && request.running
        {
            request.flushes.push(flush);
            return;
        }
        state.requests.remove(&old);
        answer(flush);
    }

    fn state(&self) -> MutexGuard<'_, State<F>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flush(tags: &Tags<u32>, old: u16, flush: u32) -> Option<u32> {
        let mut answered = None;
        tags.flush(old, flush, |flush| answered = Some(flush));
        answered
    }

    #[test]
    fn a_request_that_waits_is_forgotten_and_its_tag_is_free() {
        let tags = Tags::new();
        let old = tags.begin(7).expect("free");
        assert_eq!(tags.begin(7), None);
        assert_eq!(flush(&tags, 7, 1), Some(1));
        let new = tags.begin(7).expect("free again");
        assert!(!tags.run(7, old), "the forgotten one must not run in place of the new one");
        assert!(tags.run(7, new));
    }

    #[test]
    fn a_request_that_runs_is_answered_before_its_flushes() {
        let tags = Tags::new();
        let number = tags.begin(7).expect("free");
        assert!(tags.run(7, number));
        assert_eq!((flush(&tags, 7, 1), flush(&tags, 7, 2)), (None, None));
        let mut order = Vec::new();
        tags.finish(7, |flushes| order = flushes);
        assert_eq!(order, [1, 2]);
        assert_eq!(flush(&tags, 7, 3), Some(3), "nothing to wait for any more");
    }
}
