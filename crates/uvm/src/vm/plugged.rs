//! What is plugged into a VM, in the hands of its driver: requests become effects of the state machine, effects become
//! operations, and these report.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::oneshot::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use uvm_platform::requests::{Device, HostFile};
use uvm_platform::{PlatformError, PlatformVm};

use super::driver::{self, Driver};
use super::host_call::on_host;
use super::state::{Ask, Refusal, Verdict, admit};
use super::{Inner, UtilityVm};
use crate::error::UvmError;
use crate::options::GuestConnection;
use crate::resources::{
    AttachFailed, Attached, Connection, Count, DetachFailed, Effect, Effects, Ends, EntryId, Granted, Held, Key,
    Limits, Owner, Plan, ResourceError, Table, Told, Waiter, Wanted,
};

/// What handles ask.
pub(crate) enum Request {
    Attach { wanted: Wanted, waiter: Waiter },
    Find { key: Key, waiter: Waiter },
    Release { count: Count, waiter: Waiter },
    ReleaseKey { key: Key, reply: Told },
    ReleaseLayers { root: String, reply: Told },
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
    /// Counts that were given back while the VM was starting.
    later: Vec<Request>,
    /// Who may add or remove a layer: a guest takes such devices one after the other, and whoever waits there for its own
    /// has a limit that counts from then on.
    layer_turns: Arc<Semaphore>,
}

/// Layers that are added or removed at a time: enough to keep guest and host busy, and few enough that none waits for long.
const LAYERS_AT_A_TIME: usize = 8;

impl Plugged {
    pub(crate) fn new(vm: &Arc<dyn PlatformVm>, limits: Limits, connection: GuestConnection) -> Self {
        let layer_turns = Arc::new(Semaphore::new(LAYERS_AT_A_TIME));
        Self { table: Table::new(Arc::clone(vm), limits), connection, later: Vec::new(), layer_turns }
    }
}

impl Driver {
    pub(super) fn asked_plugged(&mut self, request: Request) {
        // Who asks has looked at the phase; one that has changed since drops the answer's other end, which says so.
        match admit(self.phase(), ask_of(&*self.vm)) {
            // A handle gives its count back but once.
            Verdict::Refuse(Refusal::Starting) if matches!(request, Request::Release { .. }) => {
                return self.plugged.later.push(request);
            }
            Verdict::Refuse(_) => return,
            _ => {}
        }
        let table = &mut self.plugged.table;
        let effects = match request {
            Request::Attach { wanted, waiter } => table.ask(wanted, waiter),
            Request::Release { count, waiter } => table.release(count, waiter),
            Request::ReleaseKey { key, reply } => table.release_key(key, reply),
            Request::ReleaseLayers { root, reply } => table.release_layers(&root, reply),
            Request::Adapters { namespace, reply } => {
                // A caller that gave up does not want the answer.
                let _ = reply.send(Ok(table.adapters(&namespace)));
                return;
            }
            Request::Find { key, waiter } => {
                // One who only looks has no count, and gives none back.
                let _ = match table.attached_as(key) {
                    Some(attached) => waiter.grant(attached),
                    None => waiter.fail(ResourceError::NotAttached),
                };
                return;
            }
        };
        self.carry_out(effects);
    }

    /// The VM has started.
    pub(super) fn go_on_plugged(&mut self) {
        for request in std::mem::take(&mut self.plugged.later) {
            self.asked_plugged(request);
        }
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
        self.plugged.later.clear();
        drop(self.plugged.table.clear());
    }

