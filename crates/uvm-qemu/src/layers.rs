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

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use uvm_platform::requests::{LayerFile, LayerPlace, ScsiAttachment, ScsiKind, ScsiSettings, ScsiSlot, VpmemDevice};
use uvm_platform::spec::VmSpec;
use uvm_platform::{PlatformError, VpmemLimits};

use crate::layer_image::{self, Identity, LayerImage};
use crate::qmp::CallError;
use crate::root_disk::ALIGNMENT;
use crate::vm::Vm;

/// The most places of one VM, as the original has.
const MOST: u32 = 128;
/// Places on one bridge.
const BRIDGE_SLOTS: u32 = 32;
/// The slot of the first bridge for layers on the root bus; the others follow.
const FIRST_BRIDGE: u32 = 0x12;
/// Address space that is kept for layers at most: far less than what processors of 39 bits have, so that QEMU starts on all.
const MOST_BYTES: u64 = 128 << 30;
/// The first controller that no caller's disk is at.
const CONTROLLER: u8 = 4;
/// Disks of one controller.
const LUNS: u32 = 64;
/// Sets of descriptors for layers are numbered from here on; those of disks never come so far.
const SETS: usize = 1 << 24;

/// What every VM on this host can have.
pub(crate) const LIMITS: VpmemLimits = VpmemLimits { devices: MOST, multiple_of: ALIGNMENT, bytes: MOST_BYTES };

/// What QEMU is started with, so that layers can be plugged in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Room {
    /// Bridges with places for them.
    pub(crate) bridges: u32,
    /// Address space.
    pub(crate) mib: u64,
}

impl Room {
    /// What a VM needs that may have so many layers.
    pub(crate) fn of(spec: &VmSpec) -> Self {
        let count = spec.vpmem.count.min(MOST);
        let each = spec.vpmem.size_bytes.div_ceil(ALIGNMENT).saturating_mul(ALIGNMENT);
        let bytes = each.saturating_mul(count.into()).min(MOST_BYTES);
        Self { bridges: count.div_ceil(BRIDGE_SLOTS), mib: bytes >> 20 }
    }

    /// The name of a bridge, and its slot on the root bus.
    pub(crate) fn bridges(self) -> impl Iterator<Item = (String, u32)> {
        (0..self.bridges).map(|index| (bridge(index), FIRST_BRIDGE + index))
    }
}

fn bridge(index: u32) -> String {
    format!("layers{index}")
}

/// The layers that QEMU has.
pub(crate) struct Layers {
    /// One is mapped at a time, so that the guest counts devices in the order they are counted in here.
    turn: tokio::sync::Mutex<()>,
    table: Mutex<Table>,
}

struct Table {
    /// Places there are.
    places: usize,
    /// Devices of the kind that were there before: the root disk.
    before: u32,
    has_adapter: bool,
    /// By place. They are never fewer.
    mappings: Vec<Mapping>,
    slots: BTreeMap<u32, Way>,
}

struct Mapping {
    image: Identity,
    use_of_it: Use,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Slot(u32),
    Parked,
    /// It is not known what became of it.
    Lost,
}

/// How the layer in a slot is there.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Way {
    Mapped(usize),
    Disk { slot: ScsiSlot, why: String },
}

/// What an image can be mapped to.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    /// It is there.
    Parked(usize),
    Free(usize),
}

impl Layers {
    pub(crate) fn new(spec: &VmSpec, has_root_disk: bool) -> Self {
        let room = Room::of(spec);
        let table = Table {
            places: usize::try_from(room.bridges * BRIDGE_SLOTS).unwrap_or_default(),
            before: has_root_disk.into(),
            has_adapter: spec.scsi_controllers > 0,
            mappings: Vec::new(),
            slots: BTreeMap::new(),
        };
        Self { turn: tokio::sync::Mutex::default(), table: Mutex::new(table) }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Where an image can go, or why nowhere.
    fn target(&self, image: &Identity) -> Result<Target, String> {
        let is_it = |mapping: &Mapping| mapping.image == *image && mapping.use_of_it == Use::Parked;
        if let Some(place) = self.mappings.iter().position(is_it) {
            return Ok(Target::Parked(place));
        }
        if self.mappings.len() < self.places {
            return Ok(Target::Free(self.mappings.len()));
        }
        let parked = self.mappings.iter().filter(|mapping| mapping.use_of_it == Use::Parked).count();
        Err(format!("all {} places for mapped layers are taken, {parked} by layers that were removed", self.places))
    }

    fn enter(&mut self, slot: u32, image: Identity, place: usize, use_of_it: Use) {
        let mapping = Mapping { image, use_of_it };
        match self.mappings.get_mut(place) {
            Some(there) => *there = mapping,
            None => self.mappings.push(mapping),
        }
        if use_of_it == Use::Slot(slot) {
            self.slots.insert(slot, Way::Mapped(place));
        }
    }

    fn place_of(&self, slot: u32) -> Option<LayerPlace> {
        Some(match self.slots.get(&slot)? {
            Way::Mapped(place) => {
                let at = At::of(*place);
                LayerPlace::Memory { number: self.before + at.number, pci_path: at.pci_path() }
            }
            Way::Disk { slot, why } => LayerPlace::Disk { slot: *slot, why: why.clone() },
        })
    }
}

/// A place for a mapped layer, and what QEMU calls what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct At {
    number: u32,
}

