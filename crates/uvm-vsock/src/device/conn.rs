//! What the device knows of one stream.

use std::collections::VecDeque;
use std::task::Waker;

use crate::config::Priority;
use crate::error::StreamError;
use crate::header::{Op, SHUTDOWN_BOTH, SHUTDOWN_SEND};

/// The ports of a stream; there is one at a time for each pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ports {
    pub(crate) host: u32,
    pub(crate) guest: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Dialled here; the REQUEST has yet to be sent.
    Dialling,
    /// Dialled here; the guest has not answered.
    Dialled,
    /// Both ends know it.
    Open,
    /// The guest knows it no more: what was received can still be read.
    Gone,
}

/// What became of this end's direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sending {
    Open,
    /// SHUTDOWN goes after what is still to be sent.
    Ending,
    /// SHUTDOWN was sent.
    Ended,
}

#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, in any combination")]
pub(crate) struct Conn {
    pub(crate) ports: Ports,
    pub(crate) phase: Phase,
    pub(crate) priority: Priority,
    /// Received and not read.
    pub(crate) received: VecDeque<u8>,
    /// Bytes of room that the guest was told of. It never shrinks.
    pub(crate) window: u32,
    /// Read, modulo 2^32.
    pub(crate) consumed: u32,
    /// What the guest was last told of `consumed`.
    pub(crate) told: u32,
    /// No more comes from the guest.
    pub(crate) ended: bool,
    /// Nobody reads here any more.
    pub(crate) discard: bool,
    /// Written here, not sent.
    pub(crate) unsent: VecDeque<u8>,
    /// Sent, modulo 2^32.
    pub(crate) sent: u32,
    pub(crate) peer_window: u32,
    pub(crate) peer_consumed: u32,
    /// The guest will not read any more.
    pub(crate) unread: bool,
    /// Bytes that were written here were thrown away.
    pub(crate) lost: bool,
    pub(crate) sending: Sending,
    /// To be told to the guest: it was accepted.
    pub(crate) response: bool,
    /// To be told to the guest: there is room again.
    pub(crate) credit_update: bool,
    /// The guest was asked for room, and has not answered.
    pub(crate) credit_asked: bool,
    /// It is among those that have something to send.
    pub(crate) scheduled: bool,
    /// Nobody holds it; it lasts until the guest has all and says so.
    pub(crate) lingering: bool,
    pub(crate) cut: Option<StreamError>,
    pub(crate) reader: Option<Waker>,
    pub(crate) writer: Option<Waker>,
}

impl Conn {
    pub(crate) fn new(ports: Ports, phase: Phase, window: u32) -> Self {
        Self {
            ports,
            phase,
            priority: Priority::Bulk,
            received: VecDeque::new(),
            window,
            consumed: 0,
            told: 0,
            ended: false,
            discard: false,
            unsent: VecDeque::new(),
            sent: 0,
            peer_window: 0,
            peer_consumed: 0,
            unread: false,
            lost: false,
            sending: Sending::Open,
            response: false,
            credit_update: false,
            credit_asked: false,
            scheduled: false,
            lingering: false,
            cut: None,
            reader: None,
            writer: None,
        }
    }

    /// Bytes the guest has room for. A guest that counts nonsense has none.
    pub(crate) fn credit(&self) -> usize {
        self.peer_window.saturating_sub(self.sent.wrapping_sub(self.peer_consumed)) as usize
    }

    /// What to send next, if anything.
    pub(crate) fn next_op(&self) -> Option<Op> {
        match self.phase {
            Phase::Dialling => return Some(Op::Request),
            Phase::Dialled | Phase::Gone => return None,
            Phase::Open => {}
        }
        if self.response {
            return Some(Op::Response);
        }
        if !self.unsent.is_empty() {
            if self.credit() > 0 {
                return Some(Op::Data);
            }
            if !self.credit_asked {
                return Some(Op::CreditRequest);
            }
        } else if self.sending == Sending::Ending {
            return Some(Op::Shutdown);
        }
        self.credit_update.then_some(Op::CreditUpdate)
    }

    /// Which directions a SHUTDOWN of now ends.
    pub(crate) fn shutdown_flags(&self) -> u32 {
        if self.lingering { SHUTDOWN_BOTH } else { SHUTDOWN_SEND }
    }

    /// Bytes more were read, or thrown away. The guest is told of room in halves of the window.
    pub(crate) fn consume(&mut self, bytes: usize) {
        self.consumed = self.consumed.wrapping_add(bytes as u32);
        if self.consumed.wrapping_sub(self.told) >= self.window / 2 && !self.ended && self.phase == Phase::Open {
            self.credit_update = true;
        }
    }

    /// Both directions ended as they should.
    pub(crate) fn is_finished(&self) -> bool {
        self.ended && self.sending == Sending::Ended
    }
}
