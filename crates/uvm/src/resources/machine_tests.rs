//! The state machine against a reference model that only counts.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::*;

type TestMachine = Machine<u8, u32, u8>;

/// By their words: what they stem from cannot be compared.
impl PartialEq for ResourceError {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

fn plan() -> Plan {
    Plan::default()
}

fn step() -> Step {
    Step { to: plan(), host: None, guest: None }
}

fn broken() -> ResourceError {
    ResourceError::NoScsiControllers
}

/// One step of a history. Keys are few, so that they meet.
#[derive(Clone, Debug)]
enum Move {
    Ask(u8),
    Change(u8),
    Release(usize),
    /// The n-th operation under way ends so.
    Finish(usize, Outcome),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Well,
    Badly,
    /// Attaching: something is left. Detaching: the guest has let go.
    Halfway,
}

fn steps() -> impl Strategy<Value = Move> {
    let outcome = prop_oneof![4 => Just(Outcome::Well), 1 => Just(Outcome::Badly), 1 => Just(Outcome::Halfway)];
    prop_oneof![
        4 => (0..3_u8).prop_map(Move::Ask),
        1 => (0..3_u8).prop_map(Move::Change),
        3 => any::<usize>().prop_map(Move::Release),
        6 => (any::<usize>(), outcome).prop_map(|(which, outcome)| Move::Finish(which, outcome)),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Attach,
    Change,
    Detach,
}

/// A machine, what it has under way, and what a bookkeeper knows of it.
#[derive(Default)]
struct World {
    machine: TestMachine,
    under_way: Vec<(Kind, EntryId, Progress)>,
    /// Who has a count, of which entry.
    holders: BTreeMap<u32, EntryId>,
    /// Who still waits: for a thing, or for a release.
    waiting: BTreeMap<u32, &'static str>,
    keys: HashMap<EntryId, u8>,
    next: u32,
}

impl World {
    fn waiter(&mut self, what: &'static str) -> u32 {
        self.next += 1;
        self.waiting.insert(self.next, what);
        self.next
    }

    fn ask(&mut self, key: u8, waiter: u32, change: bool) {
        let effects: Vec<_> = match self.machine.find(&key).map(|(id, _)| id) {
            None => {
                let (id, effect) = self.machine.begin(key, plan(), waiter);
                self.keys.insert(id, key);
                vec![effect]
            }
            Some(id) if change => self.machine.change(id, step(), key, waiter).into_iter().collect(),
            Some(id) => self.machine.join(id, key, waiter).into_iter().collect(),
        };
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect<u32, u8>>) {
        for effect in effects {
            match effect {
                Effect::Attach(id, _) => self.begin(Kind::Attach, id, Progress::default()),
                Effect::Change(id, _) => self.begin(Kind::Change, id, Progress::default()),
                Effect::Detach(id, _, progress) => {
                    assert!(!self.holders.values().any(|held| *held == id), "nobody may have what goes");
                    self.begin(Kind::Detach, id, progress);
                }
                Effect::Grant(id, waiter) => {
                    assert_eq!(self.waiting.remove(&waiter), Some("thing"));
                    assert!(self.machine.attached_plan(id).is_some(), "it is there");
                    self.holders.insert(waiter, id);
                }
                Effect::Fail(waiter, _) => assert!(self.waiting.remove(&waiter).is_some(), "answered once"),
                Effect::Released(waiter) => assert_eq!(self.waiting.remove(&waiter), Some("release")),
                Effect::Retry(key, waiter) => self.ask(key, waiter, false),
                Effect::Freed(id) => {
                    assert!(self.keys.remove(&id).is_some(), "freed once");
                    assert!(!self.holders.values().any(|held| *held == id));
                }
            }
        }
    }

    fn begin(&mut self, kind: Kind, id: EntryId, progress: Progress) {
        assert!(!self.under_way.iter().any(|(_, other, _)| *other == id), "one operation at a time");
        self.under_way.push((kind, id, progress));
    }

    fn step(&mut self, step: &Move) {
        match step {
            Move::Ask(key) => {
                let waiter = self.waiter("thing");
                self.ask(*key, waiter, false);
            }
            Move::Change(key) => {
                let waiter = self.waiter("thing");
                self.ask(*key, waiter, true);
            }
            Move::Release(which) => {
                let holders: Vec<_> = self.holders.iter().map(|(who, id)| (*who, *id)).collect();
                let Some((who, id)) = holders.get(which % holders.len().max(1)).copied() else { return };
                self.holders.remove(&who);
                let waiter = self.waiter("release");
                let effects = self.machine.release(id, Some(waiter)).into_iter().collect();
                self.carry_out(effects);
            }
            Move::Finish(which, outcome) => {
                if self.under_way.is_empty() {
                    return;
                }
                let (kind, id, mut progress) = self.under_way.remove(which % self.under_way.len());
                let is_left = *outcome == Outcome::Halfway;
                let well = *outcome == Outcome::Well;
                let effects = match kind {
                    Kind::Attach if well => self.machine.attached(id, Ok(())),
                    Kind::Attach => self.machine.attached(id, Err(AttachFailed { error: broken(), is_left })),
                    Kind::Change if well => self.machine.changed(id, Ok(())),
                    Kind::Change => self.machine.changed(id, Err(broken())),
                    Kind::Detach if well => self.machine.detached(id, Ok(())),
                    Kind::Detach => {
                        progress.guest_is_done |= is_left;
                        self.machine.detached(id, Err(DetachFailed { error: broken(), progress }))
                    }
                };
                self.carry_out(effects);
            }
        }
    }

    /// Everything under way ends well; whoever has something gives it back; what is left half attached is released.
    fn settle(&mut self) {
        loop {
            while !self.under_way.is_empty() {
                self.step(&Move::Finish(0, Outcome::Well));
            }
            if self.holders.is_empty() {
                let Some(id) = self.keys.keys().next().copied() else { break };
                let waiter = self.waiter("release");
                let effects = self.machine.release(id, Some(waiter)).into_iter().collect();
                self.carry_out(effects);
            } else {
                self.step(&Move::Release(0));
            }
        }
        assert!(self.waiting.is_empty(), "{:?} still wait", self.waiting);
        assert!(self.machine.entries.is_empty() && self.machine.keys.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Whatever happens in whichever order: each is answered once, nobody loses a thing that somebody has, and nothing is
    /// left in the end.
    #[test]
    fn any_history_keeps_the_books(history in prop::collection::vec(steps(), 1..80)) {
        let mut world = World::default();
        for step in &history {
            world.step(step);
        }
        world.settle();
    }
}

#[test]
fn d38_a_count_goes_down_after_the_removal_and_never_below_nothing() {
    let mut machine = TestMachine::default();
    let (id, _) = machine.begin(0, plan(), 1);
    machine.attached(id, Ok(()));
    assert!(matches!(machine.release(id, Some(2)), Some(Effect::Detach(..))));
    assert!(matches!(machine.release(id, Some(3)), Some(Effect::Fail(3, _))), "nobody has it");
    let failed = DetachFailed { error: broken(), progress: Progress::default() };
    assert!(matches!(machine.detached(id, Err(failed)).as_slice(), [Effect::Fail(2, _)]));
    assert!(matches!(machine.release(id, Some(4)), Some(Effect::Detach(..))), "it is still one's own");
    let effects = machine.detached(id, Ok(()));
    assert_eq!(effects, [Effect::Freed(id), Effect::Released(4)]);
    assert!(
        matches!(machine.release(id, Some(5)), Some(Effect::Fail(5, error)) if *error == ResourceError::NotAttached)
    );
}

#[test]
fn d33_what_the_guest_has_let_go_of_is_not_asked_of_it_again() {
    let mut machine = TestMachine::default();
    let (id, _) = machine.begin(0, plan(), 1);
    machine.attached(id, Ok(()));
    machine.release(id, None);
    let progress = Progress { guest_is_done: true };
    machine.detached(id, Err(DetachFailed { error: broken(), progress }));
    assert!(
        matches!(machine.join(id, 0, 2), Some(Effect::Fail(2, error)) if matches!(*error, ResourceError::Broken { .. }))
    );
    assert!(matches!(machine.release(id, None), Some(Effect::Detach(_, _, from)) if from == progress));
}

#[test]
fn d36_who_asks_during_the_attach_waits_and_shares_its_error() {
    let mut machine = TestMachine::default();
    let (id, _) = machine.begin(0, plan(), 1);
    assert_eq!(machine.join(id, 0, 2), None);
    let effects = machine.attached(id, Err(AttachFailed { error: broken(), is_left: false }));
    assert!(matches!(effects.as_slice(), [Effect::Freed(_), Effect::Fail(1, _), Effect::Fail(2, _)]), "{effects:?}");
    assert!(machine.find(&0).is_none());
}

#[test]
fn d40_what_the_vm_was_created_with_stays() {
    let mut machine = TestMachine::default();
    let id = machine.pin(0, plan(), "it booted from it");
    assert!(matches!(machine.join(id, 0, 1), Some(Effect::Grant(..))), "it can be shared");
    assert_eq!(machine.release(id, Some(2)), Some(Effect::Released(2)));
    assert!(
        matches!(machine.release(id, Some(3)), Some(Effect::Fail(3, error)) if matches!(*error, ResourceError::Pinned { .. }))
    );
}
