//! A container that is reached by way of the host's service, which holds the guest connection.

use std::sync::Arc;

use uvm_platform::{ContainerCommand, ContainerExit, ExitStatus, NewContainer, PlatformContainer, PlatformError};
use uvm_wire::create::ContainerConfig;
use uvm_wire::modify::Modification;
use uvm_wire::notification::ExitType;
use uvm_wire::properties::PropertyQuery;
use uvm_wire::{JsonError, RawJson};

use super::{Container, Way, create};
use crate::bridge::ContainerEnd;
use crate::error::{ContainerError, UvmError};
use crate::vm::UtilityVm;

pub(super) struct HostedContainer {
    pub(super) container: Arc<dyn PlatformContainer>,
    /// The agent can signal its processes.
    pub(super) can_signal: bool,
}

/// Makes a container, and starts it if that is wanted. The host leaves nothing of it if nobody waits any more.
pub(super) async fn make(
    vm: &UtilityVm,
    id: &str,
    config: &ContainerConfig,
    start: bool,
    can_signal: bool,
) -> Result<Container, UvmError> {
    let made = async {
        let settings = text(RawJson::of(config))?;
        vm.inner.vm.hosted()?.create_container(NewContainer { id, settings: settings.get(), start }).await
    };
    let container = made.await.map_err(|source| failed(vm, id, "create", create::INTENT, source))?;
    Ok(Container { vm: vm.clone(), way: Way::Host(HostedContainer { container, can_signal }) })
}

/// A handle of one that may be there.
pub(super) fn open(vm: &UtilityVm, id: &str, can_signal: bool) -> Result<Container, UvmError> {
    let guest = vm.inner.vm.hosted();
    let guest = guest.map_err(|source| failed(vm, id, "open", super::OPEN, source))?;
    let container = guest.open_container(id);
    Ok(Container { vm: vm.clone(), way: Way::Host(HostedContainer { container, can_signal }) })
}

impl HostedContainer {
    pub(super) async fn command(
        &self,
        vm: &UtilityVm,
        intent: &'static str,
        command: ContainerCommand,
    ) -> Result<(), UvmError> {
        self.outcome(vm, intent, self.container.command(command).await)
    }

    pub(super) async fn properties(
        &self,
        vm: &UtilityVm,
        intent: &'static str,
        query: &PropertyQuery,
    ) -> Result<RawJson, UvmError> {
        let asked = async { self.container.properties(text(RawJson::of(query))?.get()).await };
        let answer = self.outcome(vm, intent, asked.await)?;
        RawJson::parse(&answer).map_err(|e: JsonError| {
            vm.inner.witness().container(self.container.id().to_owned(), intent, ContainerError::Answer(e))
        })
    }

    pub(super) async fn modify(
        &self,
        vm: &UtilityVm,
        intent: &'static str,
        modification: &Modification,
    ) -> Result<(), UvmError> {
        let modified = async { self.container.modify(text(RawJson::of(modification))?.get()).await };
        self.outcome(vm, intent, modified.await)
    }

    pub(super) async fn wait(&self) -> ContainerEnd {
        match self.container.ended().await {
            ContainerExit::Exited(ExitStatus::PoweredOff) => ContainerEnd::Notified(ExitType::GracefulExit),
            ContainerExit::Exited(ExitStatus::Terminated) => ContainerEnd::Notified(ExitType::ForcedExit),
            ContainerExit::Exited(_) => ContainerEnd::Notified(ExitType::UnexpectedExit),
            ContainerExit::Lost => ContainerEnd::BridgeClosed,
            ContainerExit::Closed => ContainerEnd::Closed,
        }
    }

    fn outcome<T>(
        &self,
        vm: &UtilityVm,
        intent: &'static str,
        result: Result<T, PlatformError>,
    ) -> Result<T, UvmError> {
        result.map_err(|source| failed(vm, self.container.id(), intent, super::USE, source))
    }
}

/// The error of what was tried with a container, `of_vm` of the VM where that it has ended is the error.
fn failed(vm: &UtilityVm, id: &str, intent: &'static str, of_vm: &'static str, source: PlatformError) -> UvmError {
    match vm.inner.host_unless_ended(of_vm, source) {
        Ok(source) => vm.inner.witness().container(id.to_owned(), intent, ContainerError::Host(Box::new(source))),
        Err(ended) => ended,
    }
}

/// A message as the service takes it.
fn text(message: Result<RawJson, JsonError>) -> Result<RawJson, PlatformError> {
    message.map_err(|e| PlatformError::host("write a request about a container", e))
}
