//! How much each stream may have in flight.
//!
//! Credit goes back in pieces of half a window. The window is the usual one while any stream talks: carries short frames,
//! and no bulk. What is in flight is what its messages wait behind. Where nobody talks, the streams that carry bulk share
//! the largest window among them: one alone has all of it. Windows double with each piece of credit, if the reader keeps
//! up; they are cut back by credit that is held back.

use super::Connection;
use super::table::Slot;

/// Usual windows' worth of bytes, on all streams, after which it is reckoned anew who carries bulk.
const LAP_WINDOWS: u32 = 8;
/// A stream that has carried this part of a usual window in a lap carries bulk, in this lap and the next.
const BULK_PART: u32 = 2;
/// A frame shorter than this part of a usual window, on a stream that does not carry bulk, is talk.
const SHORT_PART: u32 = 16;
/// Laps after which talk is forgotten.
const TALK_LAPS: u32 = 8;
/// How many largest windows there may be at a time, all growth together; more than one while the shares change.
const BUDGET: u32 = 4;

/// Who carries what is received.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    /// Laps are numbered from 0. A stream remembers the number after one, so that 0 is never.
    lap: u64,
    /// Bytes in this lap, and streams that have carried bulk in it.
    bytes: u32,
    bulk: u32,
    /// The same in the last lap.
    last_bulk: u32,
    /// Laps for which talk is remembered.
    talk: u32,
}

/// A stream's part in the traffic.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Part {
    /// The lap that `bytes` counts.
    lap: u64,
    bytes: u32,
    /// The last lap with bulk.
    bulk_lap: u64,
}

impl Traffic {
    pub(super) fn carried(&mut self, part: &mut Part, bytes: u32, usual: u32) {
        let now = self.lap + 1;
        if part.lap != now {
            (part.lap, part.bytes) = (now, 0);
        }
        part.bytes = part.bytes.saturating_add(bytes);
        if part.bytes >= usual / BULK_PART && part.bulk_lap != now {
            part.bulk_lap = now;
            self.bulk += 1;
        }
        if bytes < usual / SHORT_PART && part.bulk_lap + 1 < now.max(2) {
            self.talk = TALK_LAPS;
        }
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes >= usual.saturating_mul(LAP_WINDOWS) {
            let talk = self.talk.saturating_sub(1);
            *self = Self { lap: self.lap + 1, last_bulk: self.bulk, talk, ..Self::default() };
        }
    }

    /// The part of the largest window that each stream with bulk may have, at least the usual window.
    fn share(&self, usual: u32, most: u32) -> u32 {
        match self.last_bulk {
            0 => usual,
            _ if self.talk > 0 => usual,
            streams => (most / streams).max(usual),
        }
    }
}

impl Connection {
    /// Counts `n` bytes as read and returns credit if it is time to.
    pub(super) fn consumed(&mut self, slot: Slot, n: u32) {
        let (usual, most) = (self.config.window(), self.config.max_window());
        let Some(stream) = self.table.get_mut(slot) else { return };
        if stream.received_fin || stream.cut.is_some() {
            return;
        }
        stream.unreturned += n;
        let share = self.traffic.share(usual, most);
        if stream.window > share {
            let withheld = (stream.window - share).min(stream.unreturned);
            stream.unreturned -= withheld;
            stream.window -= withheld;
            self.extra_window -= withheld;
        }
        if stream.unreturned < stream.window / 2 {
            return;
        }
        // All is read, and the other end has used up half of what it may send: it is the window that it waits for.
        if stream.queue.is_empty() && stream.window < share {
            let budget = (most - usual).saturating_mul(BUDGET);
            let growth = stream.window.min(share - stream.window).min(budget - self.extra_window);
            stream.window += growth;
            stream.unreturned += growth;
            self.extra_window += growth;
        }
        let credit = std::mem::take(&mut stream.unreturned);
        stream.allowance += credit;
        stream.due.credit += credit;
        self.schedule_credit(slot);
    }
}
