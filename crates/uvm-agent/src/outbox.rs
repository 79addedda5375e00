//! What the agent owes its host: answers and notifications, kept until a connection has taken them.
//!
//! A connection may be lost while a request is being worked on. Its answer is then sent on the next one, under its old id,
//! behind the notifications that waited. Only what came before a connection agreed on the protocol is answered on that
//! connection or not at all: the next host begins with the same ids.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Frames on their way to the host. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Outbox(Arc<Shared>);

#[derive(Default)]
struct Shared {
    answers: Mutex<VecDeque<Owed>>,
    /// Bytes of them.
    bytes: AtomicUsize,
    /// Requests that take time and have no answer yet.
    open: AtomicUsize,
    arrived: Notify,
}

struct Owed {
    frame: Arc<[u8]>,
    /// Only the connection that asked may have it.
    to_this_connection: bool,
}

impl Outbox {
    /// The most requests that take time at a time: each may have its answer held until there is a connection again.
    pub(crate) const MAX_OPEN: usize = 16 * 1024;

    /// Begins to work on a request that takes time; `None` if there are too many.
    pub(crate) fn open(&self) -> Option<OpenRequest> {
        let more = |open: usize| (open < Self::MAX_OPEN).then_some(open + 1);
        self.0.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(OpenRequest(Arc::clone(&self.0)))
    }

    /// Adds an answer.
    pub(crate) fn push(&self, frame: Vec<u8>) {
        self.add(Owed { frame: frame.into(), to_this_connection: false });
    }

    /// Adds an answer that is void when the present connection ends.
    pub(crate) fn push_for_this_connection(&self, frame: Vec<u8>) {
        self.add(Owed { frame: frame.into(), to_this_connection: true });
    }

    fn add(&self, owed: Owed) {
        self.0.bytes.fetch_add(owed.frame.len(), Ordering::Relaxed);
        self.lock().push_back(owed);
        self.0.arrived.notify_one();
    }

    /// The present connection has ended.
    pub(crate) fn connection_ended(&self) {
        self.lock().retain(|owed| {
            if owed.to_this_connection {
                self.0.bytes.fetch_sub(owed.frame.len(), Ordering::Relaxed);
            }
            !owed.to_this_connection
        });
    }

    /// Waits for the frame to send next. It stays here until [`sent`](Self::sent). Cancel-safe. For one reader.
    pub(crate) async fn next(&self) -> Arc<[u8]> {
        loop {
            let arrived = self.0.arrived.notified();
            if let Some(owed) = self.lock().front() {
                return Arc::clone(&owed.frame);
            }
            arrived.await;
        }
    }

    /// The frame that [`next`](Self::next) gave has been sent whole.
    pub(crate) fn sent(&self) {
        if let Some(owed) = self.lock().pop_front() {
            self.0.bytes.fetch_sub(owed.frame.len(), Ordering::Relaxed);
        }
    }

    /// How many bytes wait.
    pub(crate) fn bytes(&self) -> usize {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// How many frames wait.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Owed>> {
        self.0.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is worked on. Dropping it says that it is answered.
pub(crate) struct OpenRequest(Arc<Shared>);

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_requests_are_open_at_a_time_and_no_more() {
        let outbox = Outbox::default();
        let mut open: Vec<OpenRequest> = std::iter::from_fn(|| outbox.open()).collect();
        assert_eq!(open.len(), Outbox::MAX_OPEN);
        open.pop();
        let again = outbox.open();
        assert!(again.is_some() && outbox.open().is_none());
    }

    #[tokio::test]
    async fn a_frame_stays_until_it_was_sent() {
        let outbox = Outbox::default();
        let waiting = tokio::spawn({
            let outbox = outbox.clone();
            async move { outbox.next().await }
        });
        tokio::task::yield_now().await;
        outbox.push(vec![1]);
        outbox.push(vec![2]);
        assert_eq!(waiting.await.expect("joined")[..], [1]);
        assert_eq!(outbox.next().await[..], [1], "it was not sent");
        outbox.sent();
        assert_eq!(outbox.next().await[..], [2]);
        assert_eq!((outbox.len(), outbox.bytes()), (1, 1));
    }

    #[tokio::test]
    async fn the_end_of_a_connection_leaves_only_what_the_next_may_have() {
        let outbox = Outbox::default();
        for byte in 0..6 {
            let frame = vec![byte];
            if byte % 2 == 0 { outbox.push_for_this_connection(frame) } else { outbox.push(frame) }
        }
        outbox.connection_ended();
        for byte in [1, 3, 5] {
            assert_eq!(outbox.next().await[..], [byte]);
            outbox.sent();
        }
        assert_eq!((outbox.len(), outbox.bytes()), (0, 0));
    }
}
