//! Two honest ends, joined by a channel that delivers when and in what pieces it likes, do random things; a simple model
//! says what may come of it.
//!
//! `MUX_MODEL_CASES=200000 cargo test -p uvm-mux --release model` is the long form.

mod action;
mod settle;
mod stream;
mod transfers;
mod wire;

use std::collections::{HashMap, VecDeque};
use std::task::Waker;

use proptest::prelude::*;
use proptest::test_runner::{Config as ProptestConfig, TestRunner};

use action::{Action, action};
use stream::ModelStream;

use super::{Connection, Slot};
use crate::config::{Config, Greeting, GuestState, Priority, Role};
use crate::error::MuxError;

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

    fn check(&self) {
        self.ends.iter().for_each(Connection::assert_bounds);
        for end in [OWNER, GUEST] {
            assert!(self.is_up(end), "{:?}", self.ends[end].link());
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
