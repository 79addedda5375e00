//! What can be plugged into a VM, changed or unplugged while it runs: one typed request a thing.

use std::path::{Path, PathBuf};

use crate::capabilities::Feature;
use crate::error::PlatformError;
use crate::hvsocket::{HvSocketServiceConfig, HvSocketServiceId};
use crate::stream::Port;

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

/// Where a SCSI disk sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScsiSlot {
    /// The controller, from 0.
    pub controller: u8,
    /// The logical unit there, 0 to 63.
    pub lun: u8,
}

/// A SCSI disk and where it sits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScsiAttachment {
    /// Where.
    pub slot: ScsiSlot,
    /// The image, or the host's disk.
    pub path: PathBuf,
    /// Which of them it is.
    pub kind: ScsiKind,
    /// The guest cannot write.
    pub read_only: bool,
    /// What else is said of it.
    pub settings: ScsiSettings,
}

/// What may be said of a SCSI disk, and is as image and host have it where it is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScsiSettings {
    /// How the image keeps the disk's bytes. `None`: as its name says.
    pub format: Option<ImageFormat>,
    /// The serial number that the guest reads: 1 to 36 printable ASCII characters without spaces. `None`: it has none.
    pub serial: Option<String>,
    /// The least that the guest reads or writes. `None`: 512 bytes.
    pub block_size: Option<BlockSize>,
}

/// How an image keeps a disk's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ImageFormat {
    /// As they are.
    Raw,
    /// A VHD, fixed or dynamic.
    Vhd,
    /// A VHDX.
    Vhdx,
    /// A qcow2.
    Qcow2,
}

/// A disk's logical block, and its physical one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockSize {
    /// 512 bytes.
    Bytes512,
    /// 4096 bytes. What is behind the last whole block of an image is not seen.
    Bytes4096,
}

impl BlockSize {
    /// In bytes.
    pub fn bytes(self) -> u32 {
        match self {
            Self::Bytes512 => 512,
            Self::Bytes4096 => 4096,
        }
    }
}

/// The size of the SCSI disk at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScsiSize {
    /// Where the disk is.
    pub slot: ScsiSlot,
    /// Its size, not less than before.
    pub bytes: u64,
}

/// What a SCSI disk is on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScsiKind {
    /// A disk image.
    VirtualDisk,
    /// A physical disk.
    PassThrough,
}

/// A read-only disk image that the guest reads like memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VpmemDevice {
    /// Which of the VM's memory-backed devices.
    pub slot: u32,
    /// The image.
    pub path: PathBuf,
    /// What becomes of the file when the layer is removed.
    pub file: LayerFile,
}

impl VpmemDevice {
    /// An image whose file may stay open.
    pub fn new(slot: u32, path: impl Into<PathBuf>) -> Self {
        Self { slot, path: path.into(), file: LayerFile::default() }
    }
}

/// What becomes of a layer's file once the layer is removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LayerFile {
    /// The host may keep it open for as long as the VM lives, and has the layer back at once when it is added again.
    #[default]
    MayStayOpen,
    /// The host closes it before the removal ends.
    Closed,
}

/// Where a Linux guest finds a memory-backed layer, on hosts that do not keep them in the order of their slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LayerPlace {
    /// It is a memory-backed device.
    Memory {
        /// How many of them came before it, since the VM was created: `/dev/pmem<number>`, where the guest keeps all.
        number: u32,
        /// Slot and function on each PCI bus from the root on, in hexadecimal: `12.0/03.0`. It tells the device apart from
        /// all others whatever numbers the guest gives them.
        pci_path: String,
    },
    /// It is a read-only SCSI disk.
    Disk {
        /// Where.
        slot: ScsiSlot,
        /// Why it is not a memory-backed device.
        why: String,
    },
}

/// A directory served by 9P.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan9Export {
    /// What the guest calls it.
    pub name: String,
    /// The directory.
    pub path: PathBuf,
    /// Where it is served.
    pub port: Port,
    /// The guest cannot write.
    pub read_only: bool,
    /// The only names beneath the directory that the guest sees; `None` for all.
    pub allowed_files: Option<Vec<String>>,
}

/// A directory served as a virtio-fs device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtioFsExport {
    /// What the guest finds it by: at most 36 bytes, another one for each of a VM.
    pub tag: String,
    /// The directory.
    pub path: PathBuf,
    /// The guest cannot write.
    pub read_only: bool,
    /// Whose the files are.
    pub owners: ShareOwners,
}

/// Whose the files of a share are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ShareOwners {
    /// To the guest, all are the directory's owner's, and they are made as that user's.
    #[default]
    Directory,
    /// The numbers of users and groups are the same in the guest and on the host; the guest's root is root of the files.
    /// Only for an owner of VMs who is root.
    Passthrough,
}

