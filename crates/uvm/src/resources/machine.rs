//! The state of every thing that is plugged in: one machine for all kinds, without I/O.
//!
//! ```text
//!            begin               attached                              change, release of a part
//!   (none) --------> Attaching ----------> Attached(n) <--join, release <------> Changing
//!     ^                  | failed              | release (n = 1)
//!     +------------------+                     v
//!     ^                  | and left        Detaching ---- guest refused: Attached(1)
//!     |                  v                     |   \
//!     +---- release --- Broken <--- host refused    gone ---> (none), and who asked meanwhile asks again
//! ```
//!
//! A removal that nobody answered may have been done: what it was for is as broken as if the host had refused.
//!
//! Some things have parts, as a share of single files has files: each part is counted, and one that nobody has any more is
//! taken out by a change. Other things are their own only part.
//!
//! Counts change after success, never before. Who asks for what is being attached waits for it, and shares its result; who
//! wants something that cannot be decided yet is kept, and asks again: also who releases, in turn, what is going.
//! What happens is told as [`Effect`]s, which the VM's driver carries out.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use super::ResourceError;
use super::counts::Counts;
use super::effect::{Effect, EntryId, Kept};
use super::plan::{AttachFailed, DetachFailed, Plan, Progress, Step};

struct Entry<K, W, R> {
    key: K,
    plan: Arc<Plan>,
    state: State<K, W, R>,
    /// The VM was created with it.
    pinned: Option<&'static str>,
}

enum State<K, W, R> {
    /// Who waits wants this part; `kept` wants others.
    Attaching {
        part: K,
        waiters: Vec<W>,
        kept: Vec<Kept<K, W, R>>,
    },
    Attached {
        counts: Counts<K>,
    },
    Changing {
        counts: Counts<K>,
        step: Arc<Step>,
        asked_by: AskedBy<K, W>,
        kept: Vec<Kept<K, W, R>>,
    },
    /// `part` is what the last one had. It `was_broken` if nobody had anything.
    Detaching {
        part: K,
        was_broken: bool,
        waiter: Option<W>,
        kept: Vec<Kept<K, W, R>>,
    },
    /// `part` is what it was attached for, or the last one had.
    Broken {
        part: K,
        why: Arc<ResourceError>,
        progress: Progress,
    },
}

/// Who wants a change.
enum AskedBy<K, W> {
    /// One who has a count of this part when it is done.
    Joiner(K, W),
    /// One whose count of this part, the last, is gone when it is done.
    Leaver(K, Option<W>),
}

/// The machine. `K` tells things apart, and parts of one; `W` waits, `R` is what was asked for.
pub(crate) struct Machine<K, W, R> {
    entries: BTreeMap<EntryId, Entry<K, W, R>>,
    keys: HashMap<K, EntryId>,
    next: u64,
}

impl<K, W, R> Default for Machine<K, W, R> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), keys: HashMap::new(), next: 0 }
    }
}

impl<K: Clone + Hash + Ord, W, R> Machine<K, W, R> {
    /// The thing with this key, and how it is, or is being, attached.
    pub(crate) fn find(&self, key: &K) -> Option<(EntryId, &Arc<Plan>)> {
        let id = *self.keys.get(key)?;
        self.plan(id).map(|plan| (id, plan))
    }

    /// What it is known by.
    pub(crate) fn key(&self, id: EntryId) -> Option<&K> {
        self.entries.get(&id).map(|entry| &entry.key)
    }

