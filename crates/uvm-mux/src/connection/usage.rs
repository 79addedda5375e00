//! What a connection holds, to show that it is bounded.

use super::Connection;
use super::stream::Stream;

/// What a connection holds at one moment. Every field has a bound that the other end cannot move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// Streams kept, ended ones whose handle lives included: at most `max_streams`.
    pub streams: usize,
    /// Bytes received and not read: at most `max_streams * window` and what windows have grown by.
    pub received: usize,
    /// Memory that these bytes take: for each stream that has any, less than two blocks of 32 KiB more.
    pub received_memory: usize,
    /// Bytes written and not yet sent: at most a frame a stream.
    pub pending: usize,
    /// Answers due for refused dials: at most `max_streams`.
    pub refusals: usize,
    /// Entries in the queues of what to send: at most two a stream.
    pub queued: usize,
    /// Windows given beyond the usual one: at most four times the largest window.
    pub extra_window: usize,
    /// Memory kept for reuse: at most 160 KiB.
    pub spare_memory: usize,
}

impl Connection {
    /// What this end holds now.
    pub fn usage(&self) -> Usage {
        let mut usage = Usage {
            streams: self.table.len(),
            refusals: self.refusals.len(),
            queued: self.control.len() + self.ready[0].len() + self.ready[1].len(),
            extra_window: self.extra_window as usize,
            spare_memory: self.pool.memory(),
            ..Usage::default()
        };
        for stream in self.table.slots().filter_map(|slot| self.table.get(slot)) {
            usage.received += stream.queue.len();
            usage.received_memory += stream.queue.memory();
            usage.pending += stream.pending.as_ref().map_or(0, super::block::Block::len);
        }
        usage
    }

    /// Panics if what this end holds is over a bound or does not add up. For tests and fuzzing.
    ///
    /// # Panics
    /// See above.
    pub fn assert_bounds(&self) {
        let usage = self.usage();
        let (streams, window) = (self.config.max_streams() as usize, self.config.window() as usize);
        assert!(usage.streams <= streams, "{usage:?}");
        assert!(usage.received <= usage.streams * window + usage.extra_window, "{usage:?}");
        assert!(usage.received_memory <= usage.received + usage.streams * 2 * 32 * 1024, "{usage:?}");
        assert!(usage.pending <= usage.streams * 32 * 1024, "{usage:?}");
        assert!(usage.refusals + self.backlogged as usize <= streams, "{usage:?}");
        assert!(usage.queued <= 2 * usage.streams, "{usage:?}");
        assert!(usage.extra_window <= 4 * self.config.max_window() as usize, "{usage:?}");
        assert!(usage.spare_memory <= 160 * 1024, "{usage:?}");
        let mut extra = 0;
        for stream in self.table.slots().filter_map(|slot| self.table.get(slot)) {
            extra += (stream.window as usize).saturating_sub(window);
            self.assert_adds_up(stream);
        }
        assert_eq!(extra, usage.extra_window);
    }

    #[cfg(test)]
    pub(super) fn id(&self, slot: super::Slot) -> u32 {
        self.table.get(slot).expect("held").id
    }

    /// A stream's window is what may still come, what waits to be read, what was read, and what is under way in the
    /// frame that is being received.
    fn assert_adds_up(&self, stream: &Stream) {
        if stream.cut.is_none() && !stream.received_fin {
            let under_way = self.parser.data_left(stream.id);
            let sum = stream.allowance as usize + stream.queue.len() + stream.unreturned as usize + under_way;
            assert_eq!(sum, stream.window as usize, "{stream:?}");
        }
    }
}
