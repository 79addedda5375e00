//! A caller's count of a thing that is plugged in.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{mpsc, oneshot};
use uvm_platform::UvmId;

use super::{Attached, Count, Plan, ResourceError, Waiter, Wanted};
use crate::error::UvmError;
use crate::vm::{Refusal, Request, plugged};

/// One count of a thing. It does not keep the VM. Dropping it gives the count back in the background.
pub(crate) struct Held {
    pub(crate) vm: UvmId,
    pub(crate) count: Count,
    /// What the thing stands on, to be given back after it.
    pub(crate) under: Option<Count>,
    /// What it is, for errors.
    pub(crate) what: String,
    pub(crate) plan: Arc<Plan>,
    pub(crate) requests: mpsc::WeakUnboundedSender<Request>,
    pub(crate) is_released: AtomicBool,
}

impl Held {
    /// It stays without its holder, until somebody releases it by its key.
    pub(crate) fn keep(self) {
        self.is_released.store(true, Ordering::Release);
    }

    /// Gives the count back, and waits for what that takes: the last one unplugs the thing.
    pub(crate) async fn release(&self) -> Result<(), UvmError> {
        let intent = "release";
        let fail = |source| UvmError::Resource {
            id: self.vm.clone(),
            intent,
            what: self.what.clone(),
            source: Box::new(source),
        };
        if self.is_released.swap(true, Ordering::AcqRel) {
            return Err(fail(ResourceError::NotAttached));
        }
        let closed = || UvmError::Refused { id: self.vm.clone(), intent: "release something of", why: Refusal::Closed };
        let requests = self.requests.upgrade().ok_or_else(closed)?;
        let (reply, answer) = oneshot::channel();
        let waiter = Waiter::Release { reply: Some(reply), under: self.under.clone() };
        let request = Request::Plugged(plugged::Request::Release { count: self.count.clone(), waiter: Some(waiter) });
        requests.send(request).map_err(|_| closed())?;
        let released = answer.await.map_err(|_| closed())?;
        released.map_err(|error| {
            // It is still this caller's, to be released again. One that is not there is nobody's.
            if !matches!(error, ResourceError::NotAttached) {
                self.is_released.store(false, Ordering::Release);
            }
            fail(error)
        })
    }

    /// Has the thing changed to what is wanted, for all who have it. Cancel-safe: it goes on.
    pub(crate) async fn change(&self, intent: &'static str, wanted: Wanted) -> Result<(), UvmError> {
        let fail = |source| UvmError::Resource {
            id: self.vm.clone(),
            intent,
            what: self.what.clone(),
            source: Box::new(source),
        };
        if self.is_released.load(Ordering::Acquire) {
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
        self.is_released.store(true, Ordering::Release);
        self.count.clone()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.is_released.load(Ordering::Acquire) {
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
        let request = plugged::Request::Release { count, waiter: Waiter::nobody(under) };
        let _ = requests.send(Request::Plugged(request));
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}
