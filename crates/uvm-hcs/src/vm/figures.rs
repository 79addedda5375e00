//! Figures of a VM: its processors, its memory.

use uvm_platform::{MemoryStatistics, PlatformError, VmStatistics};

use super::Vm;
use crate::document::query::{PropertyType, VirtualMachineMemory};

impl Vm {
    /// What the service tells of processors and memory. Where memory is taken from the host as the guest touches it, how
    /// much that is now is for the host's process to tell that holds it.
    pub(super) async fn statistics(&self) -> Result<VmStatistics, PlatformError> {
        self.require_open("read its figures")?;
        let told = self.system_properties(&[PropertyType::Statistics, PropertyType::Memory]).await?;
        let processor = told.statistics.as_ref().and_then(|statistics| statistics.processor.as_ref());
        let memory = told.memory.as_ref();
        let working_set_bytes = if self.parts.physically_backed {
            told.assigned_memory_bytes().ok()
        } else {
            Some(self.memory_working_set().await?)
        };
        Ok(VmStatistics {
            processor_runtime_ns: processor.map(|processor| processor.total_runtime_100ns.saturating_mul(100)),
            working_set_bytes,
            virtual_node_count: memory.map_or(0, |memory| memory.virtual_node_count.into()),
            memory: memory.and_then(|memory| memory.virtual_machine_memory.as_ref()).map(memory_statistics),
        })
    }

    pub(super) async fn assigned_memory(&self) -> Result<u64, PlatformError> {
        let intent = "read its assigned memory";
        self.require_open(intent)?;
        let told = self.system_properties(&[PropertyType::Memory]).await?;
        told.assigned_memory_bytes().map_err(|e| PlatformError::host(intent, e))
    }

    /// The working set, in bytes, of the host's process that holds the VM's memory. It is looked for until it is found.
    pub(super) async fn memory_working_set(&self) -> Result<u64, PlatformError> {
        let intent = "read its memory's working set";
        let (host, deadline) = (&self.parts.host, self.parts.deadlines.host_call);
        let find = || self.call(intent, deadline, host.memory_process(self.parts.runtime_id));
        let process = self.memory_process.get_or_try_init(find).await?;
        self.call(intent, deadline, process.working_set()).await
    }
}

fn memory_statistics(told: &VirtualMachineMemory) -> MemoryStatistics {
    MemoryStatistics {
        available_percent: told.available_memory,
        available_buffer_percent: told.available_memory_buffer,
        reserved_pages: told.reserved_memory,
        assigned_pages: told.assigned_memory,
        slp_active: told.slp_active,
        balancing_enabled: told.balancing_enabled,
        operation_in_progress: told.operation_in_progress,
    }
}