    /// All keys, of those that were added first, first.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.entries.values().map(|entry| &entry.key)
    }

    /// The last that was added of those whose key is such, and is not going.
    pub(crate) fn last(&self, is_such: impl Fn(&K) -> bool) -> Option<EntryId> {
        let is_going = |entry: &Entry<K, W, R>| matches!(entry.state, State::Detaching { .. });
        let mut such = self.entries.iter().rev().filter(|(_, entry)| is_such(&entry.key) && !is_going(entry));
        such.next().map(|(id, _)| *id)
    }

    /// The thing with this key, or the one that somebody has this part of.
    pub(crate) fn find_part(&self, part: &K) -> Option<EntryId> {
        let has = |entry: &Entry<K, W, R>| match &entry.state {
            State::Attached { counts } | State::Changing { counts, .. } => counts.get(part) > 0,
            State::Attaching { part: other, .. }
            | State::Detaching { part: other, .. }
            | State::Broken { part: other, .. } => other == part,
        };
        let by_key = self.keys.get(part).copied();
        by_key.or_else(|| self.entries.iter().find(|(_, entry)| has(entry)).map(|(id, _)| *id))
    }

    /// How it is, or is being, attached.
    pub(crate) fn plan(&self, id: EntryId) -> Option<&Arc<Plan>> {
        self.entries.get(&id).map(|entry| &entry.plan)
    }

    /// How it is attached; `None` while it is not. What is being changed is attached as before until that is done.
    pub(crate) fn attached_plan(&self, id: EntryId) -> Option<&Arc<Plan>> {
        let entry = self.entries.get(&id)?;
        matches!(entry.state, State::Attached { .. } | State::Changing { .. }).then_some(&entry.plan)
    }

    /// What is left half attached was attached for this part, or somebody had that last; `None` if it is not.
    pub(crate) fn broken_part(&self, id: EntryId) -> Option<&K> {
        match &self.entries.get(&id)?.state {
            State::Broken { part, .. } => Some(part),
            _ => None,
        }
    }

    /// Whether it is going, or changing: what is asked for then is asked again when that is done, and need not fit what is.
    pub(crate) fn is_in_motion(&self, id: EntryId) -> bool {
        let in_motion =
            |entry: &Entry<K, W, R>| matches!(entry.state, State::Detaching { .. } | State::Changing { .. });
        self.entries.get(&id).is_some_and(in_motion)
    }

    /// One asks for what is there in another way, or for another part, to which it can be changed.
    pub(crate) fn change(
        &mut self,
        id: EntryId,
        part: K,
        step: Step,
        request: R,
        waiter: W,
    ) -> Option<Effect<K, W, R>> {
        let Some(entry) = self.entries.get_mut(&id) else { return Some(not_attached(waiter)) };
        match &mut entry.state {
            State::Attached { counts } => {
                let counts = std::mem::take(counts);
                Some(entry.begin_change(id, counts, step, AskedBy::Joiner(part, waiter)))
            }
            // As it is being attached it is not what is asked for.
            State::Attaching { kept, .. } => {
                kept.push(Kept::Ask(request, waiter));
                None
            }
            _ => self.join(id, part, request, waiter),
        }
    }

    /// A change has ended. One that failed has changed nothing.
    pub(crate) fn changed(&mut self, id: EntryId, result: Result<(), ResourceError>) -> Vec<Effect<K, W, R>> {
        let Some(entry) = self.entries.get_mut(&id) else { return Vec::new() };
        let state = std::mem::replace(&mut entry.state, State::Attached { counts: Counts::default() });
        let State::Changing { mut counts, step, asked_by, kept } = state else {
            entry.state = state;
            return Vec::new();
        };
        let mut effects = Vec::new();
        match (result, asked_by) {
            (Ok(()), AskedBy::Joiner(part, waiter)) => {
                counts.add(part.clone());
                effects.push(Effect::Grant(id, part, waiter));
                entry.plan = Arc::new(step.to.clone());
            }
            (Ok(()), AskedBy::Leaver(part, waiter)) => {
                counts.take(&part);
                effects.extend(waiter.map(Effect::Released));
                entry.plan = Arc::new(step.to.clone());
            }
            (Err(error), AskedBy::Joiner(_, waiter)) => effects.push(Effect::Fail(waiter, Box::new(error))),
            (Err(error), AskedBy::Leaver(_, waiter)) => {
                effects.extend(waiter.map(|waiter| Effect::Fail(waiter, Box::new(error))));
            }
        }
        entry.state = State::Attached { counts };
        effects.extend(kept.into_iter().map(Effect::Retry));
        effects
    }

    /// A thing the VM was created with, which cannot be removed because of `why`.
    pub(crate) fn pin(&mut self, key: K, plan: Plan, why: &'static str) -> EntryId {
        let counts = Counts::of(key.clone(), 1);
        self.insert(key, plan, State::Attached { counts }, Some(why)).0
    }

    /// Begins to attach a thing whose key is not known yet, for one who wants this part of it.
    pub(crate) fn begin(&mut self, key: K, part: K, plan: Plan, waiter: W) -> (EntryId, Effect<K, W, R>) {
        let state = State::Attaching { part, waiters: vec![waiter], kept: Vec::new() };
        let (id, plan) = self.insert(key, plan, state, None);
        (id, Effect::Attach(id, plan))
    }

    fn insert(
        &mut self,
        key: K,
        plan: Plan,
        state: State<K, W, R>,
        pinned: Option<&'static str>,
    ) -> (EntryId, Arc<Plan>) {
        let id = EntryId(self.next);
        self.next += 1;
        let plan = Arc::new(plan);
        let known = self.keys.insert(key.clone(), id);
        debug_assert!(known.is_none(), "a key is known once");
        self.entries.insert(id, Entry { key, plan: Arc::clone(&plan), state, pinned });
        (id, plan)
    }

    /// Another asks for a thing that is known, in the same way.
    pub(crate) fn join(&mut self, id: EntryId, part: K, request: R, waiter: W) -> Option<Effect<K, W, R>> {
        let Some(entry) = self.entries.get_mut(&id) else { return Some(not_attached(waiter)) };
        match &mut entry.state {
            State::Attaching { part: attached, waiters, .. } if *attached == part => {
                waiters.push(waiter);
                None
            }
            State::Attached { counts } => {
                counts.add(part.clone());
                Some(Effect::Grant(id, part, waiter))
            }
            State::Attaching { kept, .. } | State::Detaching { kept, .. } | State::Changing { kept, .. } => {
                kept.push(Kept::Ask(request, waiter));
                None
            }
            State::Broken { why, .. } => {
                Some(Effect::Fail(waiter, Box::new(ResourceError::Broken { why: Arc::clone(why) })))
            }
        }
    }

    /// An attach has ended.
    pub(crate) fn attached(&mut self, id: EntryId, result: Result<(), AttachFailed>) -> Vec<Effect<K, W, R>> {
        let Some(entry) = self.entries.get_mut(&id) else { return Vec::new() };
        let State::Attaching { part, waiters, kept } = &mut entry.state else { return Vec::new() };
        let (part, waiters, kept) = (part.clone(), std::mem::take(waiters), std::mem::take(kept));
        let mut effects = Vec::new();
        match result {
            Ok(()) => {
                entry.state = State::Attached { counts: Counts::of(part.clone(), waiters.len()) };
                effects.extend(waiters.into_iter().map(|waiter| Effect::Grant(id, part.clone(), waiter)));
            }
            Err(AttachFailed { error, is_left }) => {
                if is_left {
                    // What the guest knows of it is gone with its refusal.
                    let progress = Progress { guest_is_done: true };
                    entry.state = State::Broken { part, why: Arc::new(error.clone()), progress };
                } else {
                    self.forget(id);
                    effects.push(Effect::Freed(id));
                }
                effects.extend(waiters.into_iter().map(|waiter| Effect::Fail(waiter, Box::new(error.clone()))));
            }
        }
        effects.extend(kept.into_iter().map(Effect::Retry));
        effects
    }

    /// One who had this part does not want it any more. `less` is the thing without the part, where it must be changed for
    /// that.
    pub(crate) fn release(
        &mut self,
        id: EntryId,
        part: K,
        less: Option<Step>,
        waiter: Option<W>,
    ) -> Option<Effect<K, W, R>> {
        let Some(entry) = self.entries.get_mut(&id) else { return waiter.map(not_attached) };
        if let (Some(why), State::Attached { counts }) = (entry.pinned, &entry.state)
            && counts.total() == 1
        {
            return waiter.map(|waiter| Effect::Fail(waiter, Box::new(ResourceError::Pinned { why })));
        }
        let (progress, was_broken) = match &mut entry.state {
            // Others have the same part. Where the thing changes, it is not this part that goes.
            State::Attached { counts } | State::Changing { counts, .. } if counts.get(&part) > 1 => {
                counts.take(&part);
                return waiter.map(Effect::Released);
            }
            State::Attached { counts } if counts.get(&part) == 1 && counts.total() > 1 => {
                let mut counts = std::mem::take(counts);
                if let Some(step) = less {
                    return Some(entry.begin_change(id, counts, step, AskedBy::Leaver(part, waiter)));
                }
                counts.take(&part);
                entry.state = State::Attached { counts };
                return waiter.map(Effect::Released);
            }
            State::Attached { counts } if counts.get(&part) == 1 => (Progress::default(), false),
            State::Changing { counts, kept, .. } if counts.get(&part) == 1 => {
                kept.push(Kept::Release(id, part, waiter));
                return None;
            }
            State::Broken { progress, .. } => (*progress, true),
            // Nobody has it yet, or any more.
            State::Attaching { .. } | State::Attached { .. } | State::Changing { .. } | State::Detaching { .. } => {
                return waiter.map(not_attached);
            }
        };
        entry.state = State::Detaching { part, was_broken, waiter, kept: Vec::new() };
        Some(Effect::Detach(id, Arc::clone(&entry.plan), progress))
    }

    /// The same, for one who is told only once it is known: while the thing goes, that may yet fail.
    pub(crate) fn release_in_turn(
        &mut self,
        id: EntryId,
        part: K,
        less: Option<Step>,
        waiter: W,
    ) -> Option<Effect<K, W, R>> {
        if let Some(State::Detaching { kept, .. }) = self.entries.get_mut(&id).map(|entry| &mut entry.state) {
            kept.push(Kept::Release(id, part, Some(waiter)));
            return None;
        }
        self.release(id, part, less, Some(waiter))
    }

    /// A detach has ended.
    pub(crate) fn detached(&mut self, id: EntryId, result: Result<(), DetachFailed>) -> Vec<Effect<K, W, R>> {
        let Some(entry) = self.entries.get_mut(&id) else { return Vec::new() };
        let State::Detaching { part, was_broken, waiter, kept } = &mut entry.state else { return Vec::new() };
        let (part, waiter, kept) = (part.clone(), waiter.take(), std::mem::take(kept));
        let mut effects = Vec::new();
        match result {
            Ok(()) => {
                self.forget(id);
                effects.push(Effect::Freed(id));
                effects.extend(waiter.map(Effect::Released));
            }
            Err(failed) => {
                let is_usable = failed.has_changed_nothing() && !*was_broken;
                let DetachFailed { error, progress } = failed;
                entry.state = if is_usable {
                    State::Attached { counts: Counts::of(part, 1) }
                } else {
                    State::Broken { part, why: Arc::new(error.clone()), progress }
                };
                effects.extend(waiter.map(|waiter| Effect::Fail(waiter, Box::new(error))));
            }
        }
        effects.extend(kept.into_iter().map(Effect::Retry));
        effects
    }

    fn forget(&mut self, id: EntryId) {
        if let Some(entry) = self.entries.remove(&id) {
            self.keys.remove(&entry.key);
        }
    }

    /// Forgets everything, since the VM is gone. Gives who still waits.
    pub(crate) fn clear(&mut self) -> Vec<W> {
        self.keys.clear();
        let mut waiting = Vec::new();
        for entry in std::mem::take(&mut self.entries).into_values() {
            let kept = match entry.state {
                State::Attaching { waiters, kept, .. } => {
                    waiting.extend(waiters);
                    kept
                }
                State::Detaching { waiter, kept, .. } => {
                    waiting.extend(waiter);
                    kept
                }
                State::Changing { asked_by, kept, .. } => {
                    match asked_by {
                        AskedBy::Joiner(_, waiter) => waiting.push(waiter),
                        AskedBy::Leaver(_, waiter) => waiting.extend(waiter),
                    }
                    kept
                }
                State::Attached { .. } | State::Broken { .. } => Vec::new(),
            };
            waiting.extend(kept.into_iter().filter_map(|kept| match kept {
                Kept::Ask(_, waiter) => Some(waiter),
                Kept::Release(_, _, waiter) => waiter,
            }));
        }
        waiting
    }
}

impl<K, W, R> Entry<K, W, R> {
    fn begin_change(&mut self, id: EntryId, counts: Counts<K>, step: Step, asked_by: AskedBy<K, W>) -> Effect<K, W, R> {
        let step = Arc::new(step);
        self.state = State::Changing { counts, step: Arc::clone(&step), asked_by, kept: Vec::new() };
        Effect::Change(id, step)
    }
}

fn not_attached<K, W, R>(waiter: W) -> Effect<K, W, R> {
    Effect::Fail(waiter, Box::new(ResourceError::NotAttached))
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
