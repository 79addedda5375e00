//! How much each stream may have in flight.
//!
//! Credit goes back in pieces of half a window. The window itself is the usual one, except for a stream that has
//! carried all the bulk for a while and whose reader keeps up: its window doubles with each piece, up to the largest.
//! When another stream carries bulk too, credit is held back until the window is the usual one again.

use super::Connection;
use super::table::Slot;

/// Bytes on other streams, per [`LAP`] bytes of the one that carries bulk, that do not count as bulk.
const SMALL_TALK: u32 = 16 * 1024;
/// See [`SMALL_TALK`].
const LAP: u32 = 1024 * 1024;
/// Windows that a stream must have carried before it counts as the only one.
const WINDOWS_ALONE: u32 = 4;
/// How many streams' worth of growth is given at once.
const GROWN_STREAMS: u32 = 4;

/// Which stream carries the bulk that is received, if it is one only.
#[derive(Debug, Default)]
pub(super) struct Solo {
    id: Option<u32>,
    /// Bytes it has carried since it became the one.
    run: u32,
    /// Bytes it has carried in this lap, and the others.
    lap: u32,
    others: u32,
}

impl Solo {
    pub(super) fn carried(&mut self, id: u32, bytes: u32) {
        if self.id == Some(id) {
            self.run = self.run.saturating_add(bytes);
            self.lap = self.lap.saturating_add(bytes);
            if self.lap >= LAP {
                (self.lap, self.others) = (0, 0);
            }
        } else {
            self.others = self.others.saturating_add(bytes);
            if self.others > SMALL_TALK {
                *self = Self { id: Some(id), run: bytes, lap: bytes, others: 0 };
            }
        }
    }

    fn is(&self, id: u32, window: u32) -> bool {
        self.id == Some(id) && self.run >= window.saturating_mul(WINDOWS_ALONE)
    }
}

impl Connection {
    /// Counts `n` bytes as read and returns credit if it is time to.
    pub(super) fn consumed(&mut self, slot: Slot, n: u32) {
        let usual = self.config.window();
        let Some(stream) = self.table.get_mut(slot) else { return };
        if stream.received_fin || stream.cut.is_some() {
            return;
        }
        stream.unreturned += n;
        let alone = self.solo.is(stream.id, usual);
        if !alone && stream.window > usual {
            let withheld = (stream.window - usual).min(stream.unreturned);
            stream.unreturned -= withheld;
            stream.window -= withheld;
            self.extra_window -= withheld;
        }
        if stream.unreturned < stream.window / 2 {
            return;
        }
        if alone && stream.queue.is_empty() {
            let most = self.config.max_window();
            let budget = (most - usual).saturating_mul(GROWN_STREAMS);
            let growth = stream.window.min(most - stream.window).min(budget - self.extra_window);
            stream.window += growth;
            stream.unreturned += growth;
            self.extra_window += growth;
        }
        let credit = std::mem::take(&mut stream.unreturned);
        stream.allowance += credit;
        stream.due.credit += credit;
        self.schedule_control(slot);
    }
}
