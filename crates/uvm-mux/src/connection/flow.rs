//! How much each stream may have in flight.
//!
//! Credit goes back in pieces of half a window. The window itself is the usual one, except for a stream that alone has
//! carried anything for a while and whose reader keeps up: its window doubles with each piece, up to the largest. When
//! another stream carries something, be it one message, credit is held back until the window is the usual one again:
//! what waits in the channel is what that message's answer waits behind.

use super::Connection;
use super::table::Slot;

/// A stream is alone once it has carried this many windows while no other carried anything.
const WINDOWS_ALONE: u32 = 4;
/// How many streams' worth of growth is given at once.
const GROWN_STREAMS: u32 = 4;

/// Which stream carries all that is received, if it is one only.
#[derive(Debug, Default)]
pub(super) struct Solo {
    id: Option<u32>,
    /// Bytes it has carried since another did.
    run: u32,
}

impl Solo {
    pub(super) fn carried(&mut self, id: u32, bytes: u32) {
        let run = if self.id == Some(id) { self.run } else { 0 };
        *self = Self { id: Some(id), run: run.saturating_add(bytes) };
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
        // All is read, and the other end has used up half of what it may send: it is the window that it waits for.
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
        self.schedule_credit(slot);
    }
}
