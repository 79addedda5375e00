//! SCSI disks that become larger while they are attached.

use uvm_platform::requests::{Change, Device, ScsiSize, Setting};
use uvm_wire::modify::{DiskSize, MappedVirtualDisk, Modification, Resource};
use uvm_wire::negotiate::GuestOs;

use super::{Key, Limits, Plan, ResourceError, ScsiMount, Step, Wanted};
use crate::error::UvmError;

/// What becomes larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grow {
    /// The disk alone.
    Disk,
    /// The file system that is mounted of it, too: ext4 and XFS can.
    FileSystem,
}

/// A new size for the disk with this key.
#[derive(Clone, Debug)]
pub(crate) struct Resize {
    pub(crate) disk: Key,
    bytes: u64,
    grow: Grow,
}

/// The host, then the guest. What the host has done is not undone: the guest may have seen it already.
pub(super) fn step(resize: &Resize, plan: &Plan, limits: &Limits) -> Result<Step, ResourceError> {
    let Some(Device::Scsi(disk)) = &plan.device else { return Err(ResourceError::NotAttached) };
    let bad =
        |allowed| Err(ResourceError::BadInput { what: "size in bytes", value: resize.bytes.to_string(), allowed });
    if limits.os == GuestOs::Windows {
        return Err(ResourceError::NotForThisGuest { what: "new sizes of disks", os: "Windows" });
    }
    if disk.read_only {
        return bad("a disk that is attached read-only keeps its size");
    }
    let block = disk.settings.block_size.map_or(512, |size| u64::from(size.bytes()));
    if resize.bytes == 0 || !resize.bytes.is_multiple_of(block) {
        return bad("a multiple of the disk's block size, above 0, is allowed");
    }
    let grow = match (resize.grow, plan.guest_add.as_ref().map(|add| &add.resource)) {
        (Grow::Disk, _) => String::new(),
        (Grow::FileSystem, Some(Resource::MappedVirtualDisk(MappedVirtualDisk { partition: 1.., .. }))) => {
            return bad("the file system of a partition does not grow with the disk: the partition does not");
        }
        (Grow::FileSystem, Some(Resource::MappedVirtualDisk(disk)))
            if !disk.mount_path.is_empty() && !disk.block_dev =>
        {
            disk.mount_path.clone()
        }
        (Grow::FileSystem, _) => return bad("no file system of the disk is mounted that could grow with it"),
    };
    let (slot, bytes) = (disk.slot, resize.bytes);
    let size = DiskSize { controller: slot.controller, lun: slot.lun, bytes, grow };
    Ok(Step {
        to: plan.clone(),
        host: Some((Change::Update(Setting::ScsiSize(ScsiSize { slot, bytes })), None)),
        guest: Some(Modification::update(Resource::DiskSize(size))),
    })
}

impl ScsiMount {
    /// Makes the disk `bytes` large, for all who have it; returns once the guest has seen that, and its file system has grown
    /// where that is asked for. It does not shrink. On QEMU, for raw and qcow2 images; a block device is as large as it is on
    /// the host by now, and has to be given that size.
    ///
    /// Cancel-safe: it goes on.
    ///
    /// # Errors
    /// [`UvmError::Resource`]: the host refused, and nothing was changed; or the guest did, or did not answer: then the disk is
    /// as large as it was asked for, and this can be called again.
    pub async fn resize(&self, bytes: u64, grow: Grow) -> Result<(), UvmError> {
        let disk = self.held.count.part.clone();
        self.held.change("resize", Wanted::Resize(Resize { disk, bytes, grow })).await
    }
}
