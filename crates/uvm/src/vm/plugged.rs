//! What is plugged into a VM, in the hands of its driver: requests become effects of the state machine, effects become
//! operations, and these report.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::oneshot;
use uvm_platform::PlatformVm;

use super::driver::{self, Driver};
use super::state::{Ask, Refusal, Verdict, admit};
use super::{Inner, UtilityVm};
use crate::error::UvmError;
use crate::options::GuestConnection;
use crate::resources::{
    AttachFailed, Attached, Connection, DetachFailed, Effect, Effects, Ends, EntryId, Held, Key, Limits, Plan,
    ResourceError, Table, Waiter, Wanted,
};

/// What handles ask.
pub(crate) enum Request {
    Attach { wanted: Wanted, waiter: Waiter },
    Find { key: Key, waiter: Waiter },
    Release { id: EntryId, waiter: Option<Waiter> },
    ReleaseKey { key: Key, waiter: Waiter },
    ReleaseLayers { root: String, waiter: Waiter },
    Adapters { namespace: String, reply: oneshot::Sender<Result<Option<Vec<Key>>, ResourceError>> },
}

/// What operations report.
pub(super) enum Report {
    Attached(EntryId, Result<(), AttachFailed>),
    Changed(EntryId, Result<(), ResourceError>),
    Detached(EntryId, Result<(), DetachFailed>),
}

/// The driver's part.
pub(crate) struct Plugged {
    table: Table,
    connection: GuestConnection,
}

impl Plugged {
    pub(crate) fn new(vm: &Arc<dyn PlatformVm>, limits: Limits, connection: GuestConnection) -> Self {
        Self { table: Table::new(Arc::clone(vm), limits), connection }
    }
}

impl Driver {
    pub(super) fn asked_plugged(&mut self, request: Request) {
        // Who asks has looked at the phase; one that has changed since drops the answer's other end, which says so.
        if matches!(admit(self.phase(), ask_of(&*self.vm)), Verdict::Refuse(_)) {
            return;
        }
        let table = &mut self.plugged.table;
        let effects = match request {
            Request::Attach { wanted, waiter } => table.ask(wanted, waiter),
            Request::Release { id, waiter } => table.release(id, waiter),
            Request::ReleaseKey { key, waiter } => table.release_key(&key, waiter),
            Request::ReleaseLayers { root, waiter } => table.release_layers(&root, waiter),
            Request::Adapters { namespace, reply } => {
                // A caller that gave up does not want the answer.
                let _ = reply.send(Ok(table.adapters(&namespace)));
                return;
            }
            Request::Find { key, waiter } => {
                match (table.attached_plan(&key), waiter) {
                    (Some(attached), Waiter::Attach(reply)) => drop(reply.send(Ok(attached))),
                    (_, waiter) => waiter.fail(ResourceError::NotAttached),
                }
                return;
            }
        };
        self.carry_out(effects);
    }

    pub(super) fn reported_plugged(&mut self, report: Report) {
        let table = &mut self.plugged.table;
        let effects = match report {
            Report::Attached(id, result) => table.attached(id, result),
            Report::Changed(id, result) => table.changed(id, result),
            Report::Detached(id, result) => table.detached(id, result),
        };
        self.carry_out(effects);
    }

    /// The VM has ended, and everything in it. Who waits is told by the end of the waiting.
    pub(super) fn forget_plugged(&mut self) {
        drop(self.plugged.table.clear());
    }

