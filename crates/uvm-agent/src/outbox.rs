//! What the agent owes its host: answers and notifications, kept until a connection has taken them.
//!
//! A connection may be lost while a request is being worked on. Its answer is then sent on the next one, under its old id,
//! behind the notifications that waited.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Frames on their way to the host. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Outbox(Arc<Shared>);

#[derive(Default)]
struct Shared {
    answers: Mutex<VecDeque<Arc<[u8]>>>,
    arrived: Notify,
}

impl Outbox {
    /// Adds an answer.
    pub(crate) fn push(&self, frame: Vec<u8>) {
        self.lock().push_back(frame.into());
        self.0.arrived.notify_one();
    }

    /// Waits for the frame to send next. It stays here until [`sent`](Self::sent). Cancel-safe. For one reader.
    pub(crate) async fn next(&self) -> Arc<[u8]> {
        loop {
            let arrived = self.0.arrived.notified();
            if let Some(frame) = self.lock().front() {
                return Arc::clone(frame);
            }
            arrived.await;
        }
    }

    /// The frame that [`next`](Self::next) gave has been sent whole.
    pub(crate) fn sent(&self) {
        self.lock().pop_front();
    }

    /// How many frames wait.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<[u8]>>> {
        self.0.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(outbox.len(), 1);
    }
}
