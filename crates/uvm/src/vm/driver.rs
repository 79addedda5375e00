//! The one task that owns a VM's state. It never waits for the host or the guest itself: it changes state, spawns the
//! operation, and gets its result as a message.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use uvm_platform::{Deadlines, ExitStatus, LastWords, PlatformError, PlatformVm, UvmId, VmEvent, VmEvents};

use uvm_wire::ContainerId;
use uvm_wire::system::ShutdownGraceful;

use super::plugged::{self, Plugged};
use super::sockets::Change;
use super::start::{Failed, Guest, Interruption, SETTLE, Start};
use super::state::{Ask, Phase, Refusal, Verdict, admit};
use crate::bridge::{BridgeClosed, BridgeError};
use crate::error::{StartPhase, UvmError, Witness};

/// What observers see.
#[derive(Clone)]
pub(crate) struct Status {
    pub(crate) phase: Phase,
    pub(crate) exit: Option<ExitStatus>,
    pub(crate) guest: Option<Guest>,
}

pub(crate) type Answer = oneshot::Sender<Result<(), UvmError>>;

/// What the VM's handles ask of the driver.
pub(crate) enum Request {
    /// About the VM as a whole.
    Life(Life),
    /// About what is plugged in.
    Plugged(plugged::Request),
}

pub(crate) enum Life {
    Start(Answer),
    Pause(Answer),
    Resume(Answer),
    Shutdown(Answer),
    Terminate(Answer),
    Close(Answer),
    Sockets(Change, Answer),
}

/// What operations report.
pub(super) enum Report {
    Started(Result<Option<Guest>, Box<FailedStart>>),
    /// The bridge is closed, and the VM has not ended with it.
    BridgeLost(Arc<BridgeClosed>),
    Closed(Result<(), PlatformError>),
    Plugged(plugged::Report),
}

/// A start that failed: where and why, the VM's last words before it was terminated, and whether it could be.
pub(super) struct FailedStart {
    failed: Failed,
    last_words: LastWords,
    is_terminated: bool,
}

pub(crate) struct Driver {
    id: UvmId,
    pub(super) vm: Arc<dyn PlatformVm>,
    pub(super) deadlines: Deadlines,
    pub(super) status: watch::Sender<Status>,
    output_done: watch::Receiver<bool>,
    /// What there is to start with, until it was.
    start: Option<Start>,
    interrupt: watch::Sender<Option<Interruption>>,
    starting: Option<Answer>,
    closing: Vec<Answer>,
    pub(super) reports: mpsc::UnboundedSender<Report>,
    pub(super) plugged: Plugged,
}

/// A driver's parts that others hold.
pub(crate) struct Handles {
    pub(crate) requests: mpsc::UnboundedSender<Request>,
    pub(crate) status: watch::Receiver<Status>,
}

impl Driver {
    /// Spawns the driver of a VM that was just created.
    pub(crate) fn spawn(start: Start, events: VmEvents, plugged: Plugged) -> Handles {
        let (requests, request_receiver) = mpsc::unbounded_channel();
        let (reports, report_receiver) = mpsc::unbounded_channel();
        let (status_sender, status) = watch::channel(Status { phase: Phase::Created, exit: None, guest: None });
        let vm = Arc::clone(&start.vm);
        let driver = Self {
            id: start.id.clone(),
            vm: Arc::clone(&vm),
            deadlines: start.deadlines,
            status: status_sender,
            output_done: start.output_done.subscribe(),
            start: Some(start),
            interrupt: watch::Sender::new(None),
            starting: None,
            closing: Vec::new(),
            reports,
            plugged,
        };
        vm.spawn(Box::pin(driver.run(request_receiver, report_receiver, events)));
        Handles { requests, status }
    }

