//! The one task that owns a VM's state. It never waits for the host or the guest itself: it changes state, spawns the
//! operation, and gets its result as a message.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use uvm_platform::{Deadlines, ExitStatus, LastWords, PlatformError, PlatformVm, UvmId, VmEvent, VmEvents};

use uvm_wire::ContainerId;
use uvm_wire::system::ShutdownGraceful;

use super::start::{Failed, Guest, Interruption, Start};
use super::state::{Ask, Phase, Refusal, Verdict, admit};
use crate::bridge::BridgeError;
use crate::error::{StartError, StartPhase, UvmError};

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
    Start(Answer),
    Pause(Answer),
    Resume(Answer),
    Shutdown(Answer),
    Terminate(Answer),
    Close(Answer),
}

/// What operations report.
enum Report {
    Started(Result<Option<Guest>, Box<(Failed, LastWords)>>),
    Closed(Result<(), PlatformError>),
}

pub(crate) struct Driver {
    id: UvmId,
    vm: Arc<dyn PlatformVm>,
    deadlines: Deadlines,
    status: watch::Sender<Status>,
    output_done: watch::Receiver<bool>,
    /// What there is to start with, until it was.
    start: Option<Start>,
    interrupt: watch::Sender<Option<Interruption>>,
    starting: Option<Answer>,
    closing: Vec<Answer>,
    reports: mpsc::UnboundedSender<Report>,
}

/// A driver's parts that others hold.
pub(crate) struct Handles {
    pub(crate) requests: mpsc::UnboundedSender<Request>,
    pub(crate) status: watch::Receiver<Status>,
}

