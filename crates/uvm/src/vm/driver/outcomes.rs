//! What becomes of the state when operations report, and when the host tells what happened.

use uvm_platform::VmEvent;

use super::{Driver, FailedStart, Report, answer};
use crate::error::{StartPhase, UvmError};
use crate::vm::start::{Guest, Interruption, SETTLE};
use crate::vm::state::Phase;

impl Driver {
    pub(super) fn reported(&mut self, report: Report) {
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

    pub(super) fn happened(&mut self, event: VmEvent) {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::{mpsc, oneshot, watch};
    use uvm_platform::fake::FakePlatform;
    use uvm_platform::spec::RootFs;
    use uvm_platform::{Deadlines, ExitStatus, Platform, UvmId};

    use super::*;
    use crate::error::StartError;
    use crate::options::{BootInfo, BootPlan, GuestConnection, LcowOptions};
    use crate::output::OutputHandler;
    use crate::resources::Limits;
    use crate::vm::driver::{Life, Request, Status};
    use crate::vm::plugged::Plugged;
    use crate::vm::start::{Listeners, Start};

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
