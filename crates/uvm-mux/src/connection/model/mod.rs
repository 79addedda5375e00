//! Two honest ends, joined by a channel that delivers when and in what pieces it likes, do random things; a simple model
//! says what may come of it.
//!
//! `MUX_MODEL_CASES=200000 cargo test -p uvm-mux --release model` is the long form.

mod action;
mod stream;

use std::collections::{HashMap, VecDeque};
use std::task::{Poll, Waker};

use proptest::prelude::*;
use proptest::test_runner::{Config as ProptestConfig, TestRunner};

use action::{Action, action};
use stream::{LONGEST, ModelStream};

use super::{Connection, QuietWait, Slot};
use crate::config::{Config, Greeting, GuestState, Priority, Role};
use crate::error::{Link, MuxError, StreamError};

/// Owner and guest, and what is between them.
struct World {
    ends: [Connection; 2],
    /// Bytes on their way, by the end that sent them.
    wires: [VecDeque<u8>; 2],
    streams: Vec<ModelStream>,
    /// By the guest's epoch and the id.
    named: HashMap<(u64, u32), usize>,
    owners: u8,
}

const OWNER: usize = 0;
const GUEST: usize = 1;

fn config() -> Config {
    Config::default().with_max_streams(6).with_window(4096).with_max_window(32 * 1024).with_backlog(2)
}

fn owner(number: u8, guest: GuestState) -> Connection {
    let greeting = Greeting { nonce: [number; 16], clock_ns: 0, entropy: [number; 32], guest };
    let mut owner = Connection::new(Role::Owner(greeting), config());
    for port in 1..3 {
        owner.listen(port).expect("a free port");
    }
    owner
}

impl World {
    fn new() -> Self {
        let mut guest = Connection::new(Role::Guest, config());
        for port in 1..3 {
            guest.listen(port).expect("a free port");
        }
        let mut world = Self {
            ends: [owner(1, GuestState::Fresh), guest],
            wires: [VecDeque::new(), VecDeque::new()],
            streams: Vec::new(),
            named: HashMap::new(),
            owners: 1,
        };
        world.carry();
        world
    }

    /// The ends' epoch: that of the guest's link, which only one owner at a time takes part in.
    fn epoch(&self) -> u64 {
        u64::from(self.owners)
    }

    fn name(&mut self, end: usize, slot: Slot) -> usize {
        let id = self.ends[end].id(slot);
        let next = self.streams.len();
        let epoch = self.epoch();
        let index = *self.named.entry((epoch, id)).or_insert(next);
        if index == next {
            self.streams.push(ModelStream {
                seed: next,
                ends: Default::default(),
                directions: Default::default(),
                may_be_cut: false,
                garbled: false,
            });
        }
        self.streams[index].ends[end].slot = Some(slot);
        index
    }

    fn wake(&mut self) {
        for end in &mut self.ends {
            let mut batch = [const { None }; 3];
            while end.take_woken(&mut batch) > 0 {
                batch.iter_mut().filter_map(Option::take).for_each(Waker::wake);
            }
        }
    }

