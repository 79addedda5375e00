//! Memory-backed layers: read-only images that Linux guests read like memory.

use std::path::{Path, PathBuf};

use uvm_platform::requests::{Device, HostFile, LayerFile, LayerPlace, VpmemDevice};
use uvm_wire::modify::{MappedVirtualDisk, Modification, Resource, VpmemDevice as GuestDevice};
use uvm_wire::negotiate::GuestOs;

use super::places::Places;
use super::table::{Fit, Place};
use super::{EntryId, Held, Key, Limits, Plan, ResourceError, Wanted};
use crate::error::UvmError;
use crate::vm::UtilityVm;

/// Layers are mapped in pages of this size.
const PAGE: u64 = 4096;

/// A layer to add, and its size.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) host_path: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) file: LayerFile,
}

pub(super) fn check(limits: &Limits) -> Result<(), ResourceError> {
    if limits.os == GuestOs::Linux {
        return Ok(());
    }
    Err(ResourceError::NotForThisGuest { what: "memory-backed layers", os: "Windows" })
}

pub(super) fn plan(layer: &Layer, places: &Places<EntryId>, limits: &Limits) -> Result<(Plan, Place), ResourceError> {
    let (bytes, max) = (layer.bytes.div_ceil(PAGE).saturating_mul(PAGE), limits.vpmem_size_bytes);
    if bytes > max {
        return Err(ResourceError::LayerTooLarge { bytes, max });
    }
    let count = places.count() as usize;
    let slot = places.free().ok_or(ResourceError::NoAvailableLocation { what: "memory-backed devices", count })?;
    Ok((attached(VpmemDevice { slot, path: layer.host_path.clone(), file: layer.file }), Place::Vpmem(slot)))
}

/// A layer in this place.
pub(super) fn attached_at(path: &Path, slot: u32) -> Plan {
    attached(VpmemDevice::new(slot, path))
}

fn attached(device: VpmemDevice) -> Plan {
    let guest = Resource::VpmemDevice(GuestDevice {
        device_number: device.slot,
        mount_path: mount_path(device.slot),
        ..GuestDevice::default()
    });
    Plan {
        device: Some(Device::Vpmem(device)),
        guest_add: Some(Modification::add(guest.clone())),
        guest_remove: Some(Modification::remove(guest)),
        ..Plan::default()
    }
}

/// Whether a layer that is there is what is asked for: one whose file is closed on removal is good for all.
pub(super) fn fit(layer: &Layer, plan: &Plan) -> Result<Fit, ResourceError> {
    match &plan.device {
        Some(Device::Vpmem(VpmemDevice { file: LayerFile::MayStayOpen, .. })) if layer.file == LayerFile::Closed => {
            let how = "its file may stay open when it is removed, asked for with its file closed then".into();
            Err(ResourceError::AttachedOtherwise { how })
        }
        _ => Ok(Fit::AsIs),
    }
}

/// What the guest is told of a layer that the host has put there.
pub(super) fn placed(told: &Modification, place: LayerPlace) -> Modification {
    let Resource::VpmemDevice(device) = &told.resource else { return told.clone() };
    let resource = match place {
        LayerPlace::Memory { number, pci_path } => {
            Resource::VpmemDevice(GuestDevice { device_number: number, pci_path, ..device.clone() })
        }
        LayerPlace::Disk { slot, .. } => Resource::MappedVirtualDisk(MappedVirtualDisk {
            mount_path: device.mount_path.clone(),
            controller: slot.controller,
            lun: slot.lun,
            read_only: true,
            ..MappedVirtualDisk::default()
        }),
    };
    Modification { request_type: told.request_type.clone(), resource }
}

fn mount_path(slot: u32) -> String {
    format!("/run/layers/p{slot}")
}

/// How a layer came into its guest.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LayerMechanism {
    /// As memory: the guest reads the host's page cache, which all VMs with the same image share. It keeps no copy where its
    /// file system can be read in place: ext4 and erofs with blocks of 4096 bytes, not compressed.
    Memory,
    /// As a read-only disk, because it cannot be mapped, or not any more: the guest keeps copies of what it reads.
    Disk {
        /// Why.
        why: String,
    },
}

/// A memory-backed layer that is attached. Dropping it gives it back in the background; the last one detaches the layer.
/// What cannot be given back then is tried again, as with a [`ScsiMount`](crate::ScsiMount).
#[derive(Debug)]
pub struct VpmemMount {
    held: Held,
    mechanism: LayerMechanism,
}

impl VpmemMount {
    /// Where the guest has mounted it.
    pub fn guest_path(&self) -> Option<String> {
        self.slot().map(mount_path)
    }

    /// Which of the VM's memory-backed devices it is.
    pub fn slot(&self) -> Option<u32> {
        match &self.held.plan.device {
            Some(Device::Vpmem(device)) => Some(device.slot),
            _ => None,
        }
    }

    /// Which way it went: the guest sees the same at the same place, at different costs.
    pub fn mechanism(&self) -> &LayerMechanism {
        &self.mechanism
    }

    /// Gives it back; the last one has the guest unmount and detaches the layer.
    ///
    /// Cancel-safe, as [`ScsiMount::release`](crate::ScsiMount::release).
    ///
    /// On QEMU a layer that came as memory stays mapped while the VM lives, unseen by its guest, and is there at once when
    /// the same image is added again; [`UtilityVm::add_closing_vpmem`] avoids that.
    ///
    /// # Errors
    /// [`UvmError::Resource`]: the guest or the host did not let go; this can be called again.
    pub async fn release(&self) -> Result<(), UvmError> {
        self.held.release().await
    }
}

