//! A process that is reached by this library's own guest connection.

use std::sync::Arc;

use tokio::sync::watch;
use uvm_wire::call::Done;
use uvm_wire::process::{ResizeConsole, SignalProcess};
use uvm_wire::{ContainerId, Hresult, Rpc};

use super::{ProcessExit, TerminalSize};
use crate::bridge::BridgeError;
use crate::error::UvmError;
use crate::vm::{Guest, Refusal, UtilityVm};

/// The outcome of the wait that runs in the background from the start of the process on.
pub(super) type Outcome = watch::Receiver<Option<Result<ProcessExit, Arc<BridgeError>>>>;

/// The guest knows the process no more: it has ended.
pub(super) const ALREADY_GONE: [Hresult; 1] = [Hresult::NOT_FOUND];

#[derive(Debug)]
pub(super) struct BridgedProcess {
    pub(super) guest: Guest,
    pub(super) container: ContainerId,
    pub(super) id: u32,
    pub(super) outcome: Outcome,
}

impl BridgedProcess {
    pub(super) async fn wait(&self, vm: &UtilityVm) -> Result<ProcessExit, UvmError> {
        let mut outcome = self.outcome.clone();
        let outcome = outcome.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        match outcome {
            Some(Ok(exit)) => Ok(exit),
            Some(Err(source)) => {
                let source = vm.inner.unless_ended(super::WAIT, again(&source)).await?;
                Err(vm.inner.witness().guest(super::WAIT, source))
            }
            // The VM's thread is gone, and with it the task that waited.
            None => Err(UvmError::Refused { id: vm.id().clone(), intent: super::WAIT, why: Refusal::Closed }),
        }
    }

    pub(super) fn exit(&self) -> Option<ProcessExit> {
        self.outcome.borrow().as_ref()?.as_ref().ok().copied()
    }

    pub(super) async fn signal(&self, vm: &UtilityVm, call: SignalProcess) -> Result<bool, UvmError> {
        self.unless_gone(vm, super::SIGNAL, super::SIGNALS, call).await
    }

    pub(super) async fn resize(&self, vm: &UtilityVm, size: TerminalSize) -> Result<(), UvmError> {
        let call = ResizeConsole { process_id: self.id, height: size.rows, width: size.columns };
        self.unless_gone(vm, super::RESIZE, "resizing the terminal of this process", call).await.map(drop)
    }

    /// Makes a call about this process. `false` if the process has ended.
    async fn unless_gone<R>(
        &self,
        vm: &UtilityVm,
        intent: &'static str,
        what: &'static str,
        call: R,
    ) -> Result<bool, UvmError>
    where
        R: Rpc<Reply = Done> + Send + Sync + 'static,
    {
        match vm.inner.call(&self.guest, &self.container, intent, call).await {
            Err(UvmError::Guest { source, .. }) if source.is_any(&ALREADY_GONE) => Ok(false),
            // The original's agents for Linux look for a container of that name: they know no process outside of one.
            Err(UvmError::Guest { source, .. })
                if self.container.is_uvm() && source.is_any(&[Hresult::SYSTEM_NOT_FOUND]) =>
            {
                Err(UvmError::GuestUnsupported { id: vm.id().clone(), what })
            }
            result => result.map(|_| true),
        }
    }
}

/// The same error once more: the wait is shared, its error is told to each who asks.
fn again(error: &BridgeError) -> BridgeError {
    match error {
        BridgeError::Failed(failure) => BridgeError::Failed(failure.clone()),
        BridgeError::Timeout { call, waited } => BridgeError::Timeout { call: *call, waited: *waited },
        BridgeError::Closed { call, source } => BridgeError::Closed { call: *call, source: Arc::clone(source) },
        BridgeError::Encode { call, .. } | BridgeError::Answer { call, .. } => {
            let failure = uvm_wire::Failure::plain(format_args!("{call}: {}", crate::error::chain(error)));
            BridgeError::Failed(Box::new(failure))
        }
    }
}
