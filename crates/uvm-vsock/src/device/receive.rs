//! Packets of the guest.

use std::io::Read;

use super::conn::{Conn, Phase, Ports, Sending};
use super::{Device, MAX_RESETS, Slot};
use crate::error::{Misuse, StreamError};
use crate::header::{HOST_CID, Header, MAX_PAYLOAD, Op, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, TYPE_STREAM};

/// The payload of a packet, still in the guest's memory.
pub trait Payload: Read {
    /// Bytes that are there.
    fn available(&self) -> usize;
}

impl Payload for &[u8] {
    fn available(&self) -> usize {
        self.len()
    }
}

impl Device {
    /// `false` while too many answers wait for the guest to take them.
    pub fn can_receive(&self) -> bool {
        self.resets.len() < MAX_RESETS && self.dead.is_none()
    }

    /// Takes one packet. Whatever is in it, it costs the guest at most its own stream.
    pub fn receive(&mut self, header: &Header, payload: &mut impl Payload) {
        if header.from_cid != self.config.cid || !self.is_up() {
            return; // not this guest's to say, and nobody to answer to
        }
        let ports = Ports { host: header.to_port, guest: header.from_port };
        if header.kind != TYPE_STREAM || header.to_cid != HOST_CID {
            self.answer_reset(header, ports);
            return;
        }
        let Some(&slot) = self.by_ports.get(&ports) else {
            match header.op {
                Some(Op::Request) => self.requested(header, ports),
                _ => self.answer_reset(header, ports),
            }
            return;
        };
        match self.received(slot, header, payload) {
            Ok(()) => self.schedule(slot),
            Err(misuse) => {
                self.reset_guest(slot);
                self.cut(slot, StreamError::Misuse(misuse));
            }
        }
    }

    /// Says that there is no such stream. A reset is not answered.
    fn answer_reset(&mut self, header: &Header, ports: Ports) {
        if header.op != Some(Op::Reset) {
            let mut reset = self.packet(Op::Reset, ports, header.kind);
            reset.from_cid = header.to_cid;
            self.resets.push_back(reset);
        }
    }

    fn requested(&mut self, header: &Header, ports: Ports) {
        let backlog = self.config.backlog as usize;
        let listens = self.listeners.get(&ports.host).is_some_and(|listener| listener.backlog.len() < backlog);
        if !listens || !self.has_room() {
            self.answer_reset(header, ports);
            return;
        }
        // Accepted at once: a guest's connect(2) gives up after 2 s.
        let mut conn = Conn::new(ports, Phase::Open, self.config.window);
        conn.response = true;
        conn.peer_window = header.window;
        conn.peer_consumed = header.consumed;
        let slot = self.add(conn);
        self.schedule(slot);
        if let Some(listener) = self.listeners.get_mut(&ports.host) {
            listener.backlog.push_back(slot);
            self.woken.extend(listener.waker.take());
        }
    }

    /// A packet for a stream that the guest knows.
    fn received(&mut self, slot: Slot, header: &Header, payload: &mut impl Payload) -> Result<(), Misuse> {
        let op = header.op.ok_or(Misuse::UnknownOp)?;
        let Some(conn) = self.conns.get_mut(&slot) else { return Ok(()) };
        let had_credit = conn.credit() > 0;
        conn.peer_window = header.window;
        conn.peer_consumed = header.consumed;
        if !had_credit && conn.credit() > 0 {
            conn.credit_asked = false;
        }
        match (op, conn.phase) {
            (Op::Reset, _) => self.was_reset(slot),
            (Op::Response, Phase::Dialled) => {
                conn.phase = Phase::Open;
                self.woken.extend(conn.writer.take());
            }
            (Op::Data, Phase::Open) if !conn.ended => {
                put(conn, header.length, payload)?;
                self.woken.extend(conn.reader.take());
            }
            (Op::Shutdown, Phase::Open) => self.was_shut_down(slot, header.flags),
            (Op::CreditUpdate, Phase::Open) => {}
            (Op::CreditRequest, Phase::Open) => conn.credit_update = true,
            _ => return Err(Misuse::Unexpected(op)),
        }
        Ok(())
    }

    fn was_reset(&mut self, slot: Slot) {
        let Some(conn) = self.conns.get_mut(&slot) else { return };
        if conn.phase == Phase::Dialled {
            self.cut(slot, StreamError::Refused);
        } else if conn.is_finished() {
            self.part(slot);
        } else {
            // What the guest ended before can be read to its end all the same.
            self.cut(slot, StreamError::ResetByPeer);
        }
    }

    fn was_shut_down(&mut self, slot: Slot, flags: u32) {
        let Some(conn) = self.conns.get_mut(&slot) else { return };
        if flags & SHUTDOWN_SEND != 0 {
            conn.ended = true;
            self.woken.extend(conn.reader.take());
        }
        if flags & SHUTDOWN_RECEIVE != 0 {
            conn.unread = true;
            conn.lost |= !conn.unsent.is_empty();
            conn.unsent.clear();
            self.woken.extend(conn.writer.take());
        }
        if conn.ended && conn.unread {
            // It was closed there. Linux keeps the port for up to 8 s, until this answer; all it had to say is here.
            if conn.sending == Sending::Ending {
                conn.sending = Sending::Ended;
            }
            self.reset_guest(slot);
            self.part(slot);
        }
    }
}

/// Takes a payload, if there is room for it.
fn put(conn: &mut Conn, length: u32, payload: &mut impl Payload) -> Result<(), Misuse> {
    let available = payload.available();
    if length > MAX_PAYLOAD || length as usize > available {
        return Err(Misuse::BadLength { length, available });
    }
    let queued = conn.received.len();
    let room = (conn.window as usize).saturating_sub(queued);
    if length as usize > room {
        return Err(Misuse::WindowExceeded { excess: length - room as u32 });
    }
    if conn.discard {
        conn.consume(length as usize);
        return Ok(());
    }
    conn.received.resize(queued + length as usize, 0);
    let (first, second) = conn.received.as_mut_slices();
    let split = first.len();
    let (first, second) =
        if queued < split { (&mut first[queued..], second) } else { (&mut [][..], &mut second[queued - split..]) };
    payload.read_exact(first).and_then(|()| payload.read_exact(second)).map_err(|_| {
        conn.received.truncate(queued);
        Misuse::BadMemory
    })
}
