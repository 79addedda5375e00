//! What options of Linux and Windows guests have in common, on their way to a host.

use uvm_platform::spec::{self, MemorySpec, MmioGaps, ProcessorSpec};
use uvm_platform::{Platform, UvmId};

use super::{GuestConnection, MemoryBacking, MemoryMib, OptionsError, ProcessorCount};

/// Memory as options have it.
pub(super) struct Memory {
    pub(super) size: MemoryMib,
    pub(super) backing: MemoryBacking,
    pub(super) mmio: MmioGaps,
}

impl Memory {
    pub(super) fn lower(self) -> MemorySpec {
        let backing = match self.backing {
            MemoryBacking::Overcommit => spec::MemoryBacking::Overcommit,
            MemoryBacking::DeferredCommit => spec::MemoryBacking::DeferredCommit,
            MemoryBacking::Physical | MemoryBacking::FullyPhysical => spec::MemoryBacking::Physical,
        };
        MemorySpec { size_mib: self.size.get(), backing, mmio: self.mmio }
    }
}

/// Processors as options have them.
pub(super) struct Processors {
    pub(super) count: ProcessorCount,
    pub(super) limit: u32,
    pub(super) weight: u32,
}

impl Processors {
    pub(super) fn check(&self) -> Result<(), OptionsError> {
        for (what, value, max) in [("processor limit", self.limit, 100_000), ("processor weight", self.weight, 10_000)]
        {
            if value > max {
                return Err(OptionsError::TooLarge { what, value: value.into(), max: max.into() });
            }
        }
        Ok(())
    }

    pub(super) fn lower(self, id: &UvmId, host: &dyn Platform) -> ProcessorSpec {
        let given = |value: u32| (value > 0).then_some(value);
        let count = self.count.on(host.host_processors());
        if let ProcessorCount::Exactly(wanted) = self.count
            && wanted.get() > count
        {
            tracing::warn!(vm = %id, wanted, count, "the host has fewer processors than asked for");
        }
        ProcessorSpec { count, limit: given(self.limit), weight: given(self.weight) }
    }
}

impl GuestConnection {
    /// What the host has to do with it.
    pub(super) fn lower(self) -> spec::GuestConnection {
        match self {
            Self::Library | Self::None => spec::GuestConnection::Owner,
            Self::HostService => spec::GuestConnection::HostService,
        }
    }
}
