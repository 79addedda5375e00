//! What a host knows and tells of a VM.

use std::time::Duration;

/// A guest connection that the host's service holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostGuestConnection {
    /// The version of the protocol that they agreed on.
    pub protocol_version: u32,
    /// What the guest can do: JSON, in the words of the guest.
    pub capabilities: String,
}

/// Figures of a VM. What the host does not tell is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VmStatistics {
    /// Processor time used by the whole VM, in nanoseconds.
    pub processor_runtime_ns: Option<u64>,
    /// Memory of the host that the VM uses now, in bytes.
    pub working_set_bytes: Option<u64>,
    /// Nodes of memory in the guest; 0 if the host does not tell.
    pub virtual_node_count: u32,
    /// What the host gives it.
    pub memory: Option<MemoryStatistics>,
}

/// Memory that the host gives to a VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStatistics {
    /// Memory that is left, in percent of what the guest wants.
    pub available_percent: i32,
    /// What is kept for sudden needs, in percent.
    pub available_buffer_percent: i32,
    /// Kept for the VM, in pages of 4 KiB.
    pub reserved_pages: u64,
    /// Given to the VM, in pages of 4 KiB.
    pub assigned_pages: u64,
    /// Some of it is paged out by the host.
    pub slp_active: bool,
    /// The host balances it between VMs.
    pub balancing_enabled: bool,
    /// It is being changed.
    pub operation_in_progress: bool,
}

/// What a host knows of a VM without asking the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VmProperties {
    /// The host's process for it, where there is one.
    pub host_pid: Option<u32>,
    /// `running`, `paused`, `shutdown`...: the host's own word.
    pub state: String,
    /// Since power-on.
    pub uptime: Option<Duration>,
    /// Processor time used by the whole VM, its devices included.
    pub processor_time: Option<Duration>,
    /// Host memory in use by the VM, in bytes.
    pub working_set_bytes: Option<u64>,
}