impl UtilityVm {
    /// Adds a read-only layer as a memory-backed device of a Linux guest, or shares the one that is there. Where there is no
    /// place, or the layer is too large, [`add_scsi`](Self::add_scsi) takes it. Cancel-safe.
    ///
    /// On QEMU an image that cannot be mapped (its name says that it is no raw image or fixed VHD, neither its size nor what
    /// its file system fills fits into whole 2 MiB, QEMU's user may not open it, or all that can be mapped is) is attached
    /// as a read-only disk at the same path of the guest; [`VpmemMount::mechanism`] tells. Nobody may write to the image, or
    /// cut it, while a VM has it or has had it: guests would see that, and a VM whose mapped image is cut ends.
    ///
    /// # Errors
    /// [`UvmError::Resource`]: no place, too large, a file that cannot be looked at, or the host or the guest refused, and
    /// nothing is left. [`UvmError::Refused`], [`UvmError::Exited`].
    pub async fn add_vpmem(&self, host_path: impl Into<PathBuf>) -> Result<VpmemMount, UvmError> {
        self.add_layer(host_path.into(), LayerFile::MayStayOpen).await
    }

    /// As [`add_vpmem`](Self::add_vpmem), but the host has closed the file when the layer is removed, so that it can be
    /// changed or its space be had. On QEMU it is a read-only disk for that, always; on Windows hosts every layer is so.
    ///
    /// # Errors
    /// As [`add_vpmem`](Self::add_vpmem); also if the layer is there as one whose file may stay open.
    pub async fn add_closing_vpmem(&self, host_path: impl Into<PathBuf>) -> Result<VpmemMount, UvmError> {
        self.add_layer(host_path.into(), LayerFile::Closed).await
    }

    async fn add_layer(&self, host_path: PathBuf, file: LayerFile) -> Result<VpmemMount, UvmError> {
        let what = format!("memory-backed layer {}", host_path.display());
        let looked = self.inner.look_at(&host_path).await;
        let bytes = looked.and_then(|file| match file {
            HostFile::File { bytes, .. } => Ok(bytes),
            HostFile::Directory => Err(ResourceError::BadInput {
                what: "layer",
                value: host_path.display().to_string(),
                allowed: "it is a directory; a disk image is needed",
            }),
        });
        let bytes = bytes.map_err(|source| self.inner.resource_error("add", &what, source))?;
        let held = self.attach(what, Wanted::Vpmem(Layer { host_path, bytes, file })).await?;
        let place = match &held.plan.device {
            Some(Device::Vpmem(device)) => self.inner.vm.layer_place(device.slot),
            _ => None,
        };
        let mechanism = match place {
            Some(LayerPlace::Disk { why, .. }) => LayerMechanism::Disk { why },
            Some(LayerPlace::Memory { .. }) | None => LayerMechanism::Memory,
        };
        Ok(VpmemMount { held, mechanism })
    }

    /// Gives one count of the layer back, whoever has it; the last one detaches it.
    ///
    /// # Errors
    /// [`UvmError::Resource`]: not attached, or as [`VpmemMount::release`].
    pub async fn remove_vpmem(&self, host_path: impl AsRef<Path>) -> Result<(), UvmError> {
        let host_path = host_path.as_ref();
        let what = format!("memory-backed layer {}", host_path.display());
        self.detach(what, Key::Vpmem(self.path_key(host_path))).await
    }
}

#[cfg(test)]
mod tests {
    use uvm_platform::requests::ScsiSlot;

    use super::*;

    #[test]
    fn the_guest_is_told_where_the_host_has_put_a_layer() {
        let plan = attached_at(Path::new("image"), 7);
        let (add, remove) = (plan.guest_add.expect("told"), plan.guest_remove.expect("told"));
        let memory = LayerPlace::Memory { number: 3, pci_path: "12.0/03.0".into() };
        let disk = LayerPlace::Disk { slot: ScsiSlot { controller: 4, lun: 7 }, why: "a test".into() };
        let json = |told: &Modification| serde_json::to_string(told).expect("JSON");
        // As to every host that has said nothing.
        assert_eq!(
            json(&add),
            r#"{"RequestType":"Add","ResourceType":"VPMemDevice","Settings":{"DeviceNumber":7,"MountPath":"/run/layers/p7"}}"#
        );
        for (told, verb) in [(&add, "Add"), (&remove, "Remove")] {
            assert_eq!(
                json(&placed(told, memory.clone())),
                format!(
                    r#"{{"RequestType":"{verb}","ResourceType":"VPMemDevice","Settings":{{"DeviceNumber":3,"MountPath":"/run/layers/p7","PciPath":"12.0/03.0"}}}}"#
                )
            );
            assert_eq!(
                json(&placed(told, disk.clone())),
                format!(
                    r#"{{"RequestType":"{verb}","ResourceType":"MappedVirtualDisk","Settings":{{"MountPath":"/run/layers/p7","Lun":7,"Controller":4,"ReadOnly":true}}}}"#
                )
            );
        }
    }

    #[test]
    fn a_layer_whose_file_is_closed_is_good_for_all_and_another_is_not() {
        let layer = |file| Layer { host_path: "image".into(), bytes: 1, file };
        let there = |file| attached(VpmemDevice { file, ..VpmemDevice::new(0, "image") });
        for (wanted, is, fits) in [
            (LayerFile::MayStayOpen, LayerFile::MayStayOpen, true),
            (LayerFile::MayStayOpen, LayerFile::Closed, true),
            (LayerFile::Closed, LayerFile::Closed, true),
            (LayerFile::Closed, LayerFile::MayStayOpen, false),
        ] {
            assert_eq!(fit(&layer(wanted), &there(is)).is_ok(), fits, "{wanted:?} of {is:?}");
        }
    }
}
