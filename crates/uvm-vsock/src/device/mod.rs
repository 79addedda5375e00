//! The rules of the device, without I/O: packets in, packets out, and what handles ask for.
//!
//! Nothing here waits or sends by itself. Handles and the thread of the rings call it under one lock, move packets between it
//! and the guest's rings, and wake tasks.

mod conn;
mod local;
mod receive;
mod transmit;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::task::Waker;

use conn::{Conn, Phase, Ports};

use crate::config::{Config, Priority};
use crate::error::{Down, Link, StreamError};
use crate::header::{HOST_CID, Header, Op, TYPE_STREAM};

pub use receive::Payload;
pub use transmit::Outgoing;

/// Names a stream at this end; never used twice.
pub type Slot = u64;

/// Answers to what belongs to no stream that may wait for the guest to take them. Past that, no packet of the guest is
/// read until it takes some: a guest that provokes answers waits for itself.
const MAX_RESETS: usize = 256;
/// Streams that may have the larger window at once.
const MAX_LARGE: u32 = 8;

/// The device's state.
pub struct Device {
    config: Config,
    link: Link,
    link_changed: bool,
    dead: Option<Down>,
    epochs: u64,
    conns: HashMap<Slot, Conn>,
    /// Those that the guest knows.
    by_ports: HashMap<Ports, Slot>,
    next_slot: Slot,
    next_port: u32,
    /// Streams with the larger window, also those that the guest has closed and that hold more than the smaller one.
    large: u32,
    listeners: HashMap<u32, Listener>,
    /// Streams that nobody holds, oldest first.
    lingering: BTreeSet<Slot>,
    resets: VecDeque<Header>,
    control: VecDeque<Slot>,
    bulk: VecDeque<Slot>,
    woken: Vec<Waker>,
    quiet: Vec<Waker>,
}

#[derive(Default)]
struct Listener {
    backlog: VecDeque<Slot>,
    waker: Option<Waker>,
}

/// What a device holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Streams that the guest knows.
    pub streams: usize,
    /// Bytes received and not read.
    pub received: usize,
    /// Bytes written here and not sent.
    pub unsent: usize,
    /// Packets that wait and belong to no stream.
    pub resets: usize,
}

