//! Values of options that cannot hold a wrong value.

use std::fmt;

use super::OptionsError;

/// Guest memory, in MiB. Always even: both hosts back it with 2 MiB pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemoryMib(u64);

impl MemoryMib {
    /// What a VM has by default.
    pub const DEFAULT: Self = Self(1024);
    /// The largest even number: a host takes no more than it has, and says so.
    pub const MAX: Self = Self(u64::MAX - 1);

    /// Accepts an even number of MiB from 2 to [`MAX`](Self::MAX).
    ///
    /// # Errors
    /// [`OptionsError::BadMemory`].
    pub fn new(mib: u64) -> Result<Self, OptionsError> {
        if mib == 0 || !mib.is_multiple_of(2) || mib > Self::MAX.0 {
            return Err(OptionsError::BadMemory { mib });
        }
        Ok(Self(mib))
    }

    /// As the original's options take it: 0 is the default, an odd number is rounded up.
    ///
    /// # Errors
    /// [`OptionsError::BadMemory`]: more than [`MAX`](Self::MAX).
    pub fn rounded_up(mib: u64) -> Result<Self, OptionsError> {
        match mib {
            0 => Ok(Self::DEFAULT),
            _ => Self::new(mib.checked_next_multiple_of(2).ok_or(OptionsError::BadMemory { mib })?),
        }
    }

    /// The number of MiB.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl Default for MemoryMib {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl fmt::Display for MemoryMib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0)
    }
}

/// How the host backs guest memory, and the devices that guest memory is shared with.
///
/// The original has three switches for this, of which some settings contradict each other; see
/// [`from_switches`](Self::from_switches).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemoryBacking {
    /// Taken from the host as the guest touches it; may be overcommitted.
    #[default]
    Overcommit,
    /// As `Overcommit`, and committed on first use only.
    DeferredCommit,
    /// Taken from the host before the guest runs.
    Physical,
    /// As `Physical`, devices included.
    FullyPhysical,
}

impl MemoryBacking {
    /// From the original's switches `AllowOvercommit`, `EnableDeferredCommit` and `FullyPhysicallyBacked`.
    ///
    /// # Errors
    /// [`OptionsError::DeferredCommitWithoutOvercommit`], [`OptionsError::FullyPhysicalWithOvercommit`].
    pub fn from_switches(
        allow_overcommit: bool,
        enable_deferred_commit: bool,
        fully_physically_backed: bool,
    ) -> Result<Self, OptionsError> {
        match (allow_overcommit, enable_deferred_commit, fully_physically_backed) {
            (false, true, _) => Err(OptionsError::DeferredCommitWithoutOvercommit),
            (true, _, true) => Err(OptionsError::FullyPhysicalWithOvercommit),
            (true, false, false) => Ok(Self::Overcommit),
            (true, true, false) => Ok(Self::DeferredCommit),
            (false, false, false) => Ok(Self::Physical),
            (false, false, true) => Ok(Self::FullyPhysical),
        }
    }

    /// `true` if memory is taken from the host before the guest runs.
    pub fn is_physical(self) -> bool {
        matches!(self, Self::Physical | Self::FullyPhysical)
    }
}

/// How many processors a VM has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProcessorCount {
    /// 2, or 1 on a host with one.
    #[default]
    HostDefault,
    /// This many, or as many as the host has if that is less.
    Exactly(std::num::NonZeroU32),
}

impl ProcessorCount {
    /// As the original's options take it: 0 is the default.
    ///
    /// # Errors
    /// [`OptionsError::BadProcessorCount`]: a negative number.
    pub fn new(count: i64) -> Result<Self, OptionsError> {
        let bad = || OptionsError::BadProcessorCount { count };
        let count = u32::try_from(count).map_err(|_| bad())?;
        Ok(std::num::NonZeroU32::new(count).map_or(Self::HostDefault, Self::Exactly))
    }

    /// The number on a host that has `host` processors.
    pub fn on(self, host: u32) -> u32 {
        let wanted = match self {
            Self::HostDefault => 2,
            Self::Exactly(count) => count.get(),
        };
        wanted.min(host).max(1)
    }
}

/// Who holds the connection to the guest's agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GuestConnection {
    /// This library, in this process.
    #[default]
    Library,
    /// The host's service (Host Compute Service only). What the guest is asked goes by way of it; for what it has no call
    /// for, as the VM's shutdown or the deletion of a container's state, there is
    /// [`UvmError::GuestUnsupported`](crate::UvmError::GuestUnsupported).
    HostService,
    /// Nobody: the VM runs, and only its output is read.
    None,
}

/// What the guest boots into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootFsType {
    /// An initramfs.
    Initrd,
    /// A disk image, attached as persistent memory.
    Vhd,
}

/// How the kernel comes to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KernelBoot {
    /// As the host does it best: directly where it can.
    #[default]
    HostDefault,
    /// Directly, without firmware.
    Direct,
    /// By UEFI firmware.
    Uefi,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_even_and_bounded() {
        for (mib, ok) in [(0, false), (1, false), (2, true), (3, false), (u64::MAX - 1, true), (u64::MAX, false)] {
            assert_eq!(MemoryMib::new(mib).is_ok(), ok, "{mib}");
        }
        let error = MemoryMib::new(7).expect_err("odd").to_string();
        assert_eq!(error, "memory of 7 MiB: an even number from 2 to 18446744073709551614 is allowed");
    }

    #[test]
    fn d17_memory_rounding_neither_overflows_nor_passes_zero_through() {
        assert_eq!(MemoryMib::rounded_up(0), Ok(MemoryMib::DEFAULT));
        assert_eq!(MemoryMib::rounded_up(1023), MemoryMib::new(1024));
        assert_eq!(MemoryMib::rounded_up(u64::MAX), Err(OptionsError::BadMemory { mib: u64::MAX }));
        assert_eq!(MemoryMib::rounded_up(u64::MAX - 2), Ok(MemoryMib::MAX));
    }

    #[test]
    fn d16_no_processors_is_the_default_and_a_negative_number_is_refused() {
        assert_eq!(ProcessorCount::new(0).map(|count| count.on(8)), Ok(2));
        assert_eq!(ProcessorCount::new(0).map(|count| count.on(1)), Ok(1));
        assert_eq!(ProcessorCount::new(5).map(|count| count.on(4)), Ok(4));
        assert_eq!(ProcessorCount::new(5).map(|count| count.on(0)), Ok(1));
        assert_eq!(ProcessorCount::new(-3), Err(OptionsError::BadProcessorCount { count: -3 }));
    }

    #[test]
    fn d19_contradicting_switches_are_refused() {
        let from = MemoryBacking::from_switches;
        assert_eq!(from(true, false, false), Ok(MemoryBacking::Overcommit));
        assert_eq!(from(false, false, true), Ok(MemoryBacking::FullyPhysical));
        assert_eq!(from(true, false, true), Err(OptionsError::FullyPhysicalWithOvercommit));
        assert_eq!(from(true, true, true), Err(OptionsError::FullyPhysicalWithOvercommit));
        let error = from(false, true, false).expect_err("contradiction");
        assert_eq!(error.to_string(), "EnableDeferredCommit is not supported on physically backed VMs");
    }
}
