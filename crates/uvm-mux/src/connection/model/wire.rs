//! What is between the ends: bytes on their way, and an owner that another takes the place of.

use std::collections::VecDeque;

use super::{GUEST, OWNER, World, owner};
use crate::config::GuestState;
use crate::error::Link;

impl World {
    pub(super) fn transmit(&mut self, end: usize, len: usize) {
        let bytes = self.ends[end].transmit();
        assert!(bytes.len() <= crate::frame::MAX_FRAME);
        let n = bytes.len().min(len);
        self.wires[end].extend(&bytes[..n]);
        self.ends[end].transmitted(n);
        self.wake();
    }

    pub(super) fn deliver(&mut self, to: usize, len: usize) {
        let wire = &mut self.wires[1 - to];
        let bytes: Vec<u8> = wire.drain(..len.min(wire.len())).collect();
        self.ends[to].receive(&bytes);
        self.wake();
    }

    /// Carries everything there is to send, both ways.
    pub(super) fn carry(&mut self) {
        loop {
            for end in [OWNER, GUEST] {
                while !self.ends[end].transmit().is_empty() {
                    self.transmit(end, usize::MAX);
                }
            }
            if self.wires.iter().all(VecDeque::is_empty) {
                return;
            }
            self.deliver(OWNER, usize::MAX);
            self.deliver(GUEST, usize::MAX);
        }
    }

    pub(super) fn is_up(&self, end: usize) -> bool {
        matches!(self.ends[end].link(), Link::Up { .. })
    }

    /// Nothing of the old owner's end is left; streams at the guest end as it learns of it.
    fn replace_owner(&mut self, guest: GuestState) {
        self.owners += 1;
        self.ends[OWNER] = owner(self.owners, guest);
        for stream in &mut self.streams {
            stream.ends[OWNER].slot = None;
            stream.may_be_cut = true;
        }
    }

    pub(super) fn new_owner(&mut self) {
        if self.owners == u8::MAX {
            return;
        }
        self.deliver(GUEST, usize::MAX);
        self.ends[GUEST].hang_up();
        self.wires[GUEST].clear();
        self.replace_owner(GuestState::Fresh);
        self.carry();
    }

    pub(super) fn restore(&mut self, kept: usize) {
        if self.owners == u8::MAX {
            return;
        }
        self.wires[OWNER].truncate(kept);
        self.wires[GUEST].truncate(40_000); // QEMU saves what it had read from the guest
        self.streams.iter_mut().for_each(|stream| stream.garbled = true);
        self.replace_owner(GuestState::Restored);
        self.carry();
    }
}
