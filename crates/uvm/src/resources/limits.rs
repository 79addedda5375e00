//! What a VM was created with, as far as it matters to what is plugged in.

use std::path::{Path, PathBuf};

use uvm_platform::spec::RootFs;
use uvm_wire::negotiate::GuestOs;

use crate::options::LcowOptions;

/// What a VM was created with.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) os: GuestOs,
    pub(crate) scsi_controllers: u32,
    /// The guest has to look for a disk that is only attached.
    pub(crate) looks_for_disks: bool,
    /// The guest reaches pipes of the host by itself.
    pub(crate) reaches_pipes: bool,
    /// Where PCI devices are plugged in, by the guest's addresses; `None`: anywhere.
    pub(crate) pci_ports: Option<Vec<String>>,
    pub(crate) vpmem_devices: u32,
    pub(crate) vpmem_size_bytes: u64,
    /// The disk it booted from, which has the first memory-backed device.
    pub(crate) root_disk: Option<PathBuf>,
    /// The disk that a Windows guest writes to, which is at 0:0.
    pub(crate) scratch_disk: Option<PathBuf>,
}

impl Limits {
    /// Those of a VM with a Windows guest, whose scratch disk has the first place of the one controller.
    pub(crate) fn of_windows(scratch: &Path) -> Self {
        Self {
            os: GuestOs::Windows,
            scsi_controllers: 1,
            looks_for_disks: false,
            reaches_pipes: true,
            pci_ports: None,
            vpmem_devices: 0,
            vpmem_size_bytes: 0,
            root_disk: None,
            scratch_disk: Some(scratch.join("sandbox.vhdx")),
        }
    }

    /// Those of a VM with a Linux guest.
    pub(crate) fn of(options: &LcowOptions, root: &RootFs) -> Self {
        let root_disk = match root {
            RootFs::Disk(path) => Some(path.clone()),
            RootFs::Initrd(_) => None,
        };
        Self {
            root_disk,
            scratch_disk: None,
            os: GuestOs::Linux,
            scsi_controllers: options.scsi_controllers,
            looks_for_disks: false,
            reaches_pipes: true,
            pci_ports: None,
            vpmem_devices: options.vpmem_devices,
            vpmem_size_bytes: options.vpmem_size_bytes,
        }
    }
}
