//! The calls that wait for an answer, without I/O.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::oneshot;
use uvm_wire::MessageType;

use super::error::BridgeClosed;

/// The answer to a call: its type and body.
pub(super) type Answer = (MessageType, Vec<u8>);

/// Calls by id. Ids count up from 0 and are never used twice.
#[derive(Default)]
pub(super) struct Pending {
    next_id: u64,
    calls: HashMap<u64, oneshot::Sender<Answer>>,
    closed: Option<Arc<BridgeClosed>>,
}

impl Pending {
    /// Enters a call; gives its id and where its answer will come.
    pub(super) fn enter(&mut self) -> Result<(u64, oneshot::Receiver<Answer>), Arc<BridgeClosed>> {
        if let Some(why) = &self.closed {
            return Err(Arc::clone(why));
        }
        let id = self.next_id;
        self.next_id += 1;
        let (sender, receiver) = oneshot::channel();
        self.calls.insert(id, sender);
        Ok((id, receiver))
    }

    /// Takes a call off: nobody waits for its answer any more.
    pub(super) fn leave(&mut self, id: u64) {
        self.calls.remove(&id);
    }

    /// Hands an answer to its call. `false`: no call has this id, or nobody waits any more.
    pub(super) fn answer(&mut self, id: u64, answer: Answer) -> bool {
        self.calls.remove(&id).is_some_and(|call| call.send(answer).is_ok())
    }

    /// Closes for good. The reason is stored before any call learns of it; the first one counts. `false`: it was closed.
    pub(super) fn close(&mut self, why: BridgeClosed) -> bool {
        let first = self.closed.is_none();
        self.closed.get_or_insert_with(|| Arc::new(why));
        self.calls.clear();
        first
    }

    /// Why it is closed, if it is.
    pub(super) fn closed(&self) -> Option<Arc<BridgeClosed>> {
        self.closed.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_count_up_and_answers_find_their_call() {
        let mut pending = Pending::default();
        let (first, mut first_answer) = pending.enter().expect("open");
        let (second, mut second_answer) = pending.enter().expect("open");
        assert_eq!((first, second), (0, 1));
        let answer = (MessageType::START.response(), vec![1]);
        assert!(pending.answer(1, answer.clone()));
        assert!(!pending.answer(1, answer.clone()), "answered already");
        assert!(!pending.answer(7, answer.clone()), "never asked");
        assert_eq!(second_answer.try_recv(), Ok(answer.clone()));
        pending.leave(0);
        assert!(!pending.answer(0, answer), "nobody waits");
        assert!(first_answer.try_recv().is_err());
    }

    #[test]
    fn d71_the_first_reason_to_close_is_there_before_any_call_learns_of_it() {
        let mut pending = Pending::default();
        let (_, mut answer) = pending.enter().expect("open");
        assert!(pending.close(BridgeClosed::ByGuest));
        assert!(!pending.close(BridgeClosed::ByHost));
        assert!(answer.try_recv().is_err());
        assert!(matches!(*pending.enter().expect_err("closed"), BridgeClosed::ByGuest));
        assert!(matches!(pending.closed().as_deref(), Some(BridgeClosed::ByGuest)));
    }
}