    fn carry_out(&mut self, effects: Effects) {
        let mut effects = VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            let table = &mut self.plugged.table;
            match effect {
                Effect::Attach(id, plan) => {
                    let (ends, turn) = (self.ends(), self.turn_of(&plan));
                    self.operate(async move {
                        let _turn = turn.await;
                        Report::Attached(id, ends.attach(&plan).await)
                    });
                }
                Effect::Change(id, step) => {
                    let ends = self.ends();
                    self.operate(async move { Report::Changed(id, ends.change_to(&step).await) });
                }
                Effect::Detach(id, plan, progress) => {
                    let (ends, turn) = (self.ends(), self.turn_of(&plan));
                    self.operate(async move {
                        let _turn = turn.await;
                        Report::Detached(id, ends.detach(&plan, progress).await)
                    });
                }
                Effect::Grant(id, part, waiter) => effects.extend(table.grant(Count { id, part }, waiter)),
                Effect::Fail(waiter, error) => effects.extend(table.follow(waiter.fail(*error))),
                Effect::Released(waiter) => effects.extend(table.follow(waiter.released())),
                Effect::Retry(kept) => effects.extend(table.retry(kept)),
                Effect::Freed(id) => table.freed(id),
            }
        }
    }

    /// Waits for the turn of an operation; most need none.
    fn turn_of(&self, plan: &Plan) -> impl Future<Output = Option<OwnedSemaphorePermit>> + use<> {
        let is_layer = matches!(plan.device, Some(Device::Vpmem(_)));
        let turns = is_layer.then(|| Arc::clone(&self.plugged.layer_turns));
        // Nobody closes it.
        async move { turns?.acquire_owned().await.ok() }
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
        self.attach_on(what, wanted, None).await
    }

    /// Attaches `what`, or shares it. It stands on `under`, which goes with it, or now if it cannot be had.
    pub(crate) async fn attach_on(&self, what: String, wanted: Wanted, under: Option<Held>) -> Result<Held, UvmError> {
        let under = under.map(Held::into_count);
        let (reply, answer) = oneshot::channel();
        let request = Request::Attach { wanted, waiter: Waiter::Attach { reply, under: under.clone() } };
        let (vm, requests) = (self.inner.id.clone(), self.inner.requests.downgrade());
        let mut granted = Granted { answer, under: under.clone(), requests: requests.clone() };
        let Attached { count, plan } = self.inner.ask_for("add", &what, request, &mut granted.answer).await?;
        Ok(Held { vm, count, under, what, plan, requests, owner: Owner::handle() })
    }

    /// Gives one count back of the thing with this key.
    pub(crate) async fn detach(&self, what: String, key: Key) -> Result<(), UvmError> {
        let (reply, answer) = oneshot::channel();
        let request = Request::ReleaseKey { key, reply };
        self.inner.ask_for("remove", &what, request, answer).await
    }

    /// Takes apart what was combined at `root` last.
    pub(crate) async fn detach_layers(&self, what: String, root: &str) -> Result<(), UvmError> {
        let (reply, answer) = oneshot::channel();
        let request = Request::ReleaseLayers { root: root.to_owned(), reply };
        self.inner.ask_for("remove", &what, request, answer).await
    }

    /// How the thing with this key is attached.
    pub(crate) async fn find(&self, what: String, key: Key) -> Result<Arc<Plan>, UvmError> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Find { key, waiter: Waiter::attach(reply) };
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
    /// What is at a path of the host.
    pub(crate) async fn look_at(&self, path: &Path) -> Result<HostFile, ResourceError> {
        let path = path.to_owned();
        self.look("look at a file for", move |vm| async move { vm.look_at(&path).await }).await
    }

    /// Looks at something of the host, within the limit for its calls.
    pub(crate) async fn look<T, F>(
        &self,
        intent: &'static str,
        look: impl FnOnce(Arc<dyn PlatformVm>) -> F,
    ) -> Result<T, ResourceError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, PlatformError>> + Send + 'static,
    {
        let (vm, limit) = (Arc::clone(&self.vm), self.deadlines.host_call);
        let look = look(Arc::clone(&vm));
        let looked = self.run_while_wanted(async move { on_host(&*vm, intent, limit, look).await }).await;
        let closed = PlatformError::WrongState { intent, state: "closed" };
        looked.unwrap_or(Err(closed)).map_err(ResourceError::Host)
    }

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
        answer: impl Future<Output = Result<Result<T, ResourceError>, RecvError>>,
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
