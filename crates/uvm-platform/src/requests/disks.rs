//! SCSI disks, and what may be said of one.

use std::path::PathBuf;

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
