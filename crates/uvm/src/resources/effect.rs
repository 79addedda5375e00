//! What the state machine wants done.

use std::sync::Arc;

use super::ResourceError;
use super::plan::{Plan, Progress, Step};

/// One thing that is, or is to be, plugged in. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct EntryId(pub(super) u64);

/// What to do, in order.
#[derive(Debug)]
#[cfg_attr(test, derive(PartialEq))]
pub(crate) enum Effect<K, W, R> {
    /// Attach it, then report to [`Machine::attached`](super::machine::Machine::attached).
    Attach(EntryId, Arc<Plan>),
    /// Change it, then report to [`Machine::changed`](super::machine::Machine::changed).
    Change(EntryId, Arc<Step>),
    /// Detach it, then report to [`Machine::detached`](super::machine::Machine::detached).
    Detach(EntryId, Arc<Plan>, Progress),
    /// This part is there: hand it to the waiter, who has a count of it. One who is gone must be released.
    Grant(EntryId, K, W),
    /// The waiter gets nothing.
    Fail(W, Box<ResourceError>),
    /// The waiter's count is gone.
    Released(W),
    /// What it was asked for before this could be decided: ask again.
    Retry(Kept<K, W, R>),
    /// Its place is free.
    Freed(EntryId),
}

/// What is kept until it can be decided.
#[derive(Debug)]
#[cfg_attr(test, derive(PartialEq))]
pub(crate) enum Kept<K, W, R> {
    /// Somebody asks for something.
    Ask(R, W),
    /// Somebody releases a part.
    Release(EntryId, K, Option<W>),
}