impl Driver {
    /// Spawns the driver of a VM that was just created.
    pub(crate) fn spawn(start: Start, events: VmEvents) -> Handles {
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

    fn phase(&self) -> Phase {
        self.status.borrow().phase
    }

    fn enter(&self, phase: Phase) {
        self.status.send_modify(|status| status.phase = phase);
    }

    fn asked(&mut self, request: Request) {
        let (ask, intent) = match &request {
            Request::Start(_) => (Ask::Start, "start"),
            Request::Pause(_) => (Ask::Host, "pause"),
            Request::Resume(_) => (Ask::Host, "resume"),
            Request::Shutdown(_) => (Ask::Shutdown, "shut down"),
            Request::Terminate(_) => (Ask::Terminate, "terminate"),
            Request::Close(_) => (Ask::Close, "close"),
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

    fn perform(&mut self, request: Request, intent: &'static str) {
        let (vm, id) = (Arc::clone(&self.vm), self.id.clone());
        let operation = move |source| UvmError::Operation { id, intent, source };
        match request {
            Request::Start(reply) => self.begin_start(reply),
            Request::Pause(reply) => {
                self.vm.spawn(Box::pin(async move { answer(reply, vm.pause().await.map_err(operation)) }));
            }
            Request::Resume(reply) => {
                self.vm.spawn(Box::pin(async move { answer(reply, vm.resume().await.map_err(operation)) }));
            }
            Request::Terminate(reply) => {
                self.interrupt.send_if_modified(|why| why.replace(Interruption::Cancelled).is_none());
                self.vm.spawn(Box::pin(async move { answer(reply, vm.terminate().await.map_err(operation)) }));
            }
            Request::Shutdown(reply) => self.begin_shutdown(reply),
            Request::Close(reply) => self.begin_close(reply),
        }
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
        let terminate = self.deadlines.terminate;
        self.vm.spawn(Box::pin(async move {
            // Its last words, before they are those of a VM that was terminated.
            let outcome = start.run(interrupted).await.map_err(|failed| Box::new((failed, vm.last_words())));
            if outcome.is_err() {
                // A VM that did not start is of no use; what fails here shows again when it is closed.
                let _ = tokio::time::timeout(terminate, vm.terminate()).await;
            }
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
                source = refused => Err(UvmError::Guest { id, intent: "shut down", source }),
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
        self.interrupt.send_if_modified(|why| why.replace(Interruption::Cancelled).is_none());
        self.start = None;
        let guest = self.status.borrow().guest.clone();
        let (vm, reports, deadline) = (Arc::clone(&self.vm), self.reports.clone(), self.deadlines.close);
        let mut output_done = self.output_done.clone();
        self.vm.spawn(Box::pin(async move {
            let close = async {
                let closed = vm.close().await;
                if let Some(guest) = guest {
                    guest.bridge.close();
                }
                // Its stream has ended with the VM. A handler that does not return is not waited for longer than this.
                let _ = tokio::time::timeout(OUTPUT_SETTLES, output_done.wait_for(|done| *done)).await;
                closed
            };
            let result = match tokio::time::timeout(deadline, close).await {
                Ok(result) => result,
                Err(_) => Err(PlatformError::Timeout {
                    what: "the end of the VM".into(),
                    waited: deadline,
                    last_words: Box::new(vm.last_words()),
                }),
            };
            let _ = reports.send(Report::Closed(result));
        }));
    }

    fn reported(&mut self, report: Report) {
        match report {
            Report::Started(outcome) => self.started(outcome),
            Report::Closed(result) => {
                let mut result = Some(result);
                let failed = matches!(result, Some(Err(_)));
                tracing::info!(vm = %self.id, failed, "utility VM closed");
                // What could not be ended or removed can be tried again.
                let has_ended = self.status.borrow().exit.is_some();
                self.enter(match failed {
                    false => Phase::Closed,
                    true if has_ended => Phase::Ended,
                    true => Phase::Broken,
                });
                for reply in self.closing.drain(..) {
                    let outcome = match result.take() {
                        Some(Err(source)) => Err(UvmError::Operation { id: self.id.clone(), intent: "close", source }),
                        _ if failed => {
                            Err(UvmError::Refused { id: self.id.clone(), intent: "close", why: Refusal::Ended })
                        }
                        _ => Ok(()),
                    };
                    answer(reply, outcome);
                }
            }
        }
    }

    fn started(&mut self, outcome: Result<Option<Guest>, Box<(Failed, LastWords)>>) {
        let Some(reply) = self.starting.take() else { return };
        let under_way = self.phase() == Phase::Starting;
        let failed = match outcome {
            Ok(guest) if under_way => {
                tracing::info!(vm = %self.id, "utility VM started");
                self.status.send_modify(|status| {
                    status.phase = Phase::Running;
                    status.guest = guest;
                });
                return answer(reply, Ok(()));
            }
            // It is over already: what ended it has set the phase.
            Ok(_) => ((StartPhase::Negotiation, StartError::Cancelled), self.vm.last_words()),
            Err(failed) => *failed,
        };
        if under_way {
            self.enter(Phase::Ended);
        }
        let ((phase, source), last_words) = failed;
        let (id, source) = (self.id.clone(), Box::new(source));
        answer(reply, Err(UvmError::Start { id, phase, last_words: Box::new(last_words), source }));
    }

    fn happened(&mut self, event: VmEvent) {
        match event {
            VmEvent::GuestPanicked => tracing::warn!(vm = %self.id, "the guest's kernel panicked"),
            VmEvent::Broken { why } => {
                tracing::warn!(vm = %self.id, why, "utility VM broken");
                if self.phase() == Phase::Running {
                    self.enter(Phase::Broken);
                }
            }
            VmEvent::Exited(status) => {
                self.interrupt.send_if_modified(|why| {
                    let first = why.is_none();
                    if first {
                        *why = Some(Interruption::Exited(status.clone()));
                    }
                    first
                });
                // If it never ran, its listeners are closed now, and no output will come.
                self.start = None;
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
const OUTPUT_SETTLES: Duration = Duration::from_secs(2);

impl Request {
    fn into_answer(self) -> Answer {
        match self {
            Self::Start(reply)
            | Self::Pause(reply)
            | Self::Resume(reply)
            | Self::Shutdown(reply)
            | Self::Terminate(reply)
            | Self::Close(reply) => reply,
        }
    }
}

/// A caller that gave up does not want the answer.
fn answer(reply: Answer, result: Result<(), UvmError>) {
    let _ = reply.send(result);
}

pub(crate) fn exited(id: &UvmId, intent: &'static str, status: ExitStatus, vm: &dyn PlatformVm) -> UvmError {
    UvmError::Exited { id: id.clone(), intent, status, last_words: Box::new(vm.last_words()) }
}
