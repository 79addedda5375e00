//! The end of it: everything is read, shut down and let go of.

use std::task::{Poll, Waker};

use super::{GUEST, OWNER, World};
use crate::connection::{QuietWait, Usage};

impl World {
    /// Lets both ends finish: everything is read, shut down and let go of. Nothing may remain.
    pub(super) fn settle(&mut self) {
        loop {
            let before: usize = self.streams.iter().map(|s| s.directions[0].read + s.directions[1].read).sum();
            self.carry();
            for (end, port) in [(OWNER, 1), (OWNER, 2), (GUEST, 1), (GUEST, 2)] {
                self.accept(end, port);
                self.accept(end, port);
            }
            for stream in 0..self.streams.len() {
                for end in [OWNER, GUEST] {
                    let Some(slot) = self.streams[stream].ends[end].slot else { continue };
                    self.shut_down(end, stream, slot);
                    self.read(end, stream, slot, usize::MAX);
                }
            }
            self.carry();
            let after: usize = self.streams.iter().map(|s| s.directions[0].read + s.directions[1].read).sum();
            if before == after {
                break;
            }
        }
        for stream in 0..self.streams.len() {
            for end in [OWNER, GUEST] {
                let Some(slot) = self.streams[stream].ends[end].slot else { continue };
                self.read(end, stream, slot, usize::MAX);
                let ended = self.streams[stream].directions[1 - end].ended;
                assert!(ended || self.ends[end].cut_reason(slot).is_some(), "stream {stream} neither ended nor cut");
                let flushed = self.ends[end].poll_flush(slot, Waker::noop());
                assert!(flushed.is_ready(), "stream {stream} is not flushed");
                self.release(end, stream, slot);
            }
        }
        let mut waits = [QuietWait::default(), QuietWait::default()];
        for _ in 0..2 {
            for (end, wait) in self.ends.iter_mut().zip(&mut waits) {
                let _ = end.poll_quiet(wait, Waker::noop());
            }
            self.carry();
        }
        for (end, wait) in self.ends.iter_mut().zip(&mut waits) {
            assert_eq!(end.poll_quiet(wait, Waker::noop()), Poll::Ready(Ok(())));
            assert!(end.is_flushed());
            assert_eq!(end.usage(), Usage::default());
            assert_eq!((end.unanswered, end.backlogged), (0, 0));
        }
    }
}
