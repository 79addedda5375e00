//! Calls to the guest as a whole, and about containers that nobody may hold a handle of.

use uvm_wire::modify::{Modification, ModifySettings};
use uvm_wire::system::{DeleteContainerState, DumpStacks, UpdateContainer};
use uvm_wire::{ContainerId, RawJson};

use super::UtilityVm;
use super::host_call::on_host;
use super::state::Refusal;
use crate::error::UvmError;

impl UtilityVm {
    /// What the guest's agent and every process in the VM are doing, as text. Empty if the agent cannot tell, or nobody
    /// can ask it.
    ///
    /// # Errors
    /// [`UvmError::Guest`], [`UvmError::Refused`], [`UvmError::Exited`].
    pub async fn dump_stacks(&self) -> Result<String, UvmError> {
        let intent = "dump the stacks of";
        let guest = match self.inner.guest(intent) {
            Err(error) if is_without_bridge(&error) => return Ok(String::new()),
            guest => guest?,
        };
        if !guest.capabilities.guest_defined.dump_stacks {
            return Ok(String::new());
        }
        let reply = self.inner.call(&guest, &ContainerId::UVM, intent, DumpStacks::default()).await?;
        Ok(reply.guest_stacks)
    }

    /// Makes the guest forget a container that has ended.
    ///
    /// # Errors
    /// [`UvmError::GuestUnsupported`]: the agent cannot do it, or this library does not hold the guest connection.
    /// [`UvmError::Guest`], [`UvmError::Refused`], [`UvmError::Exited`].
    pub async fn delete_container_state(&self, id: &str) -> Result<(), UvmError> {
        let (intent, what) = ("delete the state of a container of", "deleting the state of a container");
        let guest = self.inner.guest(intent)?;
        if !guest.capabilities.guest_defined.delete_container_state {
            return Err(UvmError::GuestUnsupported { id: self.inner.id.clone(), what });
        }
        let container = ContainerId::from(id.to_owned());
        self.inner.call(&guest, &container, intent, DeleteContainerState::default()).await.map(drop)
    }

    /// Changes the limits of a container: `resources` is the `linux.resources` of an OCI specification as JSON.
    ///
    /// # Errors
    /// [`UvmError::GuestUnsupported`]: the agent cannot do it, or this library does not hold the guest connection.
    /// [`UvmError::NotJson`], [`UvmError::Guest`], [`UvmError::Refused`], [`UvmError::Exited`].
    pub async fn update_container(&self, id: &str, resources: &str) -> Result<(), UvmError> {
        let (intent, what) = ("change the limits of a container of", "changing the limits of a container");
        let guest = self.inner.guest(intent)?;
        if !guest.capabilities.guest_defined.update_container {
            return Err(UvmError::GuestUnsupported { id: self.inner.id.clone(), what });
        }
        let container = ContainerId::from(id.to_owned());
        let resources = RawJson::parse(resources).map_err(|source| UvmError::NotJson {
            id: self.inner.id.clone(),
            what: "resources",
            source,
        })?;
        let call = UpdateContainer { resources: Some(resources) };
        self.inner.call(&guest, &container, intent, call).await.map(drop)
    }

    /// As [`guest_request`](Self::guest_request), of any kind, as JSON: by the guest connection of this library, or by the
    /// host's service where that holds it, and before the VM is started. What it changes in the guest, this library does
    /// not know.
    ///
    /// # Errors
    /// [`UvmError::NotJson`]; [`UvmError::Guest`] or [`UvmError::Operation`]: it is refused. [`UvmError::Refused`],
    /// [`UvmError::Exited`].
    pub async fn guest_request_raw(&self, request: &str) -> Result<(), UvmError> {
        let intent = "send a request to the guest of";
        let request = RawJson::parse(request).map_err(|source| UvmError::NotJson {
            id: self.inner.id.clone(),
            what: "guest request",
            source,
        })?;
        match self.inner.guest(intent) {
            Ok(guest) => {
                let call = ModifySettings { modification: Modification::raw(request) };
                self.inner.call(&guest, &ContainerId::UVM, intent, call).await.map(drop)
            }
            Err(error) if is_without_bridge(&error) => self.pass_on(intent, request).await,
            Err(other) => Err(other),
        }
    }

    async fn pass_on(&self, intent: &'static str, request: RawJson) -> Result<(), UvmError> {
        let (vm, limit) = (std::sync::Arc::clone(&self.inner.vm), self.inner.deadlines.host_call);
        let passed = async move { on_host(&*vm, intent, limit, vm.pass_on(request.get())).await };
        let passed = self.inner.run(passed).await?;
        passed.map_err(|source| UvmError::Operation { id: self.inner.id.clone(), intent, source })
    }
}

/// Whether there is no bridge of this library, without anything being wrong with the VM.
fn is_without_bridge(error: &UvmError) -> bool {
    matches!(error, UvmError::GuestUnsupported { .. } | UvmError::Refused { why: Refusal::NotStarted, .. })
}
