//! Figures of a VM: what the host knows of its processors and its memory.

use std::sync::Arc;

use uvm_platform::{BoxFuture, PlatformError, PlatformVm, VmStatistics};

use super::UtilityVm;
use super::host_call::on_host;
use super::state::{Phase, Refusal};
use crate::error::UvmError;

impl UtilityVm {
    /// Figures of the VM's processors and memory, as the host tells them. What it does not tell is absent.
    ///
    /// # Errors
    /// [`UvmError::Operation`]; [`UvmError::Refused`] once it is closed.
    pub async fn stats(&self) -> Result<VmStatistics, UvmError> {
        self.ask_host("read the figures of", |vm| vm.statistics()).await
    }

    /// How much of the host's memory the VM has, in bytes. Right after a start it may be 0.
    ///
    /// # Errors
    /// [`UvmError::Operation`]; [`UvmError::Refused`] once it is closed.
    pub async fn assigned_memory_bytes(&self) -> Result<u64, UvmError> {
        self.ask_host("read the assigned memory of", |vm| vm.assigned_memory()).await
    }

    async fn ask_host<T: Send + 'static>(
        &self,
        intent: &'static str,
        question: impl FnOnce(&dyn PlatformVm) -> BoxFuture<'_, Result<T, PlatformError>> + Send + 'static,
    ) -> Result<T, UvmError> {
        let id = || self.inner.id.clone();
        if matches!(self.inner.status.borrow().phase, Phase::Closing | Phase::Closed) {
            return Err(UvmError::Refused { id: id(), intent, why: Refusal::Closed });
        }
        let (vm, limit) = (Arc::clone(&self.inner.vm), self.inner.deadlines.host_call);
        let answer = self.inner.run(async move { on_host(&*vm, intent, 2 * limit, question(&*vm)).await }).await?;
        answer.map_err(|source| UvmError::Operation { id: id(), intent, source })
    }
}
