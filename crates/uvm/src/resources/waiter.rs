//! Who waits for the state machine, and what is given back after the wait.

use tokio::sync::oneshot;

use super::{Attached, EntryId, Key, ResourceError};

/// One count of a part of a thing, to be given back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) id: EntryId,
    pub(crate) part: Key,
}

/// Who waits. Some things stand on another, as a directory in a guest on the share it comes from: `under` is a count of that,
/// which goes with the thing and after it.
pub(crate) enum Waiter {
    /// For a thing.
    Attach { reply: oneshot::Sender<Result<Attached, ResourceError>>, under: Option<Count> },
    /// For its own count to be gone. Nobody may want to know.
    Release { reply: Option<oneshot::Sender<Result<(), ResourceError>>>, under: Option<Count> },
    /// For a thing that could not be had, until what it was to stand on is given back.
    Undo { reply: oneshot::Sender<Result<Attached, ResourceError>>, why: Box<ResourceError> },
}

/// What is given back next, and who waits for that.
pub(crate) type GivenBack = Option<(Count, Option<Waiter>)>;

impl Waiter {
    /// For a thing that stands on nothing.
    pub(crate) fn attach(reply: oneshot::Sender<Result<Attached, ResourceError>>) -> Self {
        Self::Attach { reply, under: None }
    }

    /// For a count of a thing that stands on nothing to be gone.
    pub(crate) fn release(reply: oneshot::Sender<Result<(), ResourceError>>) -> Self {
        Self::Release { reply: Some(reply), under: None }
    }

    /// For the end of a count that nobody waits for. There is work for it only where the thing stands on another.
    pub(crate) fn nobody(under: Option<Count>) -> Option<Self> {
        under.map(|under| Self::Release { reply: None, under: Some(under) })
    }

    /// It gets the thing. One who gave up has a count all the same, which is given back.
    pub(crate) fn grant(self, attached: Attached) -> GivenBack {
        let Self::Attach { reply, under } = self else {
            // Who waits for the end of one gets no other.
            return self.fail(ResourceError::NotAttached);
        };
        let count = attached.count.clone();
        let gave_up = reply.send(Ok(attached)).is_err();
        gave_up.then(|| (count, Self::nobody(under)))
    }

    /// Its count is gone.
    pub(crate) fn released(self) -> GivenBack {
        match self {
            Self::Release { reply, under: Some(under) } => Some((under, Some(Self::Release { reply, under: None }))),
            Self::Release { reply: Some(reply), under: None } => answer(reply, Ok(())),
            Self::Release { reply: None, under: None } => None,
            Self::Undo { reply, why } => answer(reply, Err(*why)),
            Self::Attach { .. } => self.fail(ResourceError::NotAttached),
        }
    }

    /// It gets nothing, or keeps its count.
    pub(crate) fn fail(self, error: ResourceError) -> GivenBack {
        match self {
            Self::Attach { reply, under: Some(under) } => {
                Some((under, Some(Self::Undo { reply, why: Box::new(error) })))
            }
            Self::Attach { reply, under: None } => answer(reply, Err(error)),
            // The thing went before, and what it stood on did not.
            Self::Release { reply, under: Some(under) } if matches!(error, ResourceError::NotAttached) => {
                Some((under, Some(Self::Release { reply, under: None })))
            }
            Self::Release { reply: Some(reply), .. } => answer(reply, Err(error)),
            Self::Release { reply: None, .. } => None,
            Self::Undo { reply, why } => {
                tracing::warn!(error = crate::error::chain(&error), "what a thing was to stand on stays");
                answer(reply, Err(*why))
            }
        }
    }
}

/// One who gave up does not want the answer.
fn answer<T>(reply: oneshot::Sender<Result<T, ResourceError>>, result: Result<T, ResourceError>) -> GivenBack {
    let _ = reply.send(result);
    None
}