    async fn run(
        mut self,
        mut requests: mpsc::UnboundedReceiver<Request>,
        mut reports: mpsc::UnboundedReceiver<Report>,
        mut events: VmEvents,
    ) {
        let mut events_go_on = true;
        loop {
            tokio::select! {
                biased;
                event = events.next(), if events_go_on => match event {
                    Some(event) => self.happened(event),
                    None => events_go_on = false,
                },
                // `self` holds a sender.
                Some(report) = reports.recv() => self.reported(report),
                request = requests.recv() => match request {
                    Some(request) => self.asked(request),
                    // No handle is left: dropping the host's VM ends it.
                    None => return,
                },
            }
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.status.borrow().phase
    }

    fn enter(&self, phase: Phase) {
        self.status.send_modify(|status| status.phase = phase);
    }

    fn asked(&mut self, request: Request) {
        let request = match request {
            Request::Life(request) => request,
            Request::Plugged(request) => return self.asked_plugged(request),
        };
        let (ask, intent) = match &request {
            Life::Start(_) => (Ask::Start, "start"),
            Life::Pause(_) => (Ask::Host, "pause"),
            Life::Resume(_) => (Ask::Host, "resume"),
            Life::Shutdown(_) => (Ask::Shutdown, "shut down"),
            Life::Terminate(_) => (Ask::Terminate, "terminate"),
            Life::Close(_) => (Ask::Close, "close"),
            Life::Sockets(change, _) => (Ask::Plug, change.intent()),
        };
        match admit(self.phase(), ask) {
            Verdict::Go => self.perform(request, intent),
            Verdict::Done => answer(request.into_answer(), Ok(())),
            Verdict::Join => self.closing.push(request.into_answer()),
            Verdict::Refuse(why) => answer(request.into_answer(), Err(self.refusal(intent, why))),
        }
    }

    fn refusal(&self, intent: &'static str, why: Refusal) -> UvmError {
        match (why, &self.status.borrow().exit) {
            (Refusal::Ended, Some(status)) => exited(&self.id, intent, status.clone(), &*self.vm),
            _ => UvmError::Refused { id: self.id.clone(), intent, why },
        }
    }

    fn perform(&mut self, request: Life, intent: &'static str) {
        let (vm, id, deadlines) = (Arc::clone(&self.vm), self.id.clone(), self.deadlines);
        let operation = move |source| UvmError::Operation { id, intent, source };
        match request {
            Life::Start(reply) => self.begin_start(reply),
            Life::Pause(reply) => self.vm.spawn(Box::pin(async move {
                let paused = on_host(&*vm, intent, deadlines.host_call, vm.pause()).await;
                answer(reply, paused.map_err(operation));
            })),
            Life::Resume(reply) => self.vm.spawn(Box::pin(async move {
                let resumed = on_host(&*vm, intent, deadlines.host_call, vm.resume()).await;
                answer(reply, resumed.map_err(operation));
            })),
            Life::Terminate(reply) => {
                self.interrupt(Interruption::Cancelled);
                self.vm.spawn(Box::pin(async move {
                    let terminated = on_host(&*vm, intent, deadlines.terminate, vm.terminate()).await;
                    answer(reply, terminated.map_err(operation));
                }));
            }
            Life::Sockets(change, reply) => self.vm.spawn(Box::pin(async move {
                let changed = on_host(&*vm, intent, Change::limit(&deadlines), change.make(&*vm)).await;
                answer(reply, changed.map_err(operation));
            })),
            Life::Shutdown(reply) => self.begin_shutdown(reply),
            Life::Close(reply) => self.begin_close(reply),
        }
    }

    /// Gives up a start under way. The first reason counts.
    fn interrupt(&self, why: Interruption) {
        self.interrupt.send_if_modified(|current| {
            let first = current.is_none();
            current.get_or_insert(why);
            first
        });
    }

    fn begin_start(&mut self, reply: Answer) {
        // The table lets one start through.
        let Some(start) = self.start.take() else {
            return answer(reply, Err(self.refusal("start", Refusal::AlreadyStarted)));
        };
        tracing::info!(vm = %self.id, "utility VM starting");
        self.enter(Phase::Starting);
        self.starting = Some(reply);
        let (reports, interrupted, vm) = (self.reports.clone(), self.interrupt.subscribe(), Arc::clone(&self.vm));
        let status = self.status.subscribe();
        let limit = self.deadlines.terminate;
        self.vm.spawn(Box::pin(async move {
            let outcome = match start.run(interrupted, status).await {
                Ok(guest) => Ok(guest),
                Err(failed) => {
                    // Before they are those of a VM that was terminated.
                    let last_words = vm.last_words();
                    // A VM that did not start is of no use. This has a limit of its own: that of the start may have passed.
                    let terminated = on_host(&*vm, "terminate", limit, vm.terminate()).await;
                    Err(Box::new(FailedStart { failed, last_words, is_terminated: terminated.is_ok() }))
                }
            };
            // The driver lives as long as this task's runtime.
            let _ = reports.send(Report::Started(outcome));
        }));
    }

    fn begin_shutdown(&self, reply: Answer) {
        let status = self.status.borrow().clone();
        let Some(guest) = status.guest else {
            return answer(reply, Err(UvmError::GuestUnsupported { id: self.id.clone(), what: "shutdown" }));
        };
        let (mut exit, id, vm) = (self.status.subscribe(), self.id.clone(), Arc::clone(&self.vm));
        let waited = self.deadlines.shutdown;
        self.vm.spawn(Box::pin(async move {
            let refused = async {
                let ask = ShutdownGraceful::default();
                match guest.bridge.call(ContainerId::UVM, &ask, None).await {
                    Err(source @ (BridgeError::Failed(_) | BridgeError::Answer { .. })) => source,
                    // There is no answer to it but the end of the connection, and then of the VM.
                    _ => std::future::pending().await,
                }
            };
            let ended = exit.wait_for(|status| status.exit.is_some());
            let result = tokio::select! {
                _ = ended => Ok(()),
                source = refused => Err(Witness { id: &id, vm: &*vm }.guest("shut down", source)),
                () = tokio::time::sleep(waited) => {
                    let last_words = Box::new(vm.last_words());
                    Err(UvmError::Timeout { id, what: "shutdown", waited, last_words })
                }
            };
            answer(reply, result);
        }));
    }

    fn begin_close(&mut self, reply: Answer) {
        self.enter(Phase::Closing);
        self.closing.push(reply);
        // A start under way is given up; listeners of one that never began are closed with it.
        self.interrupt(Interruption::Cancelled);
        self.start = None;
        let guest = self.status.borrow().guest.clone();
        let (vm, reports, limit) = (Arc::clone(&self.vm), self.reports.clone(), self.deadlines.close);
        let mut output_done = self.output_done.clone();
        self.vm.spawn(Box::pin(async move {
            let ends = Instant::now() + limit;
            let hang_up = guest.clone();
            let ended = Box::new(move || hang_up.iter().for_each(|guest| guest.bridge.close()));
            let closed = tokio::time::timeout_at(ends, vm.close_after(ended)).await;
            let result = closed.unwrap_or_else(|_| Err(too_late(&*vm, "close", limit)));
            if let Some(guest) = guest {
                guest.bridge.close();
            }
            if result.is_ok() {
                // Its stream has ended with the VM. A handler that does not return is not waited for longer than this.
                let settles = ends.min(Instant::now() + OUTPUT_SETTLES);
                let _ = tokio::time::timeout_at(settles, output_done.wait_for(|done| *done)).await;
            }
            let _ = reports.send(Report::Closed(result));
        }));
    }

    fn reported(&mut self, report: Report) {
        match report {
            Report::Started(outcome) => self.started(outcome),
            Report::BridgeLost(why) => self.broken(&*why),
            Report::Plugged(report) => self.reported_plugged(report),
            Report::Closed(result) => {
                tracing::info!(vm = %self.id, failed = result.is_err(), "utility VM closed");
                let has_ended = self.status.borrow().exit.is_some();
                self.enter(match result {
                    Ok(()) => Phase::Closed,
                    // What could not be ended or removed can be tried again.
                    Err(_) if has_ended => Phase::Ended,
                    Err(_) => Phase::Broken,
                });
                for reply in self.closing.drain(..) {
                    let failed = |source| UvmError::Operation { id: self.id.clone(), intent: "close", source };
                    answer(reply, result.clone().map_err(failed));
                }
            }
        }
    }

    fn started(&mut self, outcome: Result<Option<Guest>, Box<FailedStart>>) {
        let Some(reply) = self.starting.take() else { return };
        let is_under_way = self.phase() == Phase::Starting;
        let interruption = self.interrupt.borrow().clone();
        let FailedStart { failed: (phase, source), last_words, is_terminated } = match (outcome, interruption) {
            (Ok(guest), None) => {
                tracing::info!(vm = %self.id, "utility VM started");
                if let Some(guest) = &guest {
                    self.watch(guest);
                }
                self.status.send_modify(|status| {
                    status.phase = Phase::Running;
                    status.guest = guest;
                });
                self.go_on_plugged();
                return answer(reply, Ok(()));
            }
            // Something else came first. That ends the VM, if it has not.
            (Ok(_), Some(why)) => FailedStart {
                failed: (StartPhase::Negotiation, why.into_error()),
                last_words: self.vm.last_words(),
                is_terminated: false,
            },
            (Err(failed), _) => *failed,
        };
        if is_under_way {
            let has_ended = is_terminated || self.status.borrow().exit.is_some();
            self.enter(if has_ended { Phase::Ended } else { Phase::Broken });
        }
        let (id, source) = (self.id.clone(), Box::new(source));
        answer(reply, Err(UvmError::Start { id, phase, last_words: Box::new(last_words), source }));
    }

    /// A guest that cannot be called any more is of no use, unless it is the VM that ends: that is worth a moment.
    fn watch(&self, guest: &Guest) {
        let (closed, mut status, reports) = (guest.bridge.closed(), self.status.subscribe(), self.reports.clone());
        self.vm.spawn(Box::pin(async move {
            let why = closed.await;
            let ended = status.wait_for(|status| status.exit.is_some());
            if tokio::time::timeout(SETTLE, ended).await.is_err() {
                // Without a driver there is no handle of the VM.
                let _ = reports.send(Report::BridgeLost(why));
            }
        }));
    }

    fn broken(&self, why: &dyn std::fmt::Display) {
        if self.phase() == Phase::Running {
            tracing::warn!(vm = %self.id, %why, "utility VM broken");
            self.enter(Phase::Broken);
        }
    }

    fn happened(&mut self, event: VmEvent) {
        match event {
            VmEvent::GuestPanicked => tracing::warn!(vm = %self.id, "the guest's kernel panicked"),
            VmEvent::Broken { why } => {
                self.broken(&why);
                self.interrupt(Interruption::Lost(why));
            }
            VmEvent::Exited(status) => {
                self.interrupt(Interruption::Exited(status.clone()));
                // If it never ran, its listeners are closed now, and no output will come.
                self.start = None;
                self.forget_plugged();
                self.status.send_modify(|current| {
                    current.exit = Some(status);
                    // A start under way reports by itself; a close goes on.
                    if matches!(current.phase, Phase::Created | Phase::Running | Phase::Broken) {
                        current.phase = Phase::Ended;
                    }
                });
            }
            // The enum may grow; what is new is nothing this state knows.
            _ => {}
        }
    }
}

/// How long an output handler may take to notice that its stream has ended.
pub(super) const OUTPUT_SETTLES: Duration = Duration::from_secs(2);

impl Life {
    fn into_answer(self) -> Answer {
        match self {
            Self::Start(reply)
            | Self::Pause(reply)
            | Self::Resume(reply)
            | Self::Shutdown(reply)
            | Self::Terminate(reply)
            | Self::Close(reply)
            | Self::Sockets(_, reply) => reply,
        }
    }
}

/// How long the host may take beyond a limit: it keeps that by itself, and says better what happened.
const GRACE: Duration = Duration::from_secs(1);

/// What the host does about "cannot `intent` the VM", for at most about `limit`.
pub(crate) async fn on_host<T>(
    vm: &dyn PlatformVm,
    intent: &'static str,
    limit: Duration,
    operation: impl Future<Output = Result<T, PlatformError>>,
) -> Result<T, PlatformError> {
    let done = tokio::time::timeout(limit + GRACE, operation).await;
    done.unwrap_or_else(|_| Err(too_late(vm, intent, limit)))
}

fn too_late(vm: &dyn PlatformVm, intent: &'static str, waited: Duration) -> PlatformError {
    PlatformError::Timeout { what: format!("to {intent} the VM"), waited, last_words: Box::new(vm.last_words()) }
}

/// A caller that gave up does not want the answer.
fn answer(reply: Answer, result: Result<(), UvmError>) {
    let _ = reply.send(result);
}

pub(crate) fn exited(id: &UvmId, intent: &'static str, status: ExitStatus, vm: &dyn PlatformVm) -> UvmError {
    UvmError::Exited { id: id.clone(), intent, status, last_words: Box::new(vm.last_words()) }
}

#[cfg(test)]
mod tests {
    use uvm_platform::Platform;
    use uvm_platform::fake::FakePlatform;
    use uvm_platform::spec::RootFs;

