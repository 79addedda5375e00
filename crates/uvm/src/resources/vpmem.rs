//! Memory-backed layers: read-only images that Linux guests read like memory.

use std::path::{Path, PathBuf};

use uvm_platform::requests::{Device, HostFile, VpmemDevice};
use uvm_wire::modify::{Modification, Resource, VpmemDevice as GuestDevice};
use uvm_wire::negotiate::GuestOs;

use super::places::Places;
use super::table::Place;
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
    Ok((attached_at(&layer.host_path, slot), Place::Vpmem(slot)))
}

/// A layer in this place.
pub(super) fn attached_at(path: &Path, slot: u32) -> Plan {
    let guest = Resource::VpmemDevice(GuestDevice {
        device_number: slot,
        mount_path: mount_path(slot),
        ..GuestDevice::default()
    });
    Plan {
        device: Some(Device::Vpmem(VpmemDevice { slot, path: path.to_owned() })),
        guest_add: Some(Modification::add(guest.clone())),
        guest_remove: Some(Modification::remove(guest)),
        ..Plan::default()
    }
}

fn mount_path(slot: u32) -> String {
    format!("/run/layers/p{slot}")
}

/// A memory-backed layer that is attached. Dropping it gives it back in the background; the last one detaches the layer.
#[derive(Debug)]
pub struct VpmemMount {
    held: Held,
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

    /// Gives it back; the last one has the guest unmount and detaches the layer. Cancel-safe: it goes on.
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
    /// # Errors
    /// [`UvmError::Resource`]: no place, too large, a file that cannot be looked at, or the host or the guest refused, and
    /// nothing is left. [`UvmError::Refused`], [`UvmError::Exited`].
    pub async fn add_vpmem(&self, host_path: impl Into<PathBuf>) -> Result<VpmemMount, UvmError> {
        let host_path = host_path.into();
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
        Ok(VpmemMount { held: self.attach(what, Wanted::Vpmem(Layer { host_path, bytes })).await? })
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
