//! The slots that devices of a running VM are plugged into, and which of them is next.
//!
//! It matters which: the guest is told of removals by a register that keeps saying so until the guest has let go of the
//! device, and reads it again whenever anything else is plugged. So it may have noted a removal twice; the second time it
//! takes out what is in the slot by then. A device in a slot that was free for a while is safe from that. It is the same for
//! the slots of one bus and for the one slot behind each port: both are ACPI's to plug on this machine.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::time::Instant;

/// Slots of the bus.
const COUNT: u8 = 32;
/// The one of the device that is there at boot, if there is one.
pub(crate) const AT_BOOT: u8 = 1;
/// How long a slot stays free at least: many times what a guest under the translator takes for a removal (65 ms).
const FREE_FOR: Duration = Duration::from_secs(1);

/// Since when a slot is free; the default: nothing was there before.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Freed(Option<Instant>);

impl Freed {
    pub(crate) fn now() -> Self {
        Self(Some(Instant::now()))
    }

    /// Waits until the slot was free for long enough.
    pub(crate) async fn for_long_enough(self) {
        if let Some(since) = self.0 {
            tokio::time::sleep_until(since + FREE_FOR).await;
        }
    }
}

/// There is none.
#[derive(Debug, Error)]
#[error("all slots for devices of a running VM are in use")]
pub(crate) struct NoSlot;

/// The slots of a VM.
pub(crate) struct Slots(Mutex<Table>);

struct Table {
    /// The one that was free for the longest time first.
    free: VecDeque<(u8, Freed)>,
    /// By the names of their devices.
    taken: HashMap<String, u8>,
}

impl Slots {
    /// All of them free, but for that of a device that is there at boot.
    pub(crate) fn new(at_boot: Option<&str>) -> Self {
        let is_free = |slot: &u8| at_boot.is_none() || *slot != AT_BOOT;
        let free = (0..COUNT).filter(is_free).map(|slot| (slot, Freed::default())).collect();
        let taken = at_boot.map(|name| (name.to_owned(), AT_BOOT)).into_iter().collect();
        Self(Mutex::new(Table { free, taken }))
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot for a device of that name, which is waited for if none was free for long enough.
    pub(crate) async fn take(&self, name: &str) -> Result<Slot<'_>, NoSlot> {
        let (number, freed) = {
            let mut table = self.lock();
            let first = table.free.pop_front().ok_or(NoSlot)?;
            table.taken.insert(name.to_owned(), first.0);
            first
        };
        let slot = Slot { slots: self, name: name.to_owned(), number, unused: Some(freed) };
        freed.for_long_enough().await;
        Ok(slot)
    }

    /// The device of that name is gone, or never came. One that is not known has been told before.
    pub(crate) fn give_back(&self, name: &str) {
        let mut table = self.lock();
        if let Some(slot) = table.taken.remove(name) {
            table.free.push_back((slot, Freed::now()));
        }
    }
}

/// A slot that is taken for a device. Dropped before that is plugged in, it is as free as it was.
#[must_use = "dropped, it is free again"]
pub(crate) struct Slot<'a> {
    slots: &'a Slots,
    name: String,
    number: u8,
    /// Since when it was free; `None` once the device may be in it.
    unused: Option<Freed>,
}

impl Slot<'_> {
    /// The device's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The device is plugged in: the slot is its own, until it is [given back](Slots::give_back).
    pub(crate) fn plug(mut self) -> u8 {
        self.unused = None;
        self.number
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let Some(freed) = self.unused else { return };
        let mut table = self.slots.lock();
        if table.taken.remove(&self.name).is_some() {
            table.free.push_front((self.number, freed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_slot_is_free_for_a_while_before_it_is_taken_again() {
        let slots = Slots::new(Some("boot"));
        let mut seen = Vec::new();
        for number in 0..COUNT - 1 {
            seen.push(slots.take(&number.to_string()).await.expect("free").plug());
        }
        assert!(!seen.contains(&AT_BOOT));
        let error = slots.take("more").await.map(drop).expect_err("none is free").to_string();
        assert!(error.contains("all slots for devices of a running VM are in use"), "{error}");
        let began = Instant::now();
        slots.give_back("7");
        tokio::time::advance(FREE_FOR / 4).await;
        slots.give_back("boot");
        slots.give_back("boot");
        // The one that was free for the longest time, and not before its time.
        assert_eq!(slots.take("more").await.expect("free").plug(), seen[7]);
        assert_eq!(began.elapsed(), FREE_FOR);
        assert_eq!(slots.take("more still").await.expect("free").plug(), AT_BOOT);
        assert_eq!(began.elapsed(), FREE_FOR * 5 / 4);
        slots.take("too many").await.map(drop).expect_err("none is free");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slot_that_nothing_was_plugged_into_is_as_free_as_it_was() {
        let slots = Slots::new(None);
        let began = Instant::now();
        for _ in 0..2 * COUNT {
            let slot = slots.take("one").await.expect("free");
            assert_eq!((slot.number, slot.name()), (0, "one"));
        }
        for number in 0..COUNT {
            let slot = slots.take(&number.to_string()).await.expect("free");
            assert_eq!(slot.plug(), number);
        }
        assert_eq!(began.elapsed(), Duration::ZERO, "nothing was in them");
        slots.give_back("3");
        // Who gives up waiting for it leaves it to others, and the time it has been free.
        tokio::time::timeout(FREE_FOR / 2, slots.take("hasty")).await.map(drop).expect_err("too soon");
        assert_eq!(slots.take("patient").await.expect("free").plug(), 3);
        assert_eq!(began.elapsed(), FREE_FOR);
    }
}