    fn carry_out(&mut self, effects: Effects) {
        let mut effects = VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            let table = &mut self.plugged.table;
            match effect {
                Effect::Attach(id, plan) => {
                    let ends = self.ends();
                    self.operate(async move { Report::Attached(id, ends.attach(&plan).await) });
                }
                Effect::Change(id, step) => {
                    let ends = self.ends();
                    self.operate(async move { Report::Changed(id, ends.change_to(&step).await) });
                }
                Effect::Detach(id, plan, progress) => {
                    let ends = self.ends();
                    self.operate(async move { Report::Detached(id, ends.detach(&plan, progress).await) });
                }
                Effect::Grant(id, Waiter::Attach(reply)) => {
                    let is_taken = table.attached_by_id(id).is_some_and(|attached| reply.send(Ok(attached)).is_ok());
                    if !is_taken {
                        // One who gave up has a count, which nobody else would give back.
                        effects.extend(table.release(id, None));
                    }
                }
                Effect::Fail(waiter, error) => waiter.fail(*error),
                Effect::Released(Waiter::Release(reply)) => drop(reply.send(Ok(()))),
                // Who waits for one gets no other.
                Effect::Grant(_, waiter @ Waiter::Release(_)) | Effect::Released(waiter @ Waiter::Attach(_)) => {
                    waiter.fail(ResourceError::NotAttached);
                }
                Effect::Retry(wanted, waiter) => effects.extend(table.ask(wanted, waiter)),
                Effect::Freed(id) => table.freed(id),
            }
        }
    }

    fn ends(&self) -> Ends {
        let guest = self.status.borrow().guest.clone();
        let connection = match (guest, self.plugged.connection) {
            (Some(guest), _) => Connection::Library(guest),
            (None, GuestConnection::HostService) => Connection::HostService,
            // Before the start, or if nobody holds one.
            (None, _) if self.vm.passes_on() => Connection::HostService,
            (None, _) => Connection::None,
        };
        Ends { vm: Arc::clone(&self.vm), connection, deadlines: self.deadlines }
    }

    fn operate(&self, operation: impl Future<Output = Report> + Send + 'static) {
        let reports = self.reports.clone();
        self.vm.spawn(Box::pin(async move {
            // The driver lives as long as this task's runtime.
            let _ = reports.send(driver::Report::Plugged(operation.await));
        }));
    }
}

impl UtilityVm {
    /// Attaches `what`, or shares it.
    pub(crate) async fn attach(&self, what: String, wanted: Wanted) -> Result<Held, UvmError> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Attach { wanted, waiter: Waiter::Attach(reply) };
        let Attached { id, plan } = self.inner.ask_for("add", &what, request, answer).await?;
        let (vm, requests) = (self.inner.id.clone(), self.inner.requests.downgrade());
        Ok(Held { vm, id, what, plan, requests, is_released: AtomicBool::new(false) })
    }

    /// Gives one count back of the thing with this key.
    pub(crate) async fn detach(&self, what: String, key: Key) -> Result<(), UvmError> {
        let (reply, answer) = oneshot::channel();
        let request = Request::ReleaseKey { key, waiter: Waiter::Release(reply) };
        self.inner.ask_for("remove", &what, request, answer).await
    }

    /// Takes apart what was combined at `root` last.
    pub(crate) async fn detach_layers(&self, what: String, root: &str) -> Result<(), UvmError> {
        let (reply, answer) = oneshot::channel();
        let request = Request::ReleaseLayers { root: root.to_owned(), waiter: Waiter::Release(reply) };
        self.inner.ask_for("remove", &what, request, answer).await
    }

    /// How the thing with this key is attached.
    pub(crate) async fn find(&self, what: String, key: Key) -> Result<Arc<Plan>, UvmError> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Find { key, waiter: Waiter::Attach(reply) };
        let found = self.inner.ask_for("find", &what, request, answer).await?;
        Ok(found.plan)
    }

    /// The adapters in a network namespace; `None`: it is not there.
    pub(crate) async fn adapters(&self, namespace: &str) -> Result<Option<Vec<Key>>, UvmError> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Adapters { namespace: namespace.to_owned(), reply };
        self.inner.ask_for("find", &format!("network namespace {namespace}"), request, answer).await
    }

    /// What the host compares paths by.
    pub(crate) fn path_key(&self, path: &Path) -> String {
        self.inner.vm.path_key(path)
    }
}

impl Inner {
    /// Why `what` could not be plugged in, unplugged or found.
    pub(crate) fn resource_error(&self, intent: &'static str, what: &str, source: ResourceError) -> UvmError {
        let (id, what) = (self.id.clone(), what.to_owned());
        UvmError::Resource { id, intent, what, source: Box::new(source) }
    }

    async fn ask_for<T>(
        &self,
        intent: &'static str,
        what: &str,
        request: Request,
        answer: oneshot::Receiver<Result<T, ResourceError>>,
    ) -> Result<T, UvmError> {
        self.admit(CHANGE, ask_of(&*self.vm))?;
        // A driver that is gone has dropped the answer's other end.
        let _ = self.requests.send(driver::Request::Plugged(request));
        if let Ok(result) = answer.await {
            return result.map_err(|source| self.resource_error(intent, what, source));
        }
        // Something has become of the VM meanwhile.
        self.admit(CHANGE, ask_of(&*self.vm))?;
        Err(UvmError::Refused { id: self.id.clone(), intent: CHANGE, why: Refusal::Closed })
    }
}

/// Where the host passes the guest's half on, things can be plugged in before the start.
fn ask_of(vm: &dyn PlatformVm) -> Ask {
    if vm.passes_on() { Ask::Plug } else { Ask::Use }
}

const CHANGE: &str = "change what is plugged into";
