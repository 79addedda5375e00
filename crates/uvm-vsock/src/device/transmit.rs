//! Packets to the guest.

use std::collections::VecDeque;

use super::conn::{Conn, Phase, Sending};
use super::local::KEPT;
use super::{Device, Slot};
use crate::header::{Header, MAX_PAYLOAD, Op, TYPE_STREAM};

/// A packet that is to be sent now: written by the caller, then taken off with [`Device::sent`].
#[derive(Clone, Copy, Debug)]
pub struct Outgoing {
    /// Its header.
    pub header: Header,
    /// The stream whose bytes it carries; `None` for an answer that belongs to no stream.
    slot: Option<Slot>,
}

impl Device {
    /// The next packet, of at most `room` bytes of payload. `None` if there is nothing to send.
    pub fn next_packet(&mut self, room: usize) -> Option<Outgoing> {
        if let Some(&header) = self.resets.front() {
            return Some(Outgoing { header, slot: None });
        }
        loop {
            let slot = *self.control.front().or_else(|| self.bulk.front())?;
            if let Some(header) = self.conns.get(&slot).and_then(|conn| self.header(conn, room)) {
                return Some(Outgoing { header, slot: Some(slot) });
            }
            // It was cut meanwhile, or all it had to say has been said by the way.
            self.unschedule();
        }
    }

    /// `true` if [`next_packet`](Self::next_packet) has one.
    pub fn has_packet(&mut self) -> bool {
        self.next_packet(MAX_PAYLOAD as usize).is_some()
    }

    /// The payload of a packet, in two pieces.
    pub fn payload(&self, packet: &Outgoing) -> (&[u8], &[u8]) {
        let length = packet.header.length as usize;
        let Some(conn) = packet.slot.and_then(|slot| self.conns.get(&slot)) else { return (&[], &[]) };
        let (first, second) = conn.unsent.as_slices();
        let split = first.len().min(length);
        (&first[..split], &second[..(length - split).min(second.len())])
    }

    /// The packet was sent.
    pub fn sent(&mut self, packet: &Outgoing) {
        let Some(slot) = packet.slot else {
            self.resets.pop_front();
            self.tell_quiet();
            return;
        };
        self.unschedule();
        let Some(conn) = self.conns.get_mut(&slot) else { return };
        conn.told = packet.header.consumed;
        conn.credit_update = false;
        match packet.header.op {
            Some(Op::Request) => conn.phase = Phase::Dialled,
            Some(Op::Response) => conn.response = false,
            Some(Op::CreditRequest) => conn.credit_asked = true,
            Some(Op::Shutdown) => conn.sending = Sending::Ended,
            Some(Op::Data) => {
                conn.unsent.drain(..packet.header.length as usize);
                conn.sent = conn.sent.wrapping_add(packet.header.length);
                if conn.unsent.is_empty() && conn.unsent.capacity() > KEPT {
                    conn.unsent = VecDeque::new();
                }
            }
            _ => {}
        }
        // A writer is not woken for each packet, of which a guest takes 4 KiB at a time.
        if conn.unsent.len() <= conn.window as usize / 2 {
            self.woken.extend(conn.writer.take());
        }
        self.schedule(slot);
    }

    /// Takes the first of those that have something to send off the list.
    fn unschedule(&mut self) {
        if let Some(slot) = self.control.pop_front().or_else(|| self.bulk.pop_front())
            && let Some(conn) = self.conns.get_mut(&slot)
        {
            conn.scheduled = false;
        }
    }

    fn header(&self, conn: &Conn, room: usize) -> Option<Header> {
        let op = conn.next_op()?;
        let mut header = self.packet(op, conn.ports, TYPE_STREAM);
        header.window = conn.window;
        header.consumed = conn.consumed;
        if op == Op::Data {
            header.length = conn.unsent.len().min(conn.credit()).min(room).min(MAX_PAYLOAD as usize) as u32;
        }
        if op == Op::Shutdown {
            header.flags = conn.shutdown_flags();
        }
        Some(header)
    }
}
