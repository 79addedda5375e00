//! What a container uses: counters in the shape of cgroup version 1, whichever version the guest has.
//!
//! The keys are those of containerd's metrics. What is zero is left out, and an agent leaves out what it does not know.

/// A struct whose keys are its fields' names, each left out while it has its default value.
macro_rules! counters {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* pub $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[serde(default)]
        pub struct $name {
            $($(#[$field_meta])* #[serde(skip_serializing_if = "crate::object::is_empty")] pub $field: $type,)*
        }
    };
}

counters! {
    /// All counters of one container.
    pub struct Metrics {
        /// Huge pages, one entry for each page size.
        pub hugetlb: Vec<Hugetlb>,
        /// Processes and threads.
        pub pids: Option<Pids>,
        /// Processor time.
        pub cpu: Option<Cpu>,
        /// Memory.
        pub memory: Option<Memory>,
        /// Block devices. Newer agents (2025-06) send it empty.
        pub blkio: Option<BlockIo>,
        /// RDMA devices. Newer agents (2025-06) send it empty.
        pub rdma: Option<Rdma>,
        /// Network interfaces. Newer agents (2025-06) send none.
        pub network: Vec<NetworkInterface>,
        /// Tasks by state.
        pub cgroup_stats: Option<TaskStates>,
        /// Out-of-memory kills. Newer agents only.
        pub memory_oom_control: Option<OomControl>,
    }
}

impl Metrics {
    /// Gives up one of the lists, those first that newer agents never send; `false` when all are empty.
    pub(crate) fn shed(&mut self) -> bool {
        if self.blkio.take_if(|blkio| *blkio != BlockIo::default()).is_some()
            || self.rdma.take_if(|rdma| *rdma != Rdma::default()).is_some()
            || emptied(&mut self.network)
            || emptied(&mut self.hugetlb)
        {
            return true;
        }
        let usage = self.cpu.as_mut().and_then(|cpu| cpu.usage.as_mut());
        usage.is_some_and(|usage| emptied(&mut usage.per_cpu))
    }
}

/// Empties a list; whether there was anything in it.
fn emptied<T>(list: &mut Vec<T>) -> bool {
    !std::mem::take(list).is_empty()
}

counters! {
    /// Huge pages of one size, in bytes.
    pub struct Hugetlb {
        /// In use.
        pub usage: u64,
        /// The most ever in use.
        pub max: u64,
        /// How often the limit was hit.
        pub failcnt: u64,
        /// The page size, as `2MB`.
        pub pagesize: String,
    }
}

counters! {
    /// Processes and threads.
    pub struct Pids {
        /// How many there are.
        pub current: u64,
        /// How many there may be; 0 for no limit.
        pub limit: u64,
    }
}

counters! {
    /// Processor time.
    pub struct Cpu {
        /// Time used.
        pub usage: Option<CpuUsage>,
        /// Time refused.
        pub throttling: Option<CpuThrottling>,
    }
}

counters! {
    /// Processor time used, in nanoseconds.
    pub struct CpuUsage {
        /// All of it.
        pub total: u64,
        /// In the kernel.
        pub kernel: u64,
        /// In user space.
        pub user: u64,
        /// On each processor.
        pub per_cpu: Vec<u64>,
    }
}

counters! {
    /// Processor time refused because a quota was used up.
    pub struct CpuThrottling {
        /// Periods that have passed.
        pub periods: u64,
        /// Periods in which the quota was used up.
        pub throttled_periods: u64,
        /// Time spent waiting, in nanoseconds.
        pub throttled_time: u64,
    }
}

counters! {
    /// Memory, in bytes unless it says pages or events; `total_` includes the cgroups below.
    pub struct Memory {
        /// Page cache.
        pub cache: u64,
        /// Anonymous memory.
        pub rss: u64,
        /// Anonymous memory in huge pages.
        pub rss_huge: u64,
        /// Mapped files.
        pub mapped_file: u64,
        /// Waiting to be written back.
        pub dirty: u64,
        /// Being written back.
        pub writeback: u64,
        /// Pages charged (events).
        pub pg_pg_in: u64,
        /// Pages uncharged (events).
        pub pg_pg_out: u64,
        /// Page faults.
        pub pg_fault: u64,
        /// Page faults that needed I/O.
        pub pg_maj_fault: u64,
        /// Anonymous memory on the inactive list.
        pub inactive_anon: u64,
        /// Anonymous memory on the active list.
        pub active_anon: u64,
        /// Page cache on the inactive list.
        pub inactive_file: u64,
        /// Page cache on the active list.
        pub active_file: u64,
        /// What cannot be reclaimed.
        pub unevictable: u64,
        /// The memory limit that holds here.
        pub hierarchical_memory_limit: u64,
        /// The limit of memory and swap that holds here.
        pub hierarchical_swap_limit: u64,
        /// See `cache`.
        pub total_cache: u64,
        /// See `rss`.
        pub total_rss: u64,
        /// See `rss_huge`.
        pub total_rss_huge: u64,
        /// See `mapped_file`.
        pub total_mapped_file: u64,
        /// See `dirty`.
        pub total_dirty: u64,
        /// See `writeback`.
        pub total_writeback: u64,
        /// See `pg_pg_in`.
        pub total_pg_pg_in: u64,
        /// See `pg_pg_out`.
        pub total_pg_pg_out: u64,
        /// See `pg_fault`.
        pub total_pg_fault: u64,
        /// See `pg_maj_fault`.
        pub total_pg_maj_fault: u64,
        /// See `inactive_anon`.
        pub total_inactive_anon: u64,
        /// See `active_anon`.
        pub total_active_anon: u64,
        /// See `inactive_file`.
        pub total_inactive_file: u64,
        /// See `active_file`.
        pub total_active_file: u64,
        /// See `unevictable`.
        pub total_unevictable: u64,
        /// Memory as a whole.
        pub usage: Option<MemoryUse>,
        /// Memory and swap.
        pub swap: Option<MemoryUse>,
        /// Kernel memory.
        pub kernel: Option<MemoryUse>,
        /// TCP buffers.
        pub kernel_tcp: Option<MemoryUse>,
    }
}

counters! {
    /// Use of one kind of memory, in bytes.
    pub struct MemoryUse {
        /// The limit.
        pub limit: u64,
        /// In use.
        pub usage: u64,
        /// The most ever in use.
        pub max: u64,
        /// How often the limit was hit.
        pub failcnt: u64,
    }
}

counters! {
    /// Use of block devices, one entry for each device and operation.
    pub struct BlockIo {
        /// Bytes transferred.
        pub io_service_bytes_recursive: Vec<BlockIoEntry>,
        /// Operations done.
        pub io_serviced_recursive: Vec<BlockIoEntry>,
        /// Operations queued.
        pub io_queued_recursive: Vec<BlockIoEntry>,
        /// Nanoseconds from dispatch to completion.
        pub io_service_time_recursive: Vec<BlockIoEntry>,
        /// Nanoseconds in queues.
        pub io_wait_time_recursive: Vec<BlockIoEntry>,
        /// Operations merged.
        pub io_merged_recursive: Vec<BlockIoEntry>,
        /// Milliseconds of device time.
        pub io_time_recursive: Vec<BlockIoEntry>,
        /// Sectors transferred.
        pub sectors_recursive: Vec<BlockIoEntry>,
    }
}

counters! {
    /// One counter of a block device.
    pub struct BlockIoEntry {
        /// The operation, as `Read`.
        pub op: String,
        /// The device's name.
        pub device: String,
        /// Its major number.
        pub major: u64,
        /// Its minor number.
        pub minor: u64,
        /// The counter.
        pub value: u64,
    }
}

counters! {
    /// Use of RDMA devices.
    pub struct Rdma {
        /// In use.
        pub current: Vec<RdmaEntry>,
        /// Allowed.
        pub limit: Vec<RdmaEntry>,
    }
}

counters! {
    /// Use of one RDMA device.
    pub struct RdmaEntry {
        /// The device's name.
        pub device: String,
        /// Handles.
        pub hca_handles: u32,
        /// Objects.
        pub hca_objects: u32,
    }
}

counters! {
    /// Traffic of one network interface.
    pub struct NetworkInterface {
        /// Its name.
        pub name: String,
        /// Bytes received.
        pub rx_bytes: u64,
        /// Packets received.
        pub rx_packets: u64,
        /// Packets received wrong.
        pub rx_errors: u64,
        /// Packets received and dropped.
        pub rx_dropped: u64,
        /// Bytes sent.
        pub tx_bytes: u64,
        /// Packets sent.
        pub tx_packets: u64,
        /// Packets not sent.
        pub tx_errors: u64,
        /// Packets dropped instead of sent.
        pub tx_dropped: u64,
    }
}

counters! {
    /// How many tasks are in which state.
    pub struct TaskStates {
        /// Sleeping.
        pub nr_sleeping: u64,
        /// Running.
        pub nr_running: u64,
        /// Stopped.
        pub nr_stopped: u64,
        /// In an uninterruptible wait.
        pub nr_uninterruptible: u64,
        /// Waiting for I/O.
        pub nr_io_wait: u64,
    }
}

counters! {
    /// What happens when memory runs out.
    pub struct OomControl {
        /// 1: nothing is killed.
        pub oom_kill_disable: u64,
        /// 1: memory has run out.
        pub under_oom: u64,
        /// How often something was killed.
        pub oom_kill: u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_given_up_one_by_one() {
        let mut metrics = Metrics {
            hugetlb: vec![Hugetlb::default()],
            cpu: Some(Cpu {
                usage: Some(CpuUsage { total: 3, per_cpu: vec![1, 2], ..CpuUsage::default() }),
                throttling: None,
            }),
            blkio: Some(BlockIo { sectors_recursive: vec![BlockIoEntry::default()], ..BlockIo::default() }),
            rdma: Some(Rdma { current: vec![RdmaEntry::default()], limit: vec![] }),
            network: vec![NetworkInterface::default()],
            ..Metrics::default()
        };
        for step in 0..5 {
            let before = serde_json::to_string(&metrics).unwrap();
            assert!(metrics.shed(), "step {step}");
            assert!(serde_json::to_string(&metrics).unwrap().len() < before.len(), "step {step}");
        }
        let usage = CpuUsage { total: 3, ..CpuUsage::default() };
        let left = Metrics { cpu: Some(Cpu { usage: Some(usage), throttling: None }), ..Metrics::default() };
        assert_eq!(metrics, left);
        assert!(!metrics.shed());
        assert_eq!(metrics, left);
    }
}
