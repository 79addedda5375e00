//! Layers: read-only images that a guest has as memory, plugged into the running VM.
//!
//! ```text
//!   an image ---map (QMP)---> used(slot) <---the same image again, no QMP---+
//!                                 |                                         |
//!                                 +------------remove---------------> parked, until QEMU ends
//! ```
//!
//! QEMU 7.2 unplugs no such device. So one that is removed is parked under its image: the guest has let go of it, the mapping
//! costs address space and keeps the file's inode, and the pages are the host's page cache. When all places are used or
//! parked, and where an image cannot be mapped, a layer is a read-only SCSI disk, at a controller beyond those that callers
//! have.

mod image;
mod places;

use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use uvm_platform::PlatformError;
use uvm_platform::requests::{LayerFile, LayerPlace, ScsiAttachment, ScsiKind, ScsiSettings, ScsiSlot, VpmemDevice};
use uvm_platform::spec::VmSpec;

use self::image::LayerImage;
use self::places::{At, Table, Target, Use, Way, bridge};
pub(crate) use self::places::{LIMITS, Room};
use crate::qmp::CallError;
use crate::vm::Vm;

/// The first controller that no caller's disk is at.
const CONTROLLER: u8 = 4;
/// Disks of one controller.
const LUNS: u32 = 64;
/// Sets of descriptors for layers are numbered from here on; those of disks never come so far.
const SETS: usize = 1 << 24;

/// The layers that QEMU has.
pub(crate) struct Layers {
    /// One is mapped at a time, so that the guest counts devices in the order they are counted in here.
    turn: tokio::sync::Mutex<()>,
    table: Mutex<Table>,
}

