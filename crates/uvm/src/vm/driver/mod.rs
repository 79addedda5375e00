//! The one task that owns a VM's state. It never waits for the host or the guest itself: it changes state, spawns the
//! operation, and gets its result as a message.

mod operations;
mod outcomes;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use uvm_platform::{Deadlines, ExitStatus, LastWords, PlatformError, PlatformVm, UvmId, VmEvents};

use super::plugged::{self, Plugged};
use super::sockets::Change;
use super::start::{Failed, Guest, Interruption, Start};
use super::state::{Ask, Phase, Refusal, Verdict, admit};
use crate::bridge::BridgeClosed;
use crate::error::UvmError;

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

    /// Gives up a start under way. The first reason counts.
    fn interrupt(&self, why: Interruption) {
        self.interrupt.send_if_modified(|current| {
            let first = current.is_none();
            current.get_or_insert(why);
            first
        });
    }
}

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

/// A caller that gave up does not want the answer.
fn answer(reply: Answer, result: Result<(), UvmError>) {
    let _ = reply.send(result);
}

pub(crate) fn exited(id: &UvmId, intent: &'static str, status: ExitStatus, vm: &dyn PlatformVm) -> UvmError {
    UvmError::Exited { id: id.clone(), intent, status, last_words: Box::new(vm.last_words()) }
}

/// How long an output handler may take to notice that its stream has ended.
pub(super) const OUTPUT_SETTLES: Duration = Duration::from_secs(2);
