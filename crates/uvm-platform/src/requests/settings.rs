//! What every VM has, with its new value: memory, processor time, its CPU group.

/// How much memory a VM has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemorySize {
    /// In MiB, even.
    pub mib: u64,
}

/// How much processor time a VM may use; 0 leaves a value to the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuLimits {
    /// The most, in 1/100,000 of its processors.
    pub limit: u64,
    /// Its share of a busy host.
    pub weight: u64,
    /// The least, in 1/100,000 of its processors.
    pub reservation: u64,
    /// The highest frequency, in MHz.
    pub maximum_frequency_mhz: u32,
}

/// The CPU group a VM is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuGroup {
    /// The group; `None` for none.
    pub id: Option<String>,
}
