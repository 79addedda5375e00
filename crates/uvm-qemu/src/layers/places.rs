//! The places that a VM has for layers, and what is in each.

use std::collections::BTreeMap;

use uvm_platform::VpmemLimits;
use uvm_platform::requests::{LayerPlace, ScsiSlot};
use uvm_platform::spec::VmSpec;

use super::image::Identity;
use crate::root_disk::ALIGNMENT;

/// The most places of one VM, as the original has.
const MOST: u32 = 128;
/// Places on one bridge.
const BRIDGE_SLOTS: u32 = 32;
/// The slot of the first bridge for layers on the root bus; the others follow.
const FIRST_BRIDGE: u32 = 0x12;
/// Address space that is kept for layers at most: far less than what processors of 39 bits have, so that QEMU starts on all.
const MOST_BYTES: u64 = 128 << 30;

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

pub(super) fn bridge(index: u32) -> String {
    format!("layers{index}")
}

/// What is at each place, and where the layer of each slot is.
pub(super) struct Table {
    /// Places there are.
    pub(super) places: usize,
    /// Devices of the kind that were there before: the root disk.
    pub(super) before: u32,
    pub(super) has_adapter: bool,
    /// By place. They are never fewer.
    pub(super) mappings: Vec<Mapping>,
    pub(super) slots: BTreeMap<u32, Way>,
}

pub(super) struct Mapping {
    pub(super) image: Identity,
    pub(super) use_of_it: Use,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Slot(u32),
    Parked,
    /// It is not known what became of it.
    Lost,
}

/// How the layer in a slot is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Mapped(usize),
    Disk { slot: ScsiSlot, why: String },
}

/// What an image can be mapped to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// It is there.
    Parked(usize),
    Free(usize),
}

impl Table {
    /// None of them is taken.
    pub(super) fn new(spec: &VmSpec, has_root_disk: bool) -> Self {
        let room = Room::of(spec);
        Self {
            places: usize::try_from(room.bridges * BRIDGE_SLOTS).unwrap_or_default(),
            before: has_root_disk.into(),
            has_adapter: spec.scsi_controllers > 0,
            mappings: Vec::new(),
            slots: BTreeMap::new(),
        }
    }

    /// Where an image can go, or why nowhere.
    pub(super) fn target(&self, image: &Identity) -> Result<Target, String> {
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

    pub(super) fn enter(&mut self, slot: u32, image: Identity, place: usize, use_of_it: Use) {
        let mapping = Mapping { image, use_of_it };
        match self.mappings.get_mut(place) {
            Some(there) => *there = mapping,
            None => self.mappings.push(mapping),
        }
        if use_of_it == Use::Slot(slot) {
            self.slots.insert(slot, Way::Mapped(place));
        }
    }

    pub(super) fn place_of(&self, slot: u32) -> Option<LayerPlace> {
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
pub(super) struct At {
    pub(super) number: u32,
}

impl At {
    pub(super) fn of(place: usize) -> Self {
        // There are at most as many as bridges have.
        Self { number: u32::try_from(place).unwrap_or(u32::MAX) }
    }

    pub(super) fn bridge(self) -> u32 {
        self.number / BRIDGE_SLOTS
    }

    pub(super) fn slot(self) -> u32 {
        self.number % BRIDGE_SLOTS
    }

    pub(super) fn pci_path(self) -> String {
        format!("{:02x}.0/{:02x}.0", FIRST_BRIDGE + self.bridge(), self.slot())
    }

    pub(super) fn memory(self) -> String {
        format!("layer-{}", self.number)
    }

    pub(super) fn device(self) -> String {
        format!("layer-{}-device", self.number)
    }
}

#[cfg(test)]
mod tests {
    use uvm_platform::spec::VpmemSpec;

    use super::super::image;
    use super::*;
    use crate::test_spec::spec;

    fn table(count: u32) -> Table {
        let mut spec = spec(1);
        (spec.vpmem, spec.scsi_controllers) = (VpmemSpec { count, size_bytes: 4 << 30 }, 1);
        Table::new(&spec, false)
    }

    /// The identities of so many files.
    fn images(count: usize) -> Vec<Identity> {
        let dir = tempfile::tempdir().expect("a directory");
        let image = |number| {
            let path = dir.path().join(format!("{number}.img"));
            std::fs::write(&path, "").expect("written");
            image::open(&path).expect("opened").identity
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
        let mut table = table(1);
        let images = images(33);
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
        let mut table = table(64);
        let image = images(1)[0];
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
}
