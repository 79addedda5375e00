//! Who waits for the state machine, and what follows once it is told.

use tokio::sync::oneshot;

use super::owner::Releasing;
use super::{Attached, EntryId, Key, ResourceError};

/// One count of a part of a thing, to be given back.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Count {
    pub(crate) id: EntryId,
    pub(crate) part: Key,
}

/// Who waits. Some things stand on another, as a directory in a guest on the share it comes from: `under` is a count of that,
/// which goes with the thing and after it.
pub(crate) enum Waiter {
    /// For a thing.
    Attach { reply: oneshot::Sender<Result<Attached, ResourceError>>, under: Option<Count> },
    /// For this count to be gone.
    Release { count: Count, reply: Reply, under: Option<Count> },
    /// For a thing that could not be had, until `under`, which it was to stand on, is given back.
    Undo { under: Count, reply: oneshot::Sender<Result<Attached, ResourceError>>, why: Box<ResourceError> },
}

/// Who wants to know of the end of a count.
pub(crate) enum Reply {
    /// The handle whose count it is.
    Handle(Releasing),
    /// One who named the thing. It is another's count, or nobody's.
    Caller { reply: oneshot::Sender<Result<(), ResourceError>>, is_nobodys: bool },
    /// Nobody, and nobody's it is.
    Nobody,
}

/// What follows from what a waiter was told.
pub(crate) enum Follows {
    Nothing,
    /// This count is given back, and who waits for that.
    GiveBack(Count, Waiter),
    /// This count could not be given back, and is nobody's.
    Nobodys {
        count: Count,
        under: Option<Count>,
        why: Box<ResourceError>,
    },
}

impl Waiter {
    /// For a thing that stands on nothing.
    pub(crate) fn attach(reply: oneshot::Sender<Result<Attached, ResourceError>>) -> Self {
        Self::Attach { reply, under: None }
    }

    /// For the end of a count that is nobody's any more.
    pub(crate) fn nobody(count: Count, under: Option<Count>) -> Self {
        Self::Release { count, reply: Reply::Nobody, under }
    }

    /// What it is to give back was nobody's, and stood on this. If that fails, it is nobody's again, or the handle's that tried.
    pub(super) fn takes_nobodys(&mut self, stood_on: Option<Count>) {
        if let Self::Release { reply, under, .. } = self {
            if let Reply::Caller { is_nobodys, .. } = reply {
                *is_nobodys = true;
            }
            *under = under.take().or(stood_on);
        }
    }

    /// It gets the thing. One who gave up has a count all the same, which is given back.
    pub(crate) fn grant(self, attached: Attached) -> Follows {
        let Self::Attach { reply, under } = self else {
            // Who waits for the end of one gets no other.
            return self.fail(ResourceError::NotAttached);
        };
        let count = attached.count.clone();
        match reply.send(Ok(attached)) {
            Ok(()) => Follows::Nothing,
            Err(_) => Follows::GiveBack(count.clone(), Self::nobody(count, under)),
        }
    }

    /// Its count is gone.
    pub(crate) fn released(self) -> Follows {
        match self {
            Self::Release { reply, under: Some(under), .. } => Self::go_on(under, reply),
            Self::Release { reply, under: None, .. } => {
                match reply {
                    Reply::Handle(releasing) => releasing.done(),
                    Reply::Caller { reply, .. } => answer(reply, Ok(())),
                    Reply::Nobody => {}
                }
                Follows::Nothing
            }
            Self::Undo { reply, why, .. } => {
                answer(reply, Err(*why));
                Follows::Nothing
            }
            Self::Attach { .. } => self.fail(ResourceError::NotAttached),
        }
    }

    /// It gets nothing, or its count stays.
    pub(crate) fn fail(self, error: ResourceError) -> Follows {
        match self {
            Self::Attach { reply, under: Some(under) } => {
                Follows::GiveBack(under.clone(), Self::Undo { under, reply, why: Box::new(error) })
            }
            Self::Attach { reply, under: None } => {
                answer(reply, Err(error));
                Follows::Nothing
            }
            // The thing went before, and what it stood on did not.
            Self::Release { reply, under: Some(under), .. } if matches!(error, ResourceError::NotAttached) => {
                Self::go_on(under, reply)
            }
            Self::Release { count, reply, under } => {
                let why = Box::new(error.clone());
                let is_nobodys = match reply {
                    Reply::Handle(releasing) => !releasing.failed(error),
                    Reply::Caller { reply, is_nobodys } => {
                        answer(reply, Err(error));
                        is_nobodys
                    }
                    Reply::Nobody => true,
                };
                // One that was taken by its key, and one of the VM's own, is left to nobody.
                if is_nobodys && !matches!(*why, ResourceError::NotAttached | ResourceError::Pinned { .. }) {
                    Follows::Nobodys { count, under, why }
                } else {
                    Follows::Nothing
                }
            }
            Self::Undo { under, reply, why } => {
                answer(reply, Err(*why));
                match error {
                    ResourceError::NotAttached => Follows::Nothing,
                    error => Follows::Nobodys { count: under, under: None, why: Box::new(error) },
                }
            }
        }
    }

    /// The thing is gone: next goes what it stood on.
    fn go_on(under: Count, reply: Reply) -> Follows {
        Follows::GiveBack(under.clone(), Self::Release { count: under, reply, under: None })
    }
}

/// One who gave up does not want the answer.
fn answer<T>(reply: oneshot::Sender<Result<T, ResourceError>>, result: Result<T, ResourceError>) {
    let _ = reply.send(result);
}