impl Device {
    /// A device without a driver.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            link: Link::Down { why: Down::NoDriverYet },
            link_changed: false,
            dead: None,
            epochs: 0,
            conns: HashMap::new(),
            by_ports: HashMap::new(),
            next_slot: 0,
            next_port: FIRST_OWN_PORT,
            large: 0,
            listeners: HashMap::new(),
            lingering: BTreeSet::new(),
            resets: VecDeque::new(),
            control: VecDeque::new(),
            bulk: VecDeque::new(),
            woken: Vec::new(),
            quiet: Vec::new(),
        }
    }

    /// The guest's context id.
    pub fn cid(&self) -> u64 {
        self.config.cid
    }

    /// Whether the driver is there.
    pub fn link(&self) -> Link {
        self.link.clone()
    }

    /// What it holds now.
    pub fn usage(&self) -> Usage {
        Usage {
            streams: self.by_ports.len(),
            received: self.conns.values().map(|conn| conn.received.len()).sum(),
            unsent: self.conns.values().map(|conn| conn.unsent.len()).sum(),
            resets: self.resets.len(),
        }
    }

    /// `true` if [`link`](Self::link) changed since this was last asked.
    pub fn take_link_change(&mut self) -> bool {
        std::mem::take(&mut self.link_changed)
    }

    /// Why the device is of no more use, if it is.
    pub fn dead(&self) -> Option<&Down> {
        self.dead.as_ref()
    }

    /// Takes the wakers of those whose wait may be over.
    pub fn take_woken(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.woken)
    }

    /// The driver has begun to use its rings. All it knew of streams before is forgotten.
    pub fn driver_started(&mut self) {
        if self.dead.is_some() {
            return;
        }
        self.cut_all(&StreamError::NewEpoch);
        self.epochs += 1;
        self.set_link(Link::Up { epoch: self.epochs });
    }

    /// The device was reset, and no driver has taken it since.
    pub fn driver_gone(&mut self) {
        if self.is_up() {
            self.cut_all(&StreamError::LinkDown(Down::Reset));
            self.set_link(Link::Down { why: Down::Reset });
        }
    }

    /// The device ends, for the reason given; the first reason stays.
    pub fn end(&mut self, why: Down) {
        if self.dead.is_some() {
            return;
        }
        self.dead = Some(why.clone());
        self.cut_all(&StreamError::LinkDown(why.clone()));
        for listener in self.listeners.values_mut() {
            self.woken.extend(listener.waker.take());
        }
        self.woken.append(&mut self.quiet);
        self.set_link(Link::Down { why });
    }

    fn set_link(&mut self, link: Link) {
        self.link = link;
        self.link_changed = true;
    }

    /// Cuts all streams. The guest is told nothing: it knows them no more.
    fn cut_all(&mut self, why: &StreamError) {
        self.resets.clear();
        self.control.clear();
        self.bulk.clear();
        self.by_ports.clear();
        self.lingering.clear();
        for listener in self.listeners.values_mut() {
            for slot in listener.backlog.drain(..) {
                self.conns.remove(&slot);
            }
        }
        let small = self.config.window;
        self.conns.retain(|_, conn| !conn.lingering);
        self.large = 0;
        for conn in self.conns.values_mut() {
            conn.scheduled = false;
            if conn.received.len() <= small as usize {
                conn.window = small;
            }
            self.large += u32::from(conn.window > small);
            if conn.phase != Phase::Gone {
                conn.phase = Phase::Gone;
                conn.unsent = VecDeque::new();
                if !conn.is_finished() {
                    conn.cut = Some(why.clone());
                }
            }
            self.woken.extend(conn.reader.take());
            self.woken.extend(conn.writer.take());
        }
        self.woken.append(&mut self.quiet);
    }

    fn is_up(&self) -> bool {
        matches!(self.link, Link::Up { .. })
    }

    fn add(&mut self, conn: Conn) -> Slot {
        let slot = self.next_slot;
        self.next_slot += 1;
        self.by_ports.insert(conn.ports, slot);
        self.conns.insert(slot, conn);
        slot
    }

    /// Makes room for one more stream: one that only waits for the guest's last word gives way. One that the guest has
    /// closed counts as long as it is held here or waits to be accepted: it keeps what was not read.
    fn has_room(&mut self) -> bool {
        while self.conns.len() >= self.config.max_streams as usize {
            let Some(slot) = self.lingering.pop_first() else { return false };
            self.reset_guest(slot);
            self.forget(slot);
        }
        true
    }

    /// The guest knows this stream no more.
    fn part(&mut self, slot: Slot) {
        let Some(conn) = self.conns.get_mut(&slot) else { return };
        if conn.phase == Phase::Gone {
            return;
        }
        conn.phase = Phase::Gone;
        conn.lost |= !conn.unsent.is_empty();
        conn.unsent = VecDeque::new();
        self.by_ports.remove(&conn.ports);
        self.woken.extend(conn.reader.take());
        self.woken.extend(conn.writer.take());
        if conn.lingering {
            self.lingering.remove(&slot);
            self.remove(slot);
        } else {
            self.shrink(slot);
        }
        self.unqueue(slot);
        self.tell_quiet();
    }

    /// The stream is cut, for the reason given.
    fn cut(&mut self, slot: Slot, why: StreamError) {
        if let Some(conn) = self.conns.get_mut(&slot) {
            conn.cut.get_or_insert(why);
        }
        self.part(slot);
    }

    /// The stream is gone at both ends.
    fn forget(&mut self, slot: Slot) {
        self.part(slot);
        self.remove(slot);
    }

    fn remove(&mut self, slot: Slot) {
        if let Some(conn) = self.conns.remove(&slot)
            && conn.window > self.config.window
        {
            self.large -= 1;
        }
    }

    /// A stream that the guest has closed gives the larger window back once what it holds needs it no more.
    fn shrink(&mut self, slot: Slot) {
        let small = self.config.window;
        if let Some(conn) = self.conns.get_mut(&slot)
            && conn.phase == Phase::Gone
            && conn.window > small
            && conn.received.len() <= small as usize
        {
            conn.window = small;
            self.large -= 1;
        }
    }

    /// Tells the guest that the stream is no more, if it knows it.
    fn reset_guest(&mut self, slot: Slot) {
        if let Some(conn) = self.conns.get(&slot)
            && matches!(conn.phase, Phase::Dialled | Phase::Open)
        {
            let reset = self.packet(Op::Reset, conn.ports, TYPE_STREAM);
            self.resets.push_back(reset);
        }
    }

    fn packet(&self, op: Op, ports: Ports, kind: u16) -> Header {
        Header {
            from_cid: HOST_CID,
            to_cid: self.config.cid,
            from_port: ports.host,
            to_port: ports.guest,
            length: 0,
            kind,
            op: Some(op),
            flags: 0,
            window: 0,
            consumed: 0,
        }
    }

    /// Puts the stream among those that have something to send, if it has.
    fn schedule(&mut self, slot: Slot) {
        let Some(conn) = self.conns.get_mut(&slot) else { return };
        if !conn.scheduled && conn.next_op().is_some() {
            conn.scheduled = true;
            match conn.priority {
                Priority::Control => self.control.push_back(slot),
                Priority::Bulk => self.bulk.push_back(slot),
            }
        }
    }

    /// Takes the stream off the list of those that have something to send.
    fn unqueue(&mut self, slot: Slot) {
        if self.conns.get(&slot).is_none_or(|conn| conn.scheduled) {
            self.control.retain(|&other| other != slot);
            self.bulk.retain(|&other| other != slot);
        }
        if let Some(conn) = self.conns.get_mut(&slot) {
            conn.scheduled = false;
        }
    }

    fn tell_quiet(&mut self) {
        if self.by_ports.is_empty() && self.resets.is_empty() {
            self.woken.append(&mut self.quiet);
        }
    }
}

/// Ports that dials from here come from count up from this one: away from those that programs are known by.
const FIRST_OWN_PORT: u32 = 0x8000_0000;
