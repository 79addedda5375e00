//! What a host can do: asked first, never probed by provoking errors.

use std::collections::BTreeMap;
use std::fmt;

use crate::error::PlatformError;

/// Something a host may or may not be able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Feature {
    /// Linux guests.
    LinuxGuests,
    /// Windows guests.
    WindowsGuests,
    /// Stop a VM's processors and let them go on.
    PauseResume,
    /// A limit on the processor time of the whole VM.
    ProcessorLimit,
    /// The VM's share of a busy host's processors.
    ProcessorWeight,
    /// Memory that is taken from the host when the VM is created.
    PhysicallyBackedMemory,
    /// Memory committed on first use.
    DeferredCommit,
    /// Limits on disk traffic.
    StorageQos,
    /// CPU groups.
    CpuGroups,
    /// A graphics console.
    GraphicsConsole,
    /// A root file system on a disk instead of an initramfs.
    RootFromDisk,
    /// Boot by UEFI firmware.
    UefiBoot,
    /// Boot of a kernel without firmware.
    DirectKernelBoot,
    /// Shares of single files of a directory.
    SingleFileShares,
    /// Cold discard hints for guest memory.
    ColdDiscardHint,
    /// Control of the address space holes for devices.
    MmioGaps,
    /// Additional JSON merged into the host's creation document.
    AdditionalDocument,
    /// A guest connection that the host's service owns.
    HostOwnedGuestConnection,
    /// Virtual sockets (vsock) for programs in the guest.
    VirtualSockets,
    /// SCSI disks added to a running VM.
    ScsiDisks,
    /// Formats, serial numbers and block sizes of SCSI disks said apart from the image.
    DiskSettings,
    /// A running VM's SCSI disks made larger.
    DiskResize,
    /// Memory-backed layers added to a running VM.
    Vpmem,
    /// 9P shares.
    Plan9Shares,
    /// Shares that are virtio-fs devices.
    VirtioFsShares,
    /// Shares of Windows guests.
    VsmbShares,
    /// Named pipes, or on Linux Unix sockets, of the host.
    Pipes,
    /// Network adapters added to a running VM.
    NetworkAdapters,
    /// PCI devices of the host given to a VM.
    PciDevices,
    /// A running VM's memory made larger or smaller.
    MemoryResize,
    /// A running VM's processor limits changed.
    ProcessorLimitChange,
    /// The original's guest agent instead of ours.
    OriginalAgent,
    /// A whole VM killed at once and its helpers with it (a control group, a job object).
    KillAsOne,
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LinuxGuests => "Linux guests",
            Self::WindowsGuests => "Windows guests",
            Self::PauseResume => "pause and resume",
            Self::ProcessorLimit => "a processor limit",
            Self::ProcessorWeight => "a processor weight",
            Self::PhysicallyBackedMemory => "physically backed memory",
            Self::DeferredCommit => "deferred commit of memory",
            Self::StorageQos => "storage quality of service",
            Self::CpuGroups => "CPU groups",
            Self::GraphicsConsole => "a graphics console",
            Self::RootFromDisk => "a root file system on a disk",
            Self::UefiBoot => "boot by UEFI firmware",
            Self::DirectKernelBoot => "direct boot of a kernel",
            Self::SingleFileShares => "shares of single files",
            Self::ColdDiscardHint => "cold discard hints",
            Self::MmioGaps => "MMIO gaps",
            Self::AdditionalDocument => "an additional creation document",
            Self::HostOwnedGuestConnection => "a guest connection owned by the host's service",
            Self::VirtualSockets => "virtual sockets",
            Self::ScsiDisks => "adding SCSI disks",
            Self::DiskSettings => "formats, serial numbers and block sizes of disks",
            Self::DiskResize => "resizing disks",
            Self::Vpmem => "adding memory-backed layers",
            Self::Plan9Shares => "9P shares",
            Self::VirtioFsShares => "virtio-fs shares",
            Self::VsmbShares => "VSMB shares",
            Self::Pipes => "pipes and sockets of the host",
            Self::NetworkAdapters => "adding network adapters",
            Self::PciDevices => "assigning PCI devices",
            Self::MemoryResize => "changing memory",
            Self::ProcessorLimitChange => "changing processor limits",
            Self::OriginalAgent => "the original's guest agent",
            Self::KillAsOne => "killing a VM as one",
        })
    }
}

/// Whether a cgroup controller can be used for a VM, and through which hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CgroupSupport {
    /// A writable version 2 hierarchy has it.
    V2,
    /// A writable version 1 hierarchy has it.
    V1,
    /// It cannot be used, for this reason.
    Missing(String),
}

/// What one host can do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// The host's name in messages: `qemu`, `hcs`, `fake`.
    pub platform: &'static str,
    /// What is missing, each with the reason. A feature that is not listed here is there.
    pub missing: BTreeMap<Feature, String>,
    /// The control group controllers this host wants, by name, and how each can be used. Empty off Linux.
    pub cgroups: BTreeMap<&'static str, CgroupSupport>,
    /// What memory-backed layers can be; `None` where the host sets no limits but those that a VM is created with.
    pub vpmem: Option<VpmemLimits>,
}

/// What memory-backed layers of one VM can be, as memory. What cannot be is a read-only disk instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VpmemLimits {
    /// The most that a VM can have, removed ones included whose files are kept open.
    pub devices: u32,
    /// The size of each, in bytes, is a multiple of this.
    pub multiple_of: u64,
    /// The most for all of a VM together, in bytes.
    pub bytes: u64,
}

impl Capabilities {
    /// A host called `platform` that can do everything.
    pub fn all(platform: &'static str) -> Self {
        Self { platform, missing: BTreeMap::new(), cgroups: BTreeMap::new(), vpmem: None }
    }

    /// The same host without `feature`, because of `why`.
    #[must_use]
    pub fn without(mut self, feature: Feature, why: impl Into<String>) -> Self {
        self.missing.insert(feature, why.into());
        self
    }

    /// `true` if the host can do it.
    pub fn has(&self, feature: Feature) -> bool {
        !self.missing.contains_key(&feature)
    }

    /// Passes if the host can do it.
    ///
    /// # Errors
    /// [`PlatformError::Unsupported`], with the reason.
    pub fn require(&self, feature: Feature) -> Result<(), PlatformError> {
        match self.missing.get(&feature) {
            None => Ok(()),
            Some(why) => Err(PlatformError::Unsupported { feature, platform: self.platform, why: why.clone() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_says_why() {
        let caps = Capabilities::all("fake").without(Feature::WindowsGuests, "this is a test");
        assert!(caps.has(Feature::LinuxGuests) && caps.require(Feature::LinuxGuests).is_ok());
        let error = caps.require(Feature::WindowsGuests).expect_err("it was taken away");
        assert_eq!(error.to_string(), "Windows guests: not supported on fake: this is a test");
    }
}
