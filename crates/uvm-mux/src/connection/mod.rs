//! One end of a mux as a state machine without I/O.
//!
//! Bytes from the channel go in by [`Connection::receive`], bytes for it come out by [`Connection::transmit`]; what the
//! handles do (dial, accept, read, write, shut down, drop) are calls in between. Whoever has to wait leaves a
//! [`Waker`], and gets it back through [`Connection::take_woken`] when it is worth another try.
//!
//! ```text
//!   owner:  AwaitingAck --HELLO_ACK--> Up --any failure, channel closed--> Down
//!   guest:  AwaitingHello --HELLO--> Up --HELLO with a new nonce--> Up (next epoch)
//!                ^  ^                |--channel closed--> AwaitingHello
//!                |  |                `--protocol error--> Deaf
//!                |  `--32,768 zeros, or channel closed------'
//!                `--(channel failed, closed here: Down)
//! ```
//!
//! Everything that the other end can make grow is bounded: streams, and OPENs that wait for an answer, by `max_streams`;
//! bytes received by the windows; frames due are flags of a stream, so each stands in a queue once.

mod block;
mod flow;
mod local;
mod queue;
mod receive;
mod scan;
mod stream;
mod table;
mod transmit;
mod usage;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::task::Waker;

use self::block::Pool;
use self::flow::Traffic;
use self::receive::Parser;
use self::scan::Scanner;
use self::stream::{Handshake, Stream};
pub use self::table::Slot;
use self::table::{IntMap, Table};
use self::transmit::Out;
pub use self::transmit::ToSend;
pub use self::usage::Usage;
use crate::config::{Config, GuestState, Priority, Role};
use crate::error::{Down, Link, StreamError};
use crate::frame::{Hello, MAX_CONTROL_PAYLOAD, Nonce, Refusal, VERSION};

/// One end of a mux, without I/O. See the [module](self).
#[derive(Debug)]
pub struct Connection {
    config: Config,
    is_owner: bool,
    phase: Phase,
    link_changed: bool,
    epoch: u64,
    /// The last greeting: ours at the owner, the owner's at the guest.
    hello: Option<Hello>,
    /// What the other end takes.
    peer: PeerLimits,

    parser: Parser,
    /// The payload of the frame that the parser is in, if that is not DATA.
    scratch: [u8; MAX_CONTROL_PAYLOAD],
    out: Out,
    pool: Pool,

    table: Table,
    /// How many of them have control priority.
    control_streams: usize,
    listeners: IntMap<Listener>,
    /// The next id this end, and the other end, dials with; past 32 bits when there is none left.
    next_local: u64,
    next_remote: u64,
    /// Streams dialled here whose answer has not come, dropped ones included.
    unanswered: u32,
    /// Streams in backlogs.
    backlogged: u32,
    /// Answers due for streams that are not kept.
    refusals: VecDeque<(u32, Refusal)>,
    /// Streams with frames due, and with data pending: of control priority, of bulk priority.
    control: VecDeque<Slot>,
    ready: [VecDeque<Slot>; 2],

    /// Something to send should go now. Without it, what there is may wait for the driver's turn.
    urgent: bool,

    traffic: Traffic,
    /// Window given beyond the usual one, all streams together.
    extra_window: u32,

    pings: Pings,
    /// Counts dials and OPENs, to tell whether there were any since a moment.
    opened: u64,
    woken: Vec<Waker>,
    waiting_for_quiet: Vec<Waker>,
}

#[derive(Debug)]
enum Phase {
    AwaitingAck { scanner: Scanner },
    AwaitingHello { why: Down },
    Up,
    Deaf { why: Down, zeros: usize },
    Down { why: Down },
}

#[derive(Clone, Copy, Debug)]
struct PeerLimits {
    window: u32,
    max_streams: u32,
}

#[derive(Debug, Default)]
struct Listener {
    backlog: VecDeque<Slot>,
    waker: Option<Waker>,
}

/// PINGs of this end. A PONG answers all that were sent before it.
#[derive(Debug, Default)]
struct Pings {
    /// The token of the last one made.
    made: u32,
    /// It is not sent yet.
    due: bool,
    answered: u32,
}