/// A directory, or some files of one, shared with a Windows guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VsmbExport {
    /// What the guest calls it.
    pub name: String,
    /// The directory.
    pub path: PathBuf,
    /// How it is shared.
    pub options: VsmbOptions,
    /// The only files that the guest sees, by their full paths; empty for all. For a share of single files only.
    pub allowed_files: Vec<PathBuf>,
}

/// How a directory is shared with a Windows guest. The names are the host's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches of the host's service, named as there")]
pub struct VsmbOptions {
    /// The guest cannot write.
    pub read_only: bool,
    /// Others may read what is open.
    pub share_read: bool,
    /// Cache what is read.
    pub cache_io: bool,
    /// Never cache.
    pub non_cache_io: bool,
    /// No opportunistic locks.
    pub no_oplocks: bool,
    /// Open with backup privilege.
    pub take_backup_privilege: bool,
    /// Act as the owner of the share's root.
    pub use_share_root_identity: bool,
    /// Never map files directly into the guest's memory.
    pub no_direct_map: bool,
    /// No byte range locks.
    pub no_locks: bool,
    /// No notifications of changes.
    pub no_dir_notify: bool,
    /// Share memory with the VM.
    pub vm_shared_memory: bool,
    /// Only the files that are allowed.
    pub restrict_file_access: bool,
    /// Level II locks only.
    pub force_level_ii_oplocks: bool,
    /// The share's root is a reparse point to a base layer.
    pub reparse_base_layer: bool,
    /// Pretend to have opportunistic locks.
    pub pseudo_oplocks: bool,
    /// Pretend to notify of changes.
    pub pseudo_dir_notify: bool,
    /// A share of single files.
    pub single_file_mapping: bool,
}

/// A network adapter and the endpoint of the host's network it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkAdapter {
    /// The adapter's GUID, as text without braces.
    pub adapter_id: String,
    /// The endpoint's id.
    pub endpoint_id: String,
    /// Its MAC address, as the host's network service writes it; empty if it has none.
    pub mac_address: String,
}

/// A PCI device of the host, given to the VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciAssignment {
    /// The GUID of the channel it appears on in the guest, as text without braces.
    pub channel: String,
    /// The device's instance path on the host; on Linux its PCI address.
    pub device: String,
    /// Which virtual function of it; 0 for the device itself.
    pub virtual_function: u16,
    /// Which of the VM's [ports](crate::PlatformVm::pci_ports) it is plugged into; `None` on hosts that have none.
    pub port: Option<u32>,
}

/// A named pipe of the host, or on Linux a Unix socket, to be reached from the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedPipe {
    /// The pipe, or the socket.
    pub path: PathBuf,
    /// Where the guest's agent dials for each connection, on a host whose
    /// [guests do not reach pipes by themselves](crate::PlatformVm::guest_reaches_pipes); `None` on others.
    pub port: Option<Port>,
}

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

/// A virtual socket service of the VM: who may use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HvSocketService {
    /// The service.
    pub id: HvSocketServiceId,
    /// Who may use it.
    pub config: HvSocketServiceConfig,
}

/// Whom the host opens a file to, before a VM is given it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VmAccess {
    /// Nobody: the caller sees to it.
    #[default]
    Noop,
    /// Every VM. It is never taken back.
    Group,
    /// This VM.
    Individual,
}

/// What is at a path of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostFile {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Its size in bytes.
        bytes: u64,
        /// The directory it is in, spelt as the host wants it.
        directory: PathBuf,
        /// Its name there.
        name: String,
    },
}

impl HostFile {
    /// What is at a path of this machine; a link counts as what it leads to, with the name that has there. Blocking, for a
    /// moment.
    ///
    /// # Errors
    /// As [`PlatformVm::look_at`](crate::PlatformVm::look_at).
    pub fn at(path: &Path) -> Result<Self, PlatformError> {
        let bad = |why: String| PlatformError::BadInput { what: "file", value: path.display().to_string(), why };
        let meta = path.metadata().map_err(|e| bad(e.to_string()))?;
        if meta.is_dir() {
            return Ok(Self::Directory);
        }
        if !meta.is_file() {
            return Err(bad("it is neither a directory nor a regular file".into()));
        }
        let target;
        let is_link = path.symlink_metadata().is_ok_and(|meta| meta.is_symlink());
        let path = if is_link {
            target = path.canonicalize().map_err(|e| bad(e.to_string()))?;
            target.as_path()
        } else {
            path
        };
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| bad("its name is not Unicode".into()))?.to_owned();
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok(Self::File { bytes: meta.len(), directory: directory.to_owned(), name })
    }
}