    use super::super::start::Listeners;
    use super::*;
    use crate::error::StartError;
    use crate::options::{BootInfo, BootPlan, GuestConnection, LcowOptions};
    use crate::output::OutputHandler;
    use crate::resources::Limits;

    /// A driver whose reports and requests the test hands it, in any order; its VM's start is under way.
    async fn starting() -> (Driver, oneshot::Receiver<Result<(), UvmError>>) {
        let host = FakePlatform::new();
        let boot = BootPlan {
            directory: "/".into(),
            kernel: "/k".into(),
            root: RootFs::Initrd("/i".into()),
            info: BootInfo::default(),
        };
        let spec = LcowOptions::default().lower(UvmId::new("vm").expect("valid"), boot, &host);
        let (vm, _events) = host.create(&spec).await.expect("created");
        let (output_done, output_done_receiver) = watch::channel(false);
        let start = Start {
            id: spec.id.clone(),
            os: uvm_wire::negotiate::GuestOs::Linux,
            vm: Arc::clone(&vm),
            learns: None,
            listeners: Listeners { entropy: None, log: None, bridge: None },
            output: OutputHandler::default(),
            output_done,
            agent_version: None,
            deadlines: Deadlines::default(),
        };
        let (reports, _receiver) = mpsc::unbounded_channel();
        let (status, _) = watch::channel(Status { phase: Phase::Created, exit: None, guest: None });
        let mut driver = Driver {
            id: spec.id.clone(),
            deadlines: Deadlines::default(),
            status,
            output_done: output_done_receiver,
            start: Some(start),
            interrupt: watch::Sender::new(None),
            starting: None,
            closing: Vec::new(),
            reports,
            plugged: Plugged::new(&vm, Limits::of(&LcowOptions::default(), &spec.boot.root), GuestConnection::Library),
            vm,
        };
        let (reply, answer) = oneshot::channel();
        driver.asked(Request::Life(Life::Start(reply)));
        assert_eq!(driver.phase(), Phase::Starting);
        (driver, answer)
    }