/// How far a wait for quiet has come. See [`Connection::poll_quiet`].
#[derive(Debug, Default)]
pub struct QuietWait {
    /// The token of its PING, and how many streams had been opened then.
    asked: Option<(u32, u64)>,
}

impl Connection {
    /// A new end. An owner's has its HELLO to send.
    #[must_use]
    pub fn new(role: Role, config: Config) -> Self {
        let (is_owner, phase, hello, out) = match role {
            Role::Owner(greeting) => {
                let hello = Hello {
                    nonce: greeting.nonce,
                    version: VERSION,
                    window: config.window(),
                    max_streams: config.max_streams(),
                    clock_ns: greeting.clock_ns,
                    entropy: greeting.entropy,
                };
                let scanner = Scanner::new(&greeting.nonce);
                let out = Out::greeting(hello, greeting.guest == GuestState::Restored);
                (true, Phase::AwaitingAck { scanner }, Some(hello), out)
            }
            Role::Guest => (false, Phase::AwaitingHello { why: Down::NoOwnerYet }, None, Out::default()),
        };
        let mut connection = Self {
            config,
            is_owner,
            phase,
            link_changed: false,
            epoch: 0,
            hello,
            peer: PeerLimits { window: 0, max_streams: 0 },
            parser: Parser::default(),
            scratch: [0; MAX_CONTROL_PAYLOAD],
            out,
            pool: Pool::default(),
            table: Table::default(),
            control_streams: 0,
            listeners: IntMap::default(),
            next_local: 0,
            next_remote: 0,
            unanswered: 0,
            backlogged: 0,
            refusals: VecDeque::new(),
            control: VecDeque::new(),
            ready: [VecDeque::new(), VecDeque::new()],
            urgent: true, // an owner's HELLO
            traffic: Traffic::default(),
            extra_window: 0,
            pings: Pings::default(),
            opened: 0,
            woken: Vec::new(),
            waiting_for_quiet: Vec::new(),
        };
        connection.restart_ids();
        connection
    }

    /// Whether the link is up, and why not.
    pub fn link(&self) -> Link {
        match self.why_down() {
            None => Link::Up { epoch: self.epoch },
            Some(why) => Link::Down { why },
        }
    }

    /// Why the link is not up, if it is not.
    fn why_down(&self) -> Option<Down> {
        match &self.phase {
            Phase::Up => None,
            Phase::AwaitingAck { .. } => Some(Down::NoAnswerYet),
            Phase::AwaitingHello { why } | Phase::Deaf { why, .. } | Phase::Down { why } => Some(why.clone()),
        }
    }

    /// `true` once after each change of [`link`](Self::link).
    pub fn take_link_change(&mut self) -> bool {
        std::mem::take(&mut self.link_changed)
    }

    /// Why the link can never be up again, if so.
    pub fn dead(&self) -> Option<&Down> {
        match &self.phase {
            Phase::Down { why } => Some(why),
            _ => None,
        }
    }

    /// The owner's last greeting.
    pub fn hello(&self) -> Option<&Hello> {
        self.hello.as_ref()
    }

    /// The channel ended: the other end was closed. An owner's link is down for good; a guest waits for the next HELLO.
    pub fn hang_up(&mut self) {
        match &self.phase {
            Phase::Down { .. } => {}
            Phase::AwaitingHello { .. } if !self.is_owner => self.parser = Parser::default(),
            _ => self.fail(Down::Closed),
        }
    }

    /// Takes the link down. An owner's is down for good, a guest's depending on why.
    pub fn fail(&mut self, why: Down) {
        let next = if self.is_owner || !why.guest_recovers() {
            Phase::Down { why }
        } else if matches!(why, Down::Protocol(_)) {
            Phase::Deaf { why, zeros: 0 }
        } else {
            Phase::AwaitingHello { why }
        };
        self.go_down(next);
    }

    /// Takes the link down for good.
    pub fn end(&mut self, why: Down) {
        self.go_down(Phase::Down { why });
    }

    fn go_down(&mut self, next: Phase) {
        if self.dead().is_some() {
            return;
        }
        self.phase = next;
        if let Some(why) = self.why_down() {
            self.cut_all(&StreamError::LinkDown(why));
        }
        self.parser = Parser::default();
        if self.dead().is_some() {
            for listener in self.listeners.values_mut() {
                self.woken.extend(listener.waker.take());
            }
        }
        self.link_changed = true;
        self.wake_waiting_for_quiet();
    }