    /// The stream that an action is about: one of the newest that this end holds.
    fn pick(&self, end: usize, stream: usize) -> Option<(usize, Slot)> {
        let held = self.streams.iter().enumerate().rev().filter_map(|(i, s)| s.ends[end].slot.map(|slot| (i, slot)));
        let held: Vec<_> = held.take(8).collect();
        held.get(stream % held.len().max(1)).copied()
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Dial { end, port } => match self.ends[end].dial(port) {
                Ok(slot) => {
                    self.name(end, slot);
                }
                Err(MuxError::TooManyStreams { limit: 6 }) => {}
                Err(MuxError::LinkDown { .. }) => assert!(!self.is_up(end)),
                Err(error) => panic!("{error}"),
            },
            Action::Accept { end, port } => self.accept(end, port),
            Action::Relisten { end, port } => {
                self.ends[end].unlisten(port);
                self.ends[end].listen(port).expect("just closed");
                self.streams.iter_mut().for_each(|stream| stream.may_be_cut |= stream.ends[end].slot.is_none());
            }
            Action::Write { end, stream, len } => {
                if let Some((stream, slot)) = self.pick(end, stream) {
                    self.write(end, stream, slot, len);
                }
            }
            Action::Fill { end, stream, len } => {
                if let Some((stream, slot)) = self.pick(end, stream) {
                    self.fill(end, stream, slot, len);
                }
            }
            Action::Read { end, stream, len } => {
                if let Some((stream, slot)) = self.pick(end, stream) {
                    self.read(end, stream, slot, len);
                }
            }
            Action::Drain { end, stream, len } => {
                if let Some((stream, slot)) = self.pick(end, stream) {
                    self.drain(end, stream, slot, len);
                }
            }
            Action::Shutdown { end, stream } => {
                if let Some((stream, slot)) = self.pick(end, stream) {
                    self.shut_down(end, stream, slot);
                }
            }
            Action::Reset { end, stream } => {
                if let Some((stream, slot)) = self.pick(end, stream) {
                    self.ends[end].reset(slot);
                    self.streams[stream].may_be_cut = true;
                }
            }
            Action::Release { end, stream } => {
                if let Some((stream, slot)) = self.pick(end, stream) {
                    self.release(end, stream, slot);
                }
            }
            Action::Discard { end, stream } => {
                if let Some((stream, slot)) = self.pick(end, stream) {
                    self.ends[end].discard(slot);
                    self.streams[stream].directions[1 - end].discarded = true;
                }
            }
            Action::Prioritise { end, stream } => {
                if let Some((_, slot)) = self.pick(end, stream) {
                    self.ends[end].set_priority(slot, Priority::Control);
                }
            }
            Action::Transmit { end, len } => self.transmit(end, len),
            Action::Deliver { end, len } => self.deliver(end, len),
            Action::Pump { end, stream, rounds } => {
                for _ in 0..rounds {
                    let Some((stream, slot)) = self.pick(end, stream) else { return };
                    self.write(end, stream, slot, 9000);
                    self.carry();
                    if let Some(slot) = self.streams[stream].ends[1 - end].slot {
                        self.read(1 - end, stream, slot, usize::MAX);
                    }
                }
            }
            Action::NewOwner => self.new_owner(),
            Action::Restore { kept } => self.restore(kept),
        }
    }

    fn accept(&mut self, end: usize, port: u32) {
        if let Poll::Ready(accepted) = self.ends[end].poll_accept(port, Waker::noop()) {
            let slot = accepted.expect("not down for good");
            self.name(end, slot);
        }
    }

    fn write(&mut self, end: usize, stream: usize, slot: Slot, len: usize) {
        let model = &mut self.streams[stream];
        let at = model.directions[end].written;
        let data = &model.bytes(end, at)[..len];
        let waiter = &mut model.ends[end].writer;
        let result = self.ends[end].poll_write(slot, &waiter.waker(), data);
        waiter.polled(&result);
        self.written(end, stream, result);
    }

    fn fill(&mut self, end: usize, stream: usize, slot: Slot, len: usize) {
        let model = &mut self.streams[stream];
        let at = model.directions[end].written;
        let waker = model.ends[end].writer.waker();
        let result = self.ends[end].poll_fill(slot, &waker);
        model.ends[end].writer.polled(&result);
        let result = result.map_ok(|(mut block, room)| {
            let n = room.min(len);
            block.spare()[..n].copy_from_slice(&model.bytes(end, at)[..n]);
            block.grow(n);
            self.ends[end].put_pending(slot, block, n);
            n
        });
        self.written(end, stream, result);
    }

    fn written(&mut self, end: usize, stream: usize, result: Poll<std::io::Result<usize>>) {
        let model = &mut self.streams[stream];
        match result {
            Poll::Pending => {}
            Poll::Ready(Ok(n)) => {
                assert!(n > 0 && !model.directions[end].shut, "wrote {n} bytes");
                model.directions[end].written += n;
            }
            Poll::Ready(Err(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                assert!(model.directions[end].shut);
            }
            Poll::Ready(Err(_)) => self.was_cut(end, stream),
        }
    }

    fn read(&mut self, end: usize, stream: usize, slot: Slot, len: usize) {
        let model = &mut self.streams[stream];
        let mut data = Vec::new();
        let waker = model.ends[end].reader.waker();
        let result = self.ends[end].poll_read(slot, &waker, |piece| {
            let n = piece.len().min(len - data.len());
            data.extend_from_slice(&piece[..n]);
            n
        });
        model.ends[end].reader.polled(&result);
        self.was_read(end, stream, &data, &result);
    }

    fn drain(&mut self, end: usize, stream: usize, slot: Slot, len: usize) {
        let model = &mut self.streams[stream];
        let waker = model.ends[end].reader.waker();
        let front = self.ends[end].poll_front(slot, &waker);
        model.ends[end].reader.polled(&front);
        let mut data = Vec::new();
        let result = front.map_ok(|front| {
            front.map_or(0, |block| {
                let n = block.len().min(len);
                data.extend_from_slice(&block.filled()[..n]);
                self.ends[end].put_front(slot, block, n);
                n
            })
        });
        self.was_read(end, stream, &data, &result);
    }

    fn was_read(&mut self, end: usize, stream: usize, data: &[u8], result: &Poll<Result<usize, StreamError>>) {
        let model = &mut self.streams[stream];
        let from = 1 - end;
        let at = model.directions[from].read;
        if !model.garbled && !model.directions[from].discarded {
            for (i, piece) in data.chunks(LONGEST).enumerate() {
                let expected = model.bytes(from, at + i * LONGEST);
                assert!(*piece == expected[..piece.len()], "wrong bytes behind {at} of stream {stream}");
            }
            assert!(at + data.len() <= model.directions[from].written);
        }
        model.directions[from].read += data.len();
        match result {
            Poll::Ready(Ok(0)) => {
                let direction = &mut model.directions[from];
                direction.ended = true;
                assert!(model.garbled || direction.shut, "end of file before it was shut down");
                assert!(
                    model.garbled || direction.discarded || direction.read == direction.written,
                    "end of file after {} of {} bytes",
                    direction.read,
                    direction.written
                );
            }
            Poll::Ready(Ok(n)) => assert_eq!(*n, data.len()),
            Poll::Ready(Err(_)) => self.was_cut(end, stream),
            Poll::Pending => {}
        }
    }

    fn was_cut(&self, end: usize, stream: usize) {
        let model = &self.streams[stream];
        let slot = model.ends[end].slot.expect("held");
        let why = self.ends[end].cut_reason(slot).expect("an error only if cut");
        assert!(model.may_be_cut || matches!(why, StreamError::Refused(_)), "cut for nothing: {why}");
    }

    fn shut_down(&mut self, end: usize, stream: usize, slot: Slot) {
        self.ends[end].shut_down(slot);
        let model = &mut self.streams[stream];
        model.directions[end].shut = true;
        model.ends[end].writer.waiting = false; // it was the writer itself
    }

    fn release(&mut self, end: usize, stream: usize, slot: Slot) {
        let model = &mut self.streams[stream];
        // Dropped after both ends were done: nothing is cut. Otherwise the other end may see a reset.
        model.may_be_cut |= !(model.directions[end].shut && model.directions[1 - end].ended);
        model.ends[end].slot = None;
        self.ends[end].release(slot);
    }

    fn transmit(&mut self, end: usize, len: usize) {
        let bytes = self.ends[end].transmit();
        assert!(bytes.len() <= crate::frame::MAX_FRAME);
        let n = bytes.len().min(len);
        self.wires[end].extend(&bytes[..n]);
        self.ends[end].transmitted(n);
        self.wake();
    }

    fn deliver(&mut self, to: usize, len: usize) {
        let wire = &mut self.wires[1 - to];
        let bytes: Vec<u8> = wire.drain(..len.min(wire.len())).collect();
        self.ends[to].receive(&bytes);
        self.wake();
    }

    /// Carries everything there is to send, both ways.
    fn carry(&mut self) {
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

    fn is_up(&self, end: usize) -> bool {
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

    fn new_owner(&mut self) {
        if self.owners == u8::MAX {
            return;
        }
        self.deliver(GUEST, usize::MAX);
        self.ends[GUEST].hang_up();
        self.wires[GUEST].clear();
        self.replace_owner(GuestState::Fresh);
        self.carry();
    }

    fn restore(&mut self, kept: usize) {
        if self.owners == u8::MAX {
            return;
        }
        self.wires[OWNER].truncate(kept);
        self.wires[GUEST].truncate(40_000); // QEMU saves what it had read from the guest
        self.streams.iter_mut().for_each(|stream| stream.garbled = true);
        self.replace_owner(GuestState::Restored);
        self.carry();
    }

    fn check(&self) {
        self.ends.iter().for_each(Connection::assert_bounds);
        for end in [OWNER, GUEST] {
            assert!(self.is_up(end), "{:?}", self.ends[end].link());
        }
    }

    /// Lets both ends finish: everything is read, shut down and let go of. Nothing may remain.
    fn settle(&mut self) {
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
            assert_eq!(end.usage(), super::Usage::default());
            assert_eq!((end.unanswered, end.backlogged), (0, 0));
        }
    }
}

#[test]
fn honest_ends_deliver_every_byte_or_a_reset_and_settle() {
    let cases = std::env::var("MUX_MODEL_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1500);
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let result =
        TestRunner::new(config).run(&prop::collection::vec(any::<u64>().prop_map(action), 1..300), |actions| {
            let mut world = World::new();
            for action in actions {
                world.act(action);
                world.wake();
                world.check();
            }
            world.settle();
            Ok(())
        });
    if let Err(error) = result {
        panic!("{error}");
    }
}