    fn source(answer: Result<(), UvmError>) -> StartError {
        match answer.expect_err("the start came too late") {
            UvmError::Start { source, .. } => *source,
            other => panic!("{other}"),
        }
    }

    #[tokio::test]
    async fn d31_a_start_that_succeeds_after_the_vm_has_ended_is_none() {
        let (mut driver, answer) = starting().await;
        driver.happened(VmEvent::Exited(ExitStatus::PoweredOff));
        driver.reported(Report::Started(Ok(None)));
        let why = source(answer.await.expect("answered"));
        assert!(matches!(why, StartError::Exited(ExitStatus::PoweredOff)), "{why}");
        assert_eq!(driver.phase(), Phase::Ended);
    }

    #[tokio::test]
    async fn d31_a_start_that_succeeds_after_it_was_given_up_is_none() {
        let (mut driver, answer) = starting().await;
        driver.asked(Request::Life(Life::Terminate(oneshot::channel().0)));
        driver.reported(Report::Started(Ok(None)));
        assert!(matches!(source(answer.await.expect("answered")), StartError::Cancelled));
        assert_eq!(driver.phase(), Phase::Broken, "nobody said yet that it has ended");
        driver.happened(VmEvent::Exited(ExitStatus::Terminated));
        assert_eq!(driver.phase(), Phase::Ended);
    }

    #[tokio::test]
    async fn the_first_reason_to_give_a_start_up_is_told() {
        let (mut driver, answer) = starting().await;
        driver.happened(VmEvent::Exited(ExitStatus::Panicked));
        driver.asked(Request::Life(Life::Terminate(oneshot::channel().0)));
        driver.asked(Request::Life(Life::Close(oneshot::channel().0)));
        driver.reported(Report::Started(Ok(None)));
        assert!(matches!(source(answer.await.expect("answered")), StartError::Exited(ExitStatus::Panicked)));
        assert_eq!(driver.phase(), Phase::Closing);
    }
}
