//! A container that is reached by this library's own guest connection.

use std::sync::Arc;

use uvm_wire::modify::{ContainerConstraints, Modification, ModifySettings, Resource};
use uvm_wire::properties::{GetProperties, GetPropertiesReply, PropertyQuery};
use uvm_wire::system::{DeleteContainerState, UpdateContainer};
use uvm_wire::{Hresult, RawJson, Rpc};

use crate::bridge::{BridgeError, Registration};
use crate::error::{ContainerError, UvmError};
use crate::vm::{Guest, UtilityVm};

/// The guest does not know the container, or says that it has stopped.
pub(super) const HAS_ENDED: [Hresult; 2] = [Hresult::SYSTEM_NOT_FOUND, Hresult::SYSTEM_ALREADY_STOPPED];

pub(super) struct BridgedContainer {
    pub(super) guest: Guest,
    pub(super) registration: Arc<Registration>,
}

impl BridgedContainer {
    /// Has the guest end it. Success if it has ended or is not there.
    pub(super) async fn end<R>(&self, vm: &UtilityVm, intent: &'static str, call: R) -> Result<(), UvmError>
    where
        R: Rpc<Reply: Send> + Send + Sync + 'static,
    {
        match self.call(vm, intent, call).await {
            Err(UvmError::Container { source: ContainerError::Guest(source), .. }) if source.is_any(&HAS_ENDED) => {
                Ok(())
            }
            result => result.map(drop),
        }
    }

    pub(super) async fn delete_state(&self, vm: &UtilityVm, intent: &'static str) -> Result<(), UvmError> {
        let (guest, id, deadline) = (self.guest.clone(), self.registration.id().clone(), vm.inner.deadlines.rpc);
        let deleted = async move {
            let result = guest.bridge.call(id.clone(), &DeleteContainerState {}, Some(deadline)).await;
            if result.is_ok() {
                guest.bridge.container_deleted(&id);
            }
            result
        };
        self.outcome(vm, intent, vm.inner.run(deleted).await?).await.map(drop)
    }

    pub(super) async fn properties(
        &self,
        vm: &UtilityVm,
        intent: &'static str,
        query: PropertyQuery,
    ) -> Result<RawJson, UvmError> {
        match self.call(vm, intent, GetProperties { query }).await? {
            GetPropertiesReply::Document(document) => Ok(document),
            // An answer that was read is a document.
            GetPropertiesReply::Linux(properties) => {
                RawJson::of(&*properties).map_err(|e| self.failed(vm, intent, ContainerError::Answer(e)))
            }
        }
    }

    pub(super) async fn update(
        &self,
        vm: &UtilityVm,
        intent: &'static str,
        resources: RawJson,
    ) -> Result<(), UvmError> {
        if self.guest.capabilities.guest_defined.update_container {
            let call = UpdateContainer { resources: Some(resources) };
            return self.call(vm, intent, call).await.map(drop);
        }
        let constraints = Resource::ContainerConstraints(ContainerConstraints::linux(resources));
        let modification = Modification::update(constraints);
        self.call(vm, intent, ModifySettings { modification }).await.map(drop)
    }

    pub(super) async fn call<R>(&self, vm: &UtilityVm, intent: &'static str, call: R) -> Result<R::Reply, UvmError>
    where
        R: Rpc<Reply: Send> + Send + Sync + 'static,
    {
        let (guest, id, deadline) = (self.guest.clone(), self.registration.id().clone(), vm.inner.deadlines.rpc);
        let call = async move { guest.bridge.call(id, &call, Some(deadline)).await };
        self.outcome(vm, intent, vm.inner.run(call).await?).await
    }

    async fn outcome<T>(
        &self,
        vm: &UtilityVm,
        intent: &'static str,
        result: Result<T, BridgeError>,
    ) -> Result<T, UvmError> {
        match result {
            Ok(reply) => Ok(reply),
            Err(source) => {
                let source = vm.inner.unless_ended(super::USE, source).await?;
                Err(self.failed(vm, intent, ContainerError::Guest(source)))
            }
        }
    }

    fn failed(&self, vm: &UtilityVm, intent: &'static str, source: ContainerError) -> UvmError {
        vm.inner.witness().container(self.registration.id().as_str().to_owned(), intent, source)
    }
}
