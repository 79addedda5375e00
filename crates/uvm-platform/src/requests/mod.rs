//! What can be plugged into a VM, changed or unplugged while it runs: one typed request a thing.

mod channels;
mod devices;
mod disks;
mod host_file;
mod layers;
mod settings;
mod shares;

pub use channels::{HvSocketService, MappedPipe};
pub use devices::{NetworkAdapter, PciAssignment};
pub use disks::{BlockSize, ImageFormat, ScsiAttachment, ScsiKind, ScsiSettings, ScsiSize, ScsiSlot};
pub use host_file::{HostFile, VmAccess};
pub use layers::{LayerFile, LayerPlace, VpmemDevice};
pub use settings::{CpuGroup, CpuLimits, MemorySize};
pub use shares::{Plan9Export, ShareOwners, VirtioFsExport, VsmbExport, VsmbOptions};

use crate::capabilities::Feature;

/// One change of a running VM.
///
/// It is the host's half only: what the guest is told is another's affair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Plug it in.
    Add(Device),
    /// Unplug it.
    Remove(Device),
    /// Take back an [`Add`](Self::Add) that the guest would not have. A host may need to be told more of the device
    /// than for [`Remove`](Self::Remove), because the guest has not seen it.
    UndoAdd(Device),
    /// Change what is there.
    Update(Setting),
}

impl Change {
    /// What a host must be able to do for it.
    pub fn feature(&self) -> Feature {
        match self {
            Self::Add(device) | Self::Remove(device) | Self::UndoAdd(device) => match device {
                Device::Scsi(disk) if disk.settings != ScsiSettings::default() => Feature::DiskSettings,
                Device::Scsi(_) => Feature::ScsiDisks,
                Device::Vpmem(_) => Feature::Vpmem,
                Device::Plan9(_) => Feature::Plan9Shares,
                Device::VirtioFs(_) => Feature::VirtioFsShares,
                Device::Vsmb(_) => Feature::VsmbShares,
                Device::Network(_) => Feature::NetworkAdapters,
                Device::Pci(_) => Feature::PciDevices,
                Device::Pipe(_) => Feature::Pipes,
                Device::HvSocketService(_) => Feature::VirtualSockets,
            },
            Self::Update(setting) => match setting {
                Setting::Memory(_) => Feature::MemoryResize,
                Setting::CpuLimits(_) => Feature::ProcessorLimitChange,
                Setting::CpuGroup(_) => Feature::CpuGroups,
                Setting::VsmbFiles(_) => Feature::VsmbShares,
                Setting::ScsiSize(_) => Feature::DiskResize,
            },
        }
    }
}

/// Something that is plugged into a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// A SCSI disk.
    Scsi(ScsiAttachment),
    /// A memory-backed disk.
    Vpmem(VpmemDevice),
    /// A share of a Linux guest.
    Plan9(Plan9Export),
    /// A share of a Linux guest, as a device.
    VirtioFs(VirtioFsExport),
    /// A share of a Windows guest.
    Vsmb(VsmbExport),
    /// A network adapter.
    Network(NetworkAdapter),
    /// A PCI device of the host.
    Pci(PciAssignment),
    /// A named pipe, or a Unix socket, of the host.
    Pipe(MappedPipe),
    /// A virtual socket service; adding one that is there changes it.
    HvSocketService(HvSocketService),
}

/// Something every VM has, with its new value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setting {
    /// How much memory there is.
    Memory(MemorySize),
    /// How much processor time it may use.
    CpuLimits(CpuLimits),
    /// The CPU group it is in.
    CpuGroup(CpuGroup),
    /// The files that may be seen in a share of single files.
    VsmbFiles(VsmbExport),
    /// How large a SCSI disk is. It never shrinks.
    ScsiSize(ScsiSize),
}
