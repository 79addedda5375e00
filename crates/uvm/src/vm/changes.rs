//! Changes of what every VM has: memory, processor time, its CPU group.

use std::sync::{Arc, MutexGuard, PoisonError};

use uvm_platform::requests::{Change, CpuGroup, CpuLimits, MemorySize, Setting};

use super::UtilityVm;
use super::host_call::on_host;
use super::state::Ask;
use crate::error::UvmError;
use crate::options::{MemoryMib, OptionsError};

impl UtilityVm {
    /// Puts the VM into a CPU group of the host (Host Compute Service only).
    ///
    /// # Errors
    /// [`UvmError::Options`]: the id is empty. [`UvmError::Operation`]: the host refuses; the VM is where it was.
    /// [`UvmError::Refused`], [`UvmError::Exited`].
    pub async fn set_cpu_group(&self, id: &str) -> Result<(), UvmError> {
        if id.is_empty() {
            return Err(OptionsError::NoCpuGroup.into());
        }
        let group = CpuGroup { id: Some(id.to_owned()) };
        self.change("change the CPU group of", Change::Update(Setting::CpuGroup(group))).await?;
        *self.cpu_group() = Some(id.to_owned());
        Ok(())
    }

    /// Takes the VM out of its CPU group; nothing is done if it is in none.
    ///
    /// # Errors
    /// [`UvmError::Operation`]: the host refuses; the VM is still in the group. [`UvmError::Refused`],
    /// [`UvmError::Exited`].
    pub async fn release_cpu_group(&self) -> Result<(), UvmError> {
        if self.cpu_group().is_none() {
            return Ok(());
        }
        let none = Change::Update(Setting::CpuGroup(CpuGroup { id: None }));
        self.change("take out of its CPU group", none).await?;
        *self.cpu_group() = None;
        Ok(())
    }

    /// Changes how much processor time the VM may use.
    ///
    /// # Errors
    /// [`UvmError::Operation`]: the host refuses; nothing was changed. [`UvmError::Refused`], [`UvmError::Exited`].
    pub async fn update_cpu_limits(&self, limits: CpuLimits) -> Result<(), UvmError> {
        self.change("change the processor limits of", Change::Update(Setting::CpuLimits(limits))).await
    }

    /// Makes the VM's memory larger or smaller. The size is rounded up to whole MiB, and these to an even number.
    ///
    /// # Errors
    /// [`UvmError::Options`]: no VM can have so much, or none at all. [`UvmError::Operation`]: the host refuses; nothing
    /// was changed. [`UvmError::Refused`], [`UvmError::Exited`].
    pub async fn update_memory(&self, bytes: u64) -> Result<(), UvmError> {
        let mib = bytes.div_ceil(1 << 20);
        let size = match mib {
            0 => Err(OptionsError::BadMemory { mib }),
            _ => MemoryMib::rounded_up(mib),
        }?;
        let size = MemorySize { mib: size.get() };
        self.change("change the memory of", Change::Update(Setting::Memory(size))).await
    }

    fn cpu_group(&self) -> MutexGuard<'_, Option<String>> {
        self.inner.cpu_group.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn change(&self, intent: &'static str, change: Change) -> Result<(), UvmError> {
        self.inner.admit(intent, Ask::Plug)?;
        let (vm, limit) = (Arc::clone(&self.inner.vm), self.inner.deadlines.host_call);
        let changed = async move { on_host(&*vm, intent, limit, vm.change(&change, None)).await };
        let changed = self.inner.run(changed).await?;
        changed.map_err(|source| UvmError::Operation { id: self.inner.id.clone(), intent, source })
    }
}
