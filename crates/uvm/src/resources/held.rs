//! A caller's count of a thing that is plugged in.

use std::fmt;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use uvm_platform::UvmId;

use super::owner::Owner;
use super::waiter::Reply;
use super::{Attached, Count, Plan, ResourceError, Waiter, Wanted};
use crate::error::UvmError;
use crate::vm::{Refusal, Request, plugged};

/// One count of a thing. It does not keep the VM. Dropping it gives the count back in the background: what cannot be given back
/// so is tried again when something is plugged in the next time.
pub(crate) struct Held {
    pub(crate) vm: UvmId,
    pub(crate) count: Count,
    /// What the thing stands on, to be given back after it.
    pub(crate) under: Option<Count>,
    /// What it is, for errors.
    pub(crate) what: String,
    pub(crate) plan: Arc<Plan>,
    pub(crate) requests: mpsc::WeakUnboundedSender<Request>,
    pub(crate) owner: Owner,
}

impl Held {
    /// It stays without its holder, until somebody releases it by its key.
    pub(crate) fn keep(self) {
        self.owner.leave();
    }

    /// Gives the count back, and waits for what that takes: the last one unplugs the thing.
    ///
    /// Cancel-safe: it goes on, and calling this again waits for it, or tells what became of it: one that failed meanwhile is
    /// begun again.
    pub(crate) async fn release(&self) -> Result<(), UvmError> {
        let fail = |source| self.error("release", source);
        if let Some(releasing) = self.owner.begin().map_err(fail)?
            && let Some(requests) = self.requests.upgrade()
        {
            let (count, under) = (self.count.clone(), self.under.clone());
            let waiter = Waiter::Release { count: count.clone(), reply: Reply::Handle(releasing), under };
            // A driver that is gone drops it, which tells the end.
            let _ = requests.send(Request::Plugged(plugged::Request::Release { count, waiter }));
        }
        let closed = || UvmError::Refused { id: self.vm.clone(), intent: "release something of", why: Refusal::Closed };
        self.owner.outcome().await.ok_or_else(closed)?.map_err(fail)
    }

    /// Has the thing changed to what is wanted, for all who have it. Cancel-safe: it goes on.
    pub(crate) async fn change(&self, intent: &'static str, wanted: Wanted) -> Result<(), UvmError> {
        let fail = |source| self.error(intent, source);
        if !self.owner.is_handles() {
            return Err(fail(ResourceError::NotAttached));
        }
        let closed = || UvmError::Refused { id: self.vm.clone(), intent: "change something of", why: Refusal::Closed };
        let requests = self.requests.upgrade().ok_or_else(closed)?;
        let (reply, answer) = oneshot::channel();
        let request = plugged::Request::Attach { wanted, waiter: Waiter::attach(reply) };
        let mut granted = Granted { answer, under: None, requests: self.requests.clone() };
        requests.send(Request::Plugged(request)).map_err(|_| closed())?;
        let Attached { count, .. } = (&mut granted.answer).await.map_err(|_| closed())?.map_err(fail)?;
        // Who asks for a change has one count more when it is made.
        give_back(&self.requests, count, None);
        Ok(())
    }

    /// The count, which is now another's to give back.
    pub(crate) fn into_count(self) -> Count {
        self.owner.leave();
        self.count.clone()
    }

    fn error(&self, intent: &'static str, source: ResourceError) -> UvmError {
        UvmError::Resource { id: self.vm.clone(), intent, what: self.what.clone(), source: Box::new(source) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.owner.leave() {
            give_back(&self.requests, self.count.clone(), self.under.take());
        }
    }
}

/// What one who asked for a thing waits for. One who gives up once it is granted, and before it is looked at, has a count all
/// the same, which is given back.
pub(crate) struct Granted {
    pub(crate) answer: oneshot::Receiver<Result<Attached, ResourceError>>,
    pub(crate) under: Option<Count>,
    pub(crate) requests: mpsc::WeakUnboundedSender<Request>,
}

impl Drop for Granted {
    fn drop(&mut self) {
        // From here on, the driver learns that nobody waits.
        self.answer.close();
        if let Ok(Ok(Attached { count, .. })) = self.answer.try_recv() {
            give_back(&self.requests, count, self.under.take());
        }
    }
}

/// Gives a count back in the background, and after it that of what the thing stands on.
fn give_back(requests: &mpsc::WeakUnboundedSender<Request>, count: Count, under: Option<Count>) {
    // A VM that is gone has nothing to give back.
    if let Some(requests) = requests.upgrade() {
        let waiter = Waiter::nobody(count.clone(), under);
        let _ = requests.send(Request::Plugged(plugged::Request::Release { count, waiter }));
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}