    /// Replaces a connection that a panic may have left inconsistent by one that is down, and wakes everybody.
    pub(crate) fn bury(&mut self) {
        let role = Role::Guest;
        let mut old = std::mem::replace(self, Self::new(role, self.config));
        for slot in old.table.slots() {
            if let Some(stream) = old.table.get_mut(slot) {
                self.woken.extend(stream.reader.take());
                self.woken.extend(stream.writer.take());
            }
        }
        self.woken.extend(old.listeners.into_values().filter_map(|listener| listener.waker));
        self.woken.append(&mut old.woken);
        self.woken.append(&mut old.waiting_for_quiet);
        self.phase = Phase::Down { why: Down::Panicked };
        self.link_changed = true;
    }

    /// Adds one to those that [`take_woken`](Self::take_woken) gives out.
    pub(crate) fn wake(&mut self, waker: Waker) {
        self.woken.push(waker);
    }

    /// Fills `batch` with wakers that are due and returns how many; call again until it is 0. The caller wakes them
    /// after it has let go of whatever guards this connection.
    pub fn take_woken(&mut self, batch: &mut [Option<Waker>]) -> usize {
        let n = self.woken.len().min(batch.len());
        for (place, waker) in batch.iter_mut().zip(self.woken.drain(..n)) {
            *place = Some(waker);
        }
        n
    }

    fn begin_epoch(&mut self, peer: PeerLimits) {
        self.cut_all(&StreamError::NewEpoch);
        self.peer = peer;
        self.epoch += 1;
        self.phase = Phase::Up;
        self.link_changed = true;
    }

    /// Ends all streams and forgets whatever was to be sent.
    fn cut_all(&mut self, why: &StreamError) {
        for slot in self.table.slots() {
            if let Some(stream) = self.table.get_mut(slot) {
                (stream.in_control, stream.in_ready) = (false, false);
                cut(stream, why.clone(), &mut self.pool, &mut self.woken);
                self.retire(slot);
            }
        }
        for listener in self.listeners.values_mut() {
            listener.backlog.clear();
        }
        self.table.forget_all_ids();
        self.refusals = VecDeque::new();
        self.control = VecDeque::new();
        self.ready = [VecDeque::new(), VecDeque::new()];
        (self.unanswered, self.backlogged) = (0, 0);
        self.traffic = Traffic::default();
        self.pings = Pings::default();
        self.out.clear(&mut self.pool);
        self.restart_ids();
    }

    fn restart_ids(&mut self) {
        (self.next_local, self.next_remote) = if self.is_owner { (0, 1) } else { (1, 0) };
    }

    fn nonce(&self) -> Option<Nonce> {
        self.hello.map(|hello| hello.nonce)
    }

    /// Frees a stream if nothing remains to be done for it.
    fn retire(&mut self, slot: Slot) {
        if self.table.get(slot).is_some_and(Stream::is_done)
            && let Some(mut stream) = self.table.remove(slot)
        {
            self.extra_window -= stream.window.saturating_sub(self.config.window());
            self.control_streams -= usize::from(stream.priority == Priority::Control);
            stream.queue.clear(&mut self.pool);
            self.give_memory_back();
            if self.table.is_empty() {
                self.wake_waiting_for_quiet();
            }
        }
    }

    /// Keeps no memory for reuse while there is no stream that carries bulk.
    fn give_memory_back(&mut self) {
        if self.table.len() == self.control_streams {
            self.pool.trim();
        }
    }

    fn wake_waiting_for_quiet(&mut self) {
        self.woken.append(&mut self.waiting_for_quiet);
    }
}

/// Ends a stream here: nothing more is sent for it, and what waits on it is woken. What was received stays to be read.
fn cut(stream: &mut Stream, why: StreamError, pool: &mut Pool, woken: &mut Vec<Waker>) {
    if stream.cut.is_none() {
        stream.cut = Some(why);
    }
    if stream.handshake == Handshake::Waiting {
        stream.handshake = Handshake::Done; // it was never held, and leaves its backlog
    }
    stream.due = stream::Due::default();
    if let Some(block) = stream.pending.take() {
        pool.give(block);
    }
    woken.extend(stream.reader.take());
    woken.extend(stream.writer.take());
}
