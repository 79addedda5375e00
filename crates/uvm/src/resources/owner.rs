//! Whose a handle's count is while it is given back. What becomes of that is told here by the driver, so that it counts
//! whether the caller who began it still waits or not.

use std::sync::Arc;

use tokio::sync::watch;

use super::ResourceError;

/// A handle's end.
pub(crate) struct Owner(Arc<watch::Sender<Whose>>);

enum Whose {
    /// The handle's.
    Handles,
    /// The handle's again: it could not be given back.
    HandlesAgain(ResourceError),
    /// The driver is to give it back.
    Drivers,
    /// The same, and the handle is gone.
    DriversAlone,
    /// Nobody's: it is given back. One caller at least is told so.
    Gone { is_told: bool },
    /// Another's: the handle has given it away, or somebody took it by its key.
    Others,
    /// It ended with the VM.
    Ended,
}

impl Owner {
    /// The handle has a count.
    pub(crate) fn handle() -> Self {
        Self(Arc::new(watch::Sender::new(Whose::Handles)))
    }

    /// Begins to give it back: what the driver answers to. `None`: that has begun before, and goes on.
    pub(super) fn begin(&self) -> Result<Option<Releasing>, ResourceError> {
        let mut begun = Ok(None);
        self.0.send_if_modified(|whose| {
            match whose {
                Whose::Handles | Whose::HandlesAgain(_) => {
                    begun = Ok(Some(Releasing(Some(Arc::clone(&self.0)))));
                    *whose = Whose::Drivers;
                    return true;
                }
                Whose::Gone { is_told: true } | Whose::Others => begun = Err(ResourceError::NotAttached),
                Whose::Drivers | Whose::DriversAlone | Whose::Gone { is_told: false } | Whose::Ended => {}
            }
            false
        });
        begun
    }

    /// What became of what was begun; `None`: the VM ended. Cancel-safe: the next to ask is told.
    pub(super) async fn outcome(&self) -> Option<Result<(), ResourceError>> {
        let mut seen = self.0.subscribe();
        let is_decided = |whose: &Whose| !matches!(whose, Whose::Handles | Whose::Drivers | Whose::DriversAlone);
        let outcome = match &*seen.wait_for(is_decided).await.ok()? {
            Whose::Gone { .. } => Ok(()),
            Whose::HandlesAgain(why) => Err(why.clone()),
            Whose::Ended => return None,
            _ => Err(ResourceError::NotAttached),
        };
        self.0.send_if_modified(|whose| {
            if let Whose::Gone { is_told } = whose {
                *is_told = true;
            }
            false
        });
        Some(outcome)
    }

    /// Whether the handle has it, and nobody is to give it back.
    pub(super) fn is_handles(&self) -> bool {
        matches!(*self.0.borrow(), Whose::Handles | Whose::HandlesAgain(_))
    }

    /// The handle goes, or gives it away. Whether it was still the handle's.
    pub(super) fn leave(&self) -> bool {
        let mut was_handles = false;
        self.0.send_if_modified(|whose| {
            match whose {
                Whose::Handles | Whose::HandlesAgain(_) => (was_handles, *whose) = (true, Whose::Others),
                Whose::Drivers => *whose = Whose::DriversAlone,
                Whose::DriversAlone | Whose::Gone { .. } | Whose::Others | Whose::Ended => {}
            }
            false
        });
        was_handles
    }
}

/// The driver's end. Dropped without an answer, the VM has ended.
pub(crate) struct Releasing(Option<Arc<watch::Sender<Whose>>>);

impl Releasing {
    /// It is given back.
    pub(super) fn done(mut self) {
        self.answer(Whose::Gone { is_told: false });
    }

    /// It could not be given back, unless somebody took it by its key. Whether there is still a handle, which has it then.
    pub(super) fn failed(mut self, why: ResourceError) -> bool {
        self.answer(match why {
            ResourceError::NotAttached => Whose::Others,
            why => Whose::HandlesAgain(why),
        })
    }

    fn answer(&mut self, answer: Whose) -> bool {
        // Whoever begins anew after this has an end of his own.
        let Some(owner) = self.0.take() else { return false };
        owner.send_if_modified(|whose| {
            let has_handle = matches!(whose, Whose::Drivers);
            if has_handle {
                *whose = answer;
            }
            has_handle
        })
    }
}

impl Drop for Releasing {
    fn drop(&mut self) {
        self.answer(Whose::Ended);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(owner: &Owner) -> Releasing {
        owner.begin().expect("it has it").expect("it begins")
    }

    async fn told(owner: &Owner) -> Option<Result<(), String>> {
        owner.outcome().await.map(|outcome| outcome.map_err(|error| error.to_string()))
    }

    #[tokio::test]
    async fn what_went_on_without_its_caller_is_told_to_the_next_and_once() {
        let owner = Owner::handle();
        let releasing = begun(&owner);
        assert!(matches!(owner.begin(), Ok(None)), "it goes on");
        releasing.done();
        assert!(matches!(owner.begin(), Ok(None)), "nobody was told");
        assert_eq!(told(&owner).await, Some(Ok(())));
        assert!(matches!(owner.begin(), Err(ResourceError::NotAttached)));
        assert!(!owner.leave(), "there is nothing to give back");
    }

    #[tokio::test]
    async fn what_failed_without_its_caller_is_the_handles_again() {
        let owner = Owner::handle();
        assert!(begun(&owner).failed(ResourceError::NoPciPorts));
        assert!(owner.is_handles());
        assert_eq!(told(&owner).await, Some(Err(ResourceError::NoPciPorts.to_string())));
        assert!(begun(&owner).failed(ResourceError::NoPciPorts), "it can be tried again");
        assert!(owner.leave(), "and is given back with the handle");
    }

    #[tokio::test]
    async fn what_fails_after_its_handle_is_nobodys() {
        let owner = Owner::handle();
        let releasing = begun(&owner);
        assert!(!owner.leave(), "the driver sees to it");
        assert!(!releasing.failed(ResourceError::NoPciPorts));
    }

    #[tokio::test]
    async fn what_nobody_answers_ended_with_the_vm() {
        let owner = Owner::handle();
        drop(begun(&owner));
        assert_eq!(told(&owner).await, None);
        assert!(matches!(owner.begin(), Ok(None)), "as often as one asks");
        assert_eq!(told(&owner).await, None);
    }
}
