//! The operations that the driver spawns for what it is asked. Each answers, or reports, when it is done.

use std::sync::Arc;

use tokio::time::Instant;
use uvm_wire::ContainerId;
use uvm_wire::system::ShutdownGraceful;

use super::{Answer, Driver, FailedStart, Life, OUTPUT_SETTLES, Report, answer};
use crate::bridge::BridgeError;
use crate::error::{UvmError, Witness};
use crate::vm::host_call::{on_host, too_late};
use crate::vm::sockets::Change;
use crate::vm::start::Interruption;
use crate::vm::state::{Phase, Refusal};

impl Driver {
    /// Does what the table of states lets through.
    pub(super) fn perform(&mut self, request: Life, intent: &'static str) {
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
}
