//! Read-only layers of a Linux guest, and where it finds them.

use std::path::PathBuf;

use super::ScsiSlot;

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
