//! The streams of a connection: by slot for the handles, by id for the wire.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::stream::Stream;

/// Where a stream is kept. A handle owns its slot: it is not given to another stream while the handle lives.
pub type Slot = u32;

/// A map from integers that the other end may choose: small, quick, and bounded in size by the caller.
pub(super) type IntMap<V> = HashMap<u32, V, BuildHasherDefault<IntHasher>>;

#[derive(Debug, Default)]
pub(super) struct Table {
    slots: Vec<Option<Box<Stream>>>,
    free: Vec<Slot>,
    /// Streams whose id means something on the wire.
    ids: IntMap<Slot>,
}

impl Table {
    /// Streams kept, cut ones whose handle lives included.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn insert(&mut self, stream: Stream) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as Slot
        });
        self.ids.insert(stream.id, slot);
        self.slots[slot as usize] = Some(Box::new(stream));
        slot
    }

    pub(super) fn get(&self, slot: Slot) -> Option<&Stream> {
        self.slots.get(slot as usize)?.as_deref()
    }

    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut Stream> {
        self.slots.get_mut(slot as usize)?.as_deref_mut()
    }

    /// The slot of a live id.
    pub(super) fn find(&self, id: u32) -> Option<Slot> {
        self.ids.get(&id).copied()
    }

    /// Makes an id dead on the wire. The stream stays in its slot.
    pub(super) fn forget_id(&mut self, id: u32) {
        self.ids.remove(&id);
    }

    pub(super) fn forget_all_ids(&mut self) {
        self.ids = IntMap::default();
    }

    pub(super) fn remove(&mut self, slot: Slot) -> Option<Box<Stream>> {
        let stream = self.slots.get_mut(slot as usize)?.take()?;
        // The id may be dead already, or belong to a stream of a newer epoch.
        if self.ids.get(&stream.id) == Some(&slot) {
            self.ids.remove(&stream.id);
        }
        self.free.push(slot);
        if self.is_empty() {
            self.slots = Vec::new();
            self.free = Vec::new();
            self.ids = IntMap::default();
        }
        Some(stream)
    }

    /// Every slot that was ever used, for a walk during which streams may be removed.
    pub(super) fn slots(&self) -> std::ops::Range<Slot> {
        0..self.slots.len() as Slot
    }
}

/// Multiplies by the golden ratio. Ids come one after the other and ports are our own, so nobody can aim at it.
#[derive(Debug, Default)]
pub(super) struct IntHasher(u64);

impl Hasher for IntHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(u32::from(byte));
        }
    }

    fn write_u32(&mut self, n: u32) {
        let mixed = (self.0 ^ u64::from(n)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}
