//! Changes of a VM, and what only this host's service can do.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use uvm_platform::PlatformError;
use uvm_platform::requests::{Change, CpuGroup, Setting};
use uvm_wire::RawJson;

use super::{HcsVm, Vm};
use crate::document::modify::{guest_only, modify};
use crate::document::query::{PropertyType, SystemProperties, query};
use crate::win_path::WinPath;

/// Whom a file is opened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Every VM; this is never taken back.
    Group,
    /// This VM.
    Individual,
}

impl HcsVm {
    /// Makes a change, with what the service is to pass on to the guest where it holds the connection. Cancel-safe: it
    /// goes on.
    ///
    /// # Errors
    /// The service does not take it, the host is too old for it, the VM has ended or is closed. Nothing was changed,
    /// unless the service did not answer in time.
    pub async fn change(&self, change: Change, guest: Option<RawJson>) -> Result<(), PlatformError> {
        let vm = Arc::clone(&self.vm);
        self.run(async move { vm.change(&change, guest.as_ref()).await }).await
    }

    /// Has the service pass something on to the guest, where it holds the connection. Cancel-safe: it goes on.
    ///
    /// # Errors
    /// As [`change`](Self::change).
    pub async fn guest_request(&self, guest: RawJson) -> Result<(), PlatformError> {
        let vm = Arc::clone(&self.vm);
        self.run(async move { vm.modify("send a request to its guest", &guest_only(&guest)).await }).await
    }

    /// Asks the service for properties. Cancel-safe.
    ///
    /// # Errors
    /// The service does not answer, or not in its schema; the VM is closed.
    pub async fn system_properties(&self, wanted: Vec<PropertyType>) -> Result<SystemProperties, PlatformError> {
        let vm = Arc::clone(&self.vm);
        self.run(async move {
            vm.require_open("read its properties")?;
            vm.system_properties(&wanted).await
        })
        .await
    }

    /// The working set, in bytes, of the host's process that holds the VM's memory. Cancel-safe.
    ///
    /// # Errors
    /// There is no such process.
    pub async fn memory_process_working_set(&self) -> Result<u64, PlatformError> {
        let vm = Arc::clone(&self.vm);
        self.run(async move {
            vm.require_open("read its memory's working set")?;
            vm.memory_working_set().await
        })
        .await
    }

    /// Lets the VM open a file of the host. Cancel-safe: it goes on.
    ///
    /// # Errors
    /// The host does not change the file's access.
    pub async fn grant(&self, path: WinPath, access: Access) -> Result<(), PlatformError> {
        let vm = Arc::clone(&self.vm);
        self.run(async move {
            vm.require_open("let it open a file")?;
            let (host, id) = (&vm.parts.host, vm.parts.id.as_str());
            let granted = match access {
                Access::Group => host.grant_vm_group(&path),
                Access::Individual => host.grant_vm(id, &path),
            };
            vm.call("let it open a file", vm.parts.deadlines.host_call, granted).await
        })
        .await
    }

    /// Takes back what [`grant`](Self::grant) gave this VM alone. Cancel-safe: it goes on.
    ///
    /// # Errors
    /// The host does not change the file's access.
    pub async fn revoke(&self, path: WinPath) -> Result<(), PlatformError> {
        let vm = Arc::clone(&self.vm);
        self.run(async move {
            let revoked = vm.parts.host.revoke_vm(vm.parts.id.as_str(), &path);
            vm.call("keep it from opening a file", vm.parts.deadlines.host_call, revoked).await
        })
        .await
    }
}

impl Vm {
    pub(super) async fn change(&self, change: &Change, guest: Option<&RawJson>) -> Result<(), PlatformError> {
        self.modify(intent(change), &modify(change, guest, self.parts.build)?).await?;
        if let Change::Update(Setting::CpuGroup(CpuGroup { id })) = change {
            self.in_cpu_group.store(id.is_some(), Ordering::Relaxed);
        }
        Ok(())
    }

    async fn modify(&self, intent: &'static str, request: &str) -> Result<(), PlatformError> {
        self.require_open(intent)?;
        self.call(intent, self.parts.deadlines.host_call, self.parts.system.modify(request)).await
    }

    pub(super) async fn system_properties(&self, wanted: &[PropertyType]) -> Result<SystemProperties, PlatformError> {
        let wanted = query(wanted);
        let answer = self.parts.system.properties(&wanted);
        let answer = self.call("read its properties", self.parts.deadlines.host_call, answer).await?;
        SystemProperties::read(&answer).map_err(|e| PlatformError::host("read its properties", e))
    }
}

fn intent(change: &Change) -> &'static str {
    match change {
        Change::Add(_) => "add a device to it",
        Change::Remove(_) => "remove a device from it",
        Change::UndoAdd(_) => "take back a device from it",
        Change::Update(_) => "change it",
    }
}
