//! The state machine against a reference model that only counts.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;
use uvm_platform::PlatformError;
use uvm_platform::requests::VmAccess;

use super::*;

type TestMachine = Machine<u8, u32, (u8, u8)>;

/// By their words: what they stem from cannot be compared.
impl PartialEq for ResourceError {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

fn plan() -> Plan {
    Plan::default()
}

/// A plan with these parts.
fn with_parts(parts: &BTreeSet<u8>) -> Plan {
    let words: Vec<String> = parts.iter().map(ToString::to_string).collect();
    Plan { grant: Some((PathBuf::from(words.join(" ")), VmAccess::Noop)), ..plan() }
}

fn parts_of(plan: &Plan) -> BTreeSet<u8> {
    let words = plan.grant.as_ref().map(|(words, _)| words.to_string_lossy().into_owned()).unwrap_or_default();
    words.split_whitespace().map(|word| word.parse().expect("a part")).collect()
}

fn step_to(parts: &BTreeSet<u8>) -> Step {
    Step { to: with_parts(parts), host: None, guest: None }
}

fn broken() -> ResourceError {
    ResourceError::NoScsiControllers
}

/// A thing of this key has parts; others are their own only part.
const PARTED: u8 = 2;

/// One step of a history. Keys and parts are few, so that they meet.
#[derive(Clone, Debug)]
enum Move {
    Ask(u8, u8),
    Change(u8, u8),
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

fn keys() -> impl Strategy<Value = (u8, u8)> {
    prop_oneof![(0..PARTED).prop_map(|key| (key, key)), (10..13_u8).prop_map(|part| (PARTED, part))]
}

fn steps() -> impl Strategy<Value = Move> {
    let outcome = prop_oneof![4 => Just(Outcome::Well), 1 => Just(Outcome::Badly), 1 => Just(Outcome::Halfway)];
    prop_oneof![
        4 => keys().prop_map(|(key, part)| Move::Ask(key, part)),
        1 => keys().prop_map(|(key, part)| Move::Change(key, part)),
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
    /// Who has a count, of which entry and part.
    holders: BTreeMap<u32, (EntryId, u8)>,
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

    fn ask(&mut self, (key, part): (u8, u8), waiter: u32, change: bool) {
        let found = self.machine.find(&key).map(|(id, plan)| (id, parts_of(plan)));
        let effects: Vec<_> = match found {
            None => {
                let (id, effect) = self.machine.begin(key, part, with_parts(&BTreeSet::from([part])), waiter);
                self.keys.insert(id, key);
                vec![effect]
            }
            Some((id, mut parts)) => {
                let is_other = parts.insert(part) || change;
                let effect = if is_other && !self.machine.is_in_motion(id) {
                    self.machine.change(id, part, step_to(&parts), (key, part), waiter)
                } else {
                    self.machine.join(id, part, (key, part), waiter)
                };
                effect.into_iter().collect()
            }
        };
        self.carry_out(effects);
    }

    fn release(&mut self, id: EntryId, part: u8, waiter: Option<u32>) {
        let less = self.machine.plan(id).filter(|_| part >= 10).map(|plan| {
            let mut parts = parts_of(plan);
            parts.remove(&part);
            step_to(&parts)
        });
        let effect = match waiter {
            Some(waiter) => self.machine.release_in_turn(id, part, less, waiter),
            None => self.machine.release(id, part, less, None),
        };
        self.carry_out(effect.into_iter().collect());
    }

    fn carry_out(&mut self, effects: Vec<Effect<u8, u32, (u8, u8)>>) {
        for effect in effects {
            match effect {
                Effect::Attach(id, _) => self.begin(Kind::Attach, id, Progress::default()),
                Effect::Change(id, _) => self.begin(Kind::Change, id, Progress::default()),
                Effect::Detach(id, _, progress) => {
                    assert!(!self.holders.values().any(|(held, _)| *held == id), "nobody may have what goes");
                    self.begin(Kind::Detach, id, progress);
                }
                Effect::Grant(id, part, waiter) => {
                    assert_eq!(self.waiting.remove(&waiter), Some("thing"));
                    assert!(self.machine.attached_plan(id).is_some(), "it is there");
                    self.holders.insert(waiter, (id, part));
                }
                Effect::Fail(waiter, error) => {
                    let waited_for = self.waiting.remove(&waiter).expect("answered once");
                    assert!(waited_for == "thing" || *error != ResourceError::NotAttached, "who has it can release it");
                }
                Effect::Released(waiter) => assert_eq!(self.waiting.remove(&waiter), Some("release")),
                Effect::Retry(Kept::Ask(key, waiter)) => self.ask(key, waiter, false),
                Effect::Retry(Kept::Release(id, part, waiter)) => self.release(id, part, waiter),
                Effect::Freed(id) => {
                    assert!(self.keys.remove(&id).is_some(), "freed once");
                    assert!(!self.holders.values().any(|(held, _)| *held == id));
                }
            }
        }
        for (id, part) in self.holders.values() {
            let plan = self.machine.attached_plan(*id).expect("what somebody has is there");
            assert!(parts_of(plan).contains(part), "and that part of it");
            let key = self.keys[id];
            let found = self.machine.find_part(if key == PARTED { part } else { &key });
            assert_eq!(found, Some(*id), "and is found");
        }
    }

    fn begin(&mut self, kind: Kind, id: EntryId, progress: Progress) {
        assert!(!self.under_way.iter().any(|(_, other, _)| *other == id), "one operation at a time");
        self.under_way.push((kind, id, progress));
    }

    fn step(&mut self, step: &Move) {
        match step {
            Move::Ask(key, part) => {
                let waiter = self.waiter("thing");
                self.ask((*key, *part), waiter, false);
            }
            Move::Change(key, part) => {
                let waiter = self.waiter("thing");
                self.ask((*key, *part), waiter, true);
            }
            Move::Release(which) => {
                let holders: Vec<_> = self.holders.iter().map(|(who, held)| (*who, *held)).collect();
                let Some((who, (id, part))) = holders.get(which % holders.len().max(1)).copied() else { return };
                self.holders.remove(&who);
                let waiter = self.waiter("release");
                self.release(id, part, Some(waiter));
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

    /// Something that nobody has, but that is there: a release of it failed, or an attach.
    fn left(&self) -> Option<(EntryId, u8)> {
        let (id, key) = self.keys.iter().next()?;
        let parts = parts_of(self.machine.plan(*id)?);
        let there = parts.into_iter().find(|part| self.machine.find_part(part) == Some(*id));
        Some((*id, there.unwrap_or(*key)))
    }

    /// Everything under way ends well; whoever has something gives it back; what is left half attached is released.
    fn settle(&mut self) {
        loop {
            while !self.under_way.is_empty() {
                self.step(&Move::Finish(0, Outcome::Well));
            }
            if self.holders.is_empty() {
                let Some((id, part)) = self.left() else { break };
                let waiter = self.waiter("release");
                self.release(id, part, Some(waiter));
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
    let (id, _) = machine.begin(0, 0, plan(), 1);
    machine.attached(id, Ok(()));
    assert!(matches!(machine.release(id, 0, None, Some(2)), Some(Effect::Detach(..))));
    assert!(matches!(machine.release(id, 0, None, Some(3)), Some(Effect::Fail(3, _))), "nobody has it");
    let failed = DetachFailed { error: broken(), progress: Progress::default() };
    assert!(matches!(machine.detached(id, Err(failed)).as_slice(), [Effect::Fail(2, _)]));
    assert!(matches!(machine.release(id, 0, None, Some(4)), Some(Effect::Detach(..))), "it is still one's own");
    let effects = machine.detached(id, Ok(()));
    assert_eq!(effects, [Effect::Freed(id), Effect::Released(4)]);
    assert!(
        matches!(machine.release(id, 0, None, Some(5)), Some(Effect::Fail(5, error)) if *error == ResourceError::NotAttached)
    );
}

#[test]
fn d33_what_the_guest_has_let_go_of_is_not_asked_of_it_again() {
    let mut machine = TestMachine::default();
    let (id, _) = machine.begin(0, 0, plan(), 1);
    machine.attached(id, Ok(()));
    machine.release(id, 0, None, None);
    let progress = Progress { guest_is_done: true };
    machine.detached(id, Err(DetachFailed { error: broken(), progress }));
    assert!(
        matches!(machine.join(id, 0, (0, 0), 2), Some(Effect::Fail(2, error)) if matches!(*error, ResourceError::Broken { .. }))
    );
    assert!(matches!(machine.release(id, 0, None, None), Some(Effect::Detach(_, _, from)) if from == progress));
}

#[test]
fn d36_who_asks_during_the_attach_waits_and_shares_its_error() {
    let mut machine = TestMachine::default();
    let (id, _) = machine.begin(0, 0, plan(), 1);
    assert_eq!(machine.join(id, 0, (0, 0), 2), None);
    let effects = machine.attached(id, Err(AttachFailed { error: broken(), is_left: false }));
    assert!(matches!(effects.as_slice(), [Effect::Freed(_), Effect::Fail(1, _), Effect::Fail(2, _)]), "{effects:?}");
    assert!(machine.find(&0).is_none());
}

#[test]
fn d40_what_the_vm_was_created_with_stays() {
    let mut machine = TestMachine::default();
    let id = machine.pin(0, plan(), "it booted from it");
    assert!(matches!(machine.join(id, 0, (0, 0), 1), Some(Effect::Grant(..))), "it can be shared");
    assert_eq!(machine.release(id, 0, None, Some(2)), Some(Effect::Released(2)));
    assert!(
        matches!(machine.release(id, 0, None, Some(3)), Some(Effect::Fail(3, error)) if matches!(*error, ResourceError::Pinned { .. }))
    );
}

#[test]
fn a_removal_that_nobody_answered_is_shared_by_nobody() {
    let mut machine = TestMachine::default();
    let (id, _) = machine.begin(0, 0, plan(), 1);
    machine.attached(id, Ok(()));
    machine.release(id, 0, None, Some(2));
    let silence = PlatformError::Timeout { what: "a test".into(), waited: Duration::ZERO, last_words: Box::default() };
    let failed = DetachFailed { error: ResourceError::Host(silence), progress: Progress::default() };
    assert!(matches!(machine.detached(id, Err(failed)).as_slice(), [Effect::Fail(2, _)]));
    assert!(matches!(
        machine.join(id, 0, (0, 0), 3),
        Some(Effect::Fail(3, error)) if matches!(*error, ResourceError::Broken { .. })
    ));
    // Both sides are asked again: either may not have heard.
    assert!(matches!(
        machine.release(id, 0, None, Some(4)),
        Some(Effect::Detach(_, _, Progress { guest_is_done: false }))
    ));
}

#[test]
fn the_last_of_such_that_is_not_going_is_found() {
    let mut machine = TestMachine::default();
    let ids = [0, 1, 2].map(|key| {
        let (id, _) = machine.begin(key, key, plan(), 1);
        machine.attached(id, Ok(()));
        id
    });
    assert_eq!(machine.last(|key| *key < 2), Some(ids[1]));
    assert_eq!(machine.last(|key| *key == 7), None);
    machine.release(ids[1], 1, None, None);
    assert_eq!(machine.last(|key| *key < 2), Some(ids[0]), "the other is going");
    assert_eq!(machine.last(|key| *key == 1), None);
}

#[test]
fn who_asks_for_another_part_during_the_attach_asks_again() {
    let mut machine = TestMachine::default();
    let (id, _) = machine.begin(PARTED, 10, with_parts(&[10].into()), 1);
    assert_eq!(machine.join(id, 11, (PARTED, 11), 2), None);
    assert_eq!(machine.join(id, 10, (PARTED, 10), 3), None);
    let effects = machine.attached(id, Ok(()));
    let again = Effect::Retry(Kept::Ask((PARTED, 11), 2));
    assert_eq!(effects, [Effect::Grant(id, 10, 1), Effect::Grant(id, 10, 3), again]);
}

#[test]
fn a_part_that_nobody_has_cannot_be_released_and_takes_nothing_along() {
    let mut machine = TestMachine::default();
    let (id, _) = machine.begin(PARTED, 10, with_parts(&[10].into()), 1);
    machine.attached(id, Ok(()));
    let nobody_has = |effect: Option<Effect<u8, u32, (u8, u8)>>| {
        assert!(matches!(&effect, Some(Effect::Fail(_, error)) if **error == ResourceError::NotAttached), "{effect:?}");
    };
    nobody_has(machine.release(id, 12, None, Some(2)));
    assert!(matches!(machine.change(id, 11, step_to(&[10, 11].into()), (PARTED, 11), 3), Some(Effect::Change(..))));
    nobody_has(machine.release(id, 12, None, Some(4)));
    assert_eq!(machine.changed(id, Ok(())), [Effect::Grant(id, 11, 3)]);
    nobody_has(machine.release(id, 12, Some(step_to(&[10, 11].into())), Some(5)));
}