impl At {
    fn of(place: usize) -> Self {
        // There are at most as many as bridges have.
        Self { number: u32::try_from(place).unwrap_or(u32::MAX) }
    }

    fn bridge(self) -> u32 {
        self.number / BRIDGE_SLOTS
    }

    fn slot(self) -> u32 {
        self.number % BRIDGE_SLOTS
    }

    fn pci_path(self) -> String {
        format!("{:02x}.0/{:02x}.0", FIRST_BRIDGE + self.bridge(), self.slot())
    }

    fn memory(self) -> String {
        format!("layer-{}", self.number)
    }

    fn device(self) -> String {
        format!("layer-{}-device", self.number)
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
        let image = self.blocking_step(intent, move || layer_image::open(&path)).await?;
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
    use uvm_platform::spec::VpmemSpec;

    use super::*;
    use crate::test_spec::spec;

    fn layers(count: u32) -> Layers {
        let mut spec = spec(1);
        (spec.vpmem, spec.scsi_controllers) = (VpmemSpec { count, size_bytes: 4 << 30 }, 1);
        Layers::new(&spec, false)
    }

    /// The identities of so many files.
    fn images(count: usize) -> Vec<Identity> {
        let dir = tempfile::tempdir().expect("a directory");
        let image = |number| {
            let path = dir.path().join(format!("{number}.img"));
            std::fs::write(&path, "").expect("written");
            layer_image::open(&path).expect("opened").identity
        };
        (0..count).map(image).collect()
    }

    #[test]
    fn room_is_made_for_what_is_asked_for_within_limits() {
        let room = |count, size_bytes| {
            let mut spec = spec(1);
            spec.vpmem = VpmemSpec { count, size_bytes };
            Room::of(&spec)
        };
        assert_eq!(room(0, 4 << 30), Room::default());
        assert_eq!(room(1, 4096), Room { bridges: 1, mib: 2 });
        assert_eq!(room(2, 4 << 30), Room { bridges: 1, mib: 8192 });
        assert_eq!(room(33, 2 << 20), Room { bridges: 2, mib: 66 });
        assert_eq!(room(128, u64::MAX), Room { bridges: 4, mib: 128 << 10 });
        let names: Vec<_> = Room { bridges: 2, mib: 0 }.bridges().collect();
        assert_eq!(names, [("layers0".to_owned(), 0x12), ("layers1".to_owned(), 0x13)]);
    }

    #[test]
    fn the_same_image_comes_back_to_its_place_and_others_take_new_ones_until_there_are_none() {
        let all = layers(1);
        let images = images(33);
        let mut table = all.lock();
        for (place, image) in images.iter().enumerate().take(32) {
            assert_eq!(table.target(image), Ok(Target::Free(place)));
            table.enter(0, *image, place, Use::Slot(0));
            // While it is used, it is nobody else's.
            if place == 0 {
                assert_eq!(table.target(image), Ok(Target::Free(1)));
            }
            assert_eq!(table.slots.remove(&0), Some(Way::Mapped(place)));
            table.mappings[place].use_of_it = Use::Parked;
            assert_eq!(table.target(image), Ok(Target::Parked(place)));
        }
        table.mappings[7].use_of_it = Use::Lost;
        let error = table.target(&images[32]).expect_err("full");
        assert_eq!(error, "all 32 places for mapped layers are taken, 31 by layers that were removed");
        table.target(&images[7]).expect_err("what is lost is not had again");
        assert_eq!(table.target(&images[31]), Ok(Target::Parked(31)));
    }

    #[test]
    fn guests_are_told_the_place_of_each() {
        let all = layers(64);
        let image = images(1)[0];
        let mut table = all.lock();
        assert_eq!(table.place_of(5), None);
        for place in 0..35 {
            table.enter(place, image, place as usize, Use::Slot(place));
        }
        let memory = |number, pci_path: &str| Some(LayerPlace::Memory { number, pci_path: pci_path.into() });
        assert_eq!(table.place_of(0), memory(0, "12.0/00.0"));
        assert_eq!(table.place_of(31), memory(31, "12.0/1f.0"));
        assert_eq!(table.place_of(34), memory(34, "13.0/02.0"));
        // The root disk is the guest's first.
        table.before = 1;
        assert_eq!(table.place_of(0), memory(1, "12.0/00.0"));
    }

    #[test]
    fn disks_of_layers_are_where_no_caller_s_are() {
        let slot = |slot| disk_of(&VpmemDevice::new(slot, "image")).slot;
        assert_eq!(slot(0), ScsiSlot { controller: 4, lun: 0 });
        assert_eq!(slot(63), ScsiSlot { controller: 4, lun: 63 });
        assert_eq!(slot(127), ScsiSlot { controller: 5, lun: 63 });
    }
}