impl Layers {
    pub(crate) fn new(spec: &VmSpec, has_root_disk: bool) -> Self {
        Self { turn: tokio::sync::Mutex::default(), table: Mutex::new(Table::new(spec, has_root_disk)) }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why an image was not mapped.
enum Unmapped {
    /// QEMU would not have it, and has nothing of it.
    Refused(String),
    /// It is not known what QEMU has of it.
    Failed(PlatformError),
}

impl Vm {
    /// Plugs a layer in. If that fails, nothing is left in its slot.
    pub(crate) async fn add_layer(&self, layer: &VpmemDevice) -> Result<(), PlatformError> {
        let path = layer.path.clone();
        let intent = format!("open layer {}", path.display());
        let image = self.blocking_step(intent, move || image::open(&path)).await?;
        if self.layers.lock().slots.contains_key(&layer.slot) {
            let intent = format!("attach {}", layer.path.display());
            return Err(PlatformError::host(intent, format!("memory-backed device {} has a layer", layer.slot)));
        }
        let why = match self.map_layer(layer, &image).await {
            Ok(()) => return Ok(()),
            Err(Unmapped::Refused(why)) => why,
            Err(Unmapped::Failed(error)) => return Err(error),
        };
        tracing::debug!(vm = %self.id, layer = %layer.path.display(), why, "a layer is attached as a disk");
        self.add_layer_disk(layer, why).await
    }

    async fn map_layer(&self, layer: &VpmemDevice, image: &LayerImage) -> Result<(), Unmapped> {
        if layer.file == LayerFile::Closed {
            return Err(Unmapped::Refused("its file is to be closed when it is removed".into()));
        }
        let bytes = image.mapped.clone().map_err(Unmapped::Refused)?;
        let turn = self.step("an earlier layer to be mapped", self.layers.turn.lock()).await;
        let _turn = turn.map_err(Unmapped::Failed)?;
        let target = self.layers.lock().target(&image.identity).map_err(Unmapped::Refused)?;
        let place = match target {
            Target::Parked(place) => place,
            Target::Free(place) => {
                let mapped = self.plug_layer(At::of(place), image, bytes).await;
                if matches!(mapped, Err(Unmapped::Failed(_))) {
                    // Its names are not used again.
                    self.layers.lock().enter(layer.slot, image.identity, place, Use::Lost);
                }
                mapped?;
                place
            }
        };
        self.layers.lock().enter(layer.slot, image.identity, place, Use::Slot(layer.slot));
        Ok(())
    }

    /// QEMU opens `/proc/self/fd/N` again: the file's mode bits have to let its user.
    async fn plug_layer(&self, at: At, image: &LayerImage, bytes: u64) -> Result<(), Unmapped> {
        let set = SETS + at.number as usize;
        let added = self.call_with("add-fd", json!({ "fdset-id": set }), Some(image.file.as_fd())).await;
        let fd = added.map_err(Unmapped::Failed)?.get("fd").and_then(Value::as_u64).unwrap_or_default();
        let memory = json!({
            "qom-type": "memory-backend-file",
            "id": at.memory(),
            "size": bytes,
            "share": true,
            "readonly": true,
            "mem-path": format!("/proc/self/fd/{fd}"),
        });
        let made = self.layer_call("object-add", memory).await;
        // It has its own; and if it has none, nobody needs this one.
        if let Err(failed @ Unmapped::Failed(_)) = self.layer_call("remove-fd", json!({ "fdset-id": set })).await {
            return Err(failed);
        }
        made?;
        let device = json!({
            "driver": "virtio-pmem-pci",
            "id": at.device(),
            "memdev": at.memory(),
            "bus": bridge(at.bridge()),
            "addr": format!("{:#x}", at.slot()),
        });
        let Err(refused) = self.layer_call("device_add", device).await else { return Ok(()) };
        if matches!(refused, Unmapped::Refused(_)) {
            let removed = self.call("object-del", json!({ "id": at.memory() })).await;
            removed.map_err(Unmapped::Failed)?;
        }
        Err(refused)
    }

    async fn layer_call(&self, command: &'static str, arguments: Value) -> Result<(), Unmapped> {
        match self.qmp.call(command, arguments).await {
            Ok(_) => Ok(()),
            Err(CallError::Refused(e)) => Err(Unmapped::Refused(format!("QEMU: {}", e.desc))),
            Err(e) => Err(Unmapped::Failed(self.call_error(command, e).await)),
        }
    }

    async fn add_layer_disk(&self, layer: &VpmemDevice, why: String) -> Result<(), PlatformError> {
        if !self.layers.lock().has_adapter {
            let intent = format!("mapping {}", layer.path.display());
            let why = format!("{why}; and the VM has no SCSI controller, to have it as a disk");
            return Err(PlatformError::NotAllowed { intent, why });
        }
        let disk = disk_of(layer);
        // What goes unanswered is taken out again by its slot.
        let way = Way::Disk { slot: disk.slot, why };
        self.layers.lock().slots.insert(layer.slot, way);
        let added = self.add_disk(&disk).await;
        if matches!(
            added,
            Err(PlatformError::Host { .. } | PlatformError::NotAllowed { .. } | PlatformError::BadInput { .. })
        ) {
            self.layers.lock().slots.remove(&layer.slot);
        }
        added
    }

    /// Unplugs the layer in a slot, as far as QEMU does: a mapped one is parked, a disk is gone and its file closed. A slot
    /// without a layer is one that is free. After a failure it can be called again, and goes on.
    pub(crate) async fn remove_layer(&self, slot: u32) -> Result<(), PlatformError> {
        let way = self.layers.lock().slots.get(&slot).cloned();
        if let Some(Way::Disk { slot, .. }) = way {
            self.remove_disk(slot).await?;
        }
        let mut table = self.layers.lock();
        if let Some(Way::Mapped(place)) = table.slots.remove(&slot)
            && let Some(mapping) = table.mappings.get_mut(place)
        {
            mapping.use_of_it = Use::Parked;
        }
        Ok(())
    }

    /// Where the guest finds the layer in a slot.
    pub(crate) fn layer_place(&self, slot: u32) -> Option<LayerPlace> {
        self.layers.lock().place_of(slot)
    }
}

/// The disk that a layer is where it is not mapped.
fn disk_of(layer: &VpmemDevice) -> ScsiAttachment {
    // There are at most 128 slots.
    let byte = |number: u32| u8::try_from(number).unwrap_or(u8::MAX);
    let slot =
        ScsiSlot { controller: CONTROLLER.saturating_add(byte(layer.slot / LUNS)), lun: byte(layer.slot % LUNS) };
    let settings = ScsiSettings::default();
    ScsiAttachment { slot, path: layer.path.clone(), kind: ScsiKind::VirtualDisk, read_only: true, settings }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_of_layers_are_where_no_caller_s_are() {
        let slot = |slot| disk_of(&VpmemDevice::new(slot, "image")).slot;
        assert_eq!(slot(0), ScsiSlot { controller: 4, lun: 0 });
        assert_eq!(slot(63), ScsiSlot { controller: 4, lun: 63 });
        assert_eq!(slot(127), ScsiSlot { controller: 5, lun: 63 });
    }
}
