//! The state of every thing that is plugged in: one machine for all kinds, without I/O.
//!
//! ```text
//!            begin               attached                              change
//!   (none) --------> Attaching ----------> Attached(n) <--join, release (n > 1) <------> Changing
//!     ^                  | failed              | release (n = 1)
//!     +------------------+                     v
//!     ^                  | and left        Detaching ---- guest refused: Attached(1)
//!     |                  v                     |   \
//!     +---- release --- Broken <--- host refused    gone ---> (none), and who asked meanwhile asks again
//! ```
//!
//! Counts change after success, never before. Who asks for what is being attached waits for it, and shares its result.
//! What happens is told as [`Effect`]s, which the VM's driver carries out.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use super::ResourceError;
use super::plan::{AttachFailed, DetachFailed, Plan, Progress, Step};

/// One thing that is, or is to be, plugged in. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct EntryId(u64);

/// What to do, in order.
#[derive(Debug)]
#[cfg_attr(test, derive(PartialEq))]
pub(crate) enum Effect<W, R> {
    /// Attach it, then report to [`Machine::attached`].
    Attach(EntryId, Arc<Plan>),
    /// Change it, then report to [`Machine::changed`].
    Change(EntryId, Arc<Step>),
    /// Detach it, then report to [`Machine::detached`].
    Detach(EntryId, Arc<Plan>, Progress),
    /// It is there: hand it to the waiter, who has a count. One who is gone must be released.
    Grant(EntryId, W),
    /// The waiter gets nothing.
    Fail(W, Box<ResourceError>),
    /// The waiter's count is gone.
    Released(W),
    /// What it was asked for while it was going: ask again.
    Retry(R, W),
    /// Its place is free.
    Freed(EntryId),
}

struct Entry<K, W, R> {
    key: K,
    plan: Arc<Plan>,
    state: State<W, R>,
    /// The VM was created with it.
    pinned: Option<&'static str>,
}

enum State<W, R> {
    Attaching {
        waiters: Vec<W>,
    },
    Attached {
        count: usize,
    },
    /// Who asked for the change has a count when it is done.
    Changing {
        count: usize,
        step: Arc<Step>,
        waiter: Option<W>,
        again: Vec<(R, W)>,
    },
    Detaching {
        waiter: Option<W>,
        again: Vec<(R, W)>,
    },
    Broken {
        why: Arc<ResourceError>,
        progress: Progress,
    },
}

/// The machine. `K` tells things apart, `W` waits for one, `R` is what was asked for.
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

impl<K: Clone + Eq + Hash, W, R> Machine<K, W, R> {
    /// The thing with this key, and how it is, or is being, attached.
    pub(crate) fn find(&self, key: &K) -> Option<(EntryId, &Arc<Plan>)> {
        let id = *self.keys.get(key)?;
        self.entries.get(&id).map(|entry| (id, &entry.plan))
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

    /// How it is attached; `None` while it is not.
    pub(crate) fn attached_plan(&self, id: EntryId) -> Option<&Arc<Plan>> {
        let entry = self.entries.get(&id)?;
        matches!(entry.state, State::Attached { .. }).then_some(&entry.plan)
    }

    /// Whether it is going, or changing: what is asked for then is asked again when that is done, and need not fit what is.
    pub(crate) fn is_in_motion(&self, id: EntryId) -> bool {
        let in_motion =
            |entry: &Entry<K, W, R>| matches!(entry.state, State::Detaching { .. } | State::Changing { .. });
        self.entries.get(&id).is_some_and(in_motion)
    }

    /// One asks for what is there in another way, to which it can be changed.
    pub(crate) fn change(&mut self, id: EntryId, step: Step, request: R, waiter: W) -> Option<Effect<W, R>> {
        match self.entries.get_mut(&id) {
            Some(Entry { state: state @ State::Attached { .. }, .. }) => {
                let State::Attached { count } = *state else { return None };
                let step = Arc::new(step);
                *state = State::Changing { count, step: Arc::clone(&step), waiter: Some(waiter), again: Vec::new() };
                Some(Effect::Change(id, step))
            }
            _ => self.join(id, request, waiter),
        }
    }

    /// A change has ended. One that failed has changed nothing.
    pub(crate) fn changed(&mut self, id: EntryId, result: Result<(), ResourceError>) -> Vec<Effect<W, R>> {
        let Some(entry) = self.entries.get_mut(&id) else { return Vec::new() };
        let State::Changing { count, step, waiter, again } = &mut entry.state else { return Vec::new() };
        let (waiter, again, count) = (waiter.take(), std::mem::take(again), *count);
        let mut effects = Vec::new();
        match result {
            Ok(()) => {
                entry.plan = Arc::new(step.to.clone());
                entry.state = State::Attached { count: count + 1 };
                effects.extend(waiter.map(|waiter| Effect::Grant(id, waiter)));
            }
            Err(error) => {
                effects.extend(waiter.map(|waiter| Effect::Fail(waiter, Box::new(error))));
                if count == 0 {
                    // Who asked meanwhile asks again when it is gone.
                    effects.push(Effect::Detach(id, Arc::clone(&entry.plan), Progress::default()));
                    entry.state = State::Detaching { waiter: None, again };
                    return effects;
                }
                entry.state = State::Attached { count };
            }
        }
        effects.extend(again.into_iter().map(|(request, waiter)| Effect::Retry(request, waiter)));
        effects
    }

    /// A thing the VM was created with, which cannot be removed because of `why`.
    pub(crate) fn pin(&mut self, key: K, plan: Plan, why: &'static str) -> EntryId {
        self.insert(key, plan, State::Attached { count: 1 }, Some(why)).0
    }

    /// Begins to attach a thing whose key is not known yet.
    pub(crate) fn begin(&mut self, key: K, plan: Plan, waiter: W) -> (EntryId, Effect<W, R>) {
        let (id, plan) = self.insert(key, plan, State::Attaching { waiters: vec![waiter] }, None);
        (id, Effect::Attach(id, plan))
    }

    fn insert(&mut self, key: K, plan: Plan, state: State<W, R>, pinned: Option<&'static str>) -> (EntryId, Arc<Plan>) {
        let id = EntryId(self.next);
        self.next += 1;
        let plan = Arc::new(plan);
        let known = self.keys.insert(key.clone(), id);
        debug_assert!(known.is_none(), "a key is known once");
        self.entries.insert(id, Entry { key, plan: Arc::clone(&plan), state, pinned });
        (id, plan)
    }

    /// Another asks for a thing that is known, in the same way.
    pub(crate) fn join(&mut self, id: EntryId, request: R, waiter: W) -> Option<Effect<W, R>> {
        let Some(entry) = self.entries.get_mut(&id) else {
            return Some(Effect::Fail(waiter, Box::new(ResourceError::NotAttached)));
        };
        match &mut entry.state {
            State::Attaching { waiters } => {
                waiters.push(waiter);
                None
            }
            State::Attached { count } => {
                *count += 1;
                Some(Effect::Grant(id, waiter))
            }
            State::Detaching { again, .. } | State::Changing { again, .. } => {
                again.push((request, waiter));
                None
            }
            State::Broken { why, .. } => {
                Some(Effect::Fail(waiter, Box::new(ResourceError::Broken { why: Arc::clone(why) })))
            }
        }
    }

    /// An attach has ended.
    pub(crate) fn attached(&mut self, id: EntryId, result: Result<(), AttachFailed>) -> Vec<Effect<W, R>> {
        let Some(entry) = self.entries.get_mut(&id) else { return Vec::new() };
        let State::Attaching { waiters } = &mut entry.state else { return Vec::new() };
        let waiters = std::mem::take(waiters);
        match result {
            Ok(()) => {
                entry.state = State::Attached { count: waiters.len() };
                waiters.into_iter().map(|waiter| Effect::Grant(id, waiter)).collect()
            }
            Err(AttachFailed { error, is_left }) => {
                let mut effects = Vec::new();
                if is_left {
                    // What the guest knows of it is gone with its refusal.
                    let progress = Progress { guest_is_done: true };
                    entry.state = State::Broken { why: Arc::new(error.clone()), progress };
                } else {
                    self.forget(id);
                    effects.push(Effect::Freed(id));
                }
                effects.extend(waiters.into_iter().map(|waiter| Effect::Fail(waiter, Box::new(error.clone()))));
                effects
            }
        }
    }

    /// One who had it does not want it any more.
    pub(crate) fn release(&mut self, id: EntryId, waiter: Option<W>) -> Option<Effect<W, R>> {
        let fail = |waiter: Option<W>, error| waiter.map(|waiter| Effect::Fail(waiter, Box::new(error)));
        let Some(entry) = self.entries.get_mut(&id) else { return fail(waiter, ResourceError::NotAttached) };
        if let Some(why) = entry.pinned
            && matches!(entry.state, State::Attached { count: 1 })
        {
            return fail(waiter, ResourceError::Pinned { why });
        }
        let progress = match &mut entry.state {
            // Where it changes, the one who releases is not the one who waits for the change: there is another count.
            State::Attached { count } | State::Changing { count, .. } if *count > 1 => {
                *count -= 1;
                return waiter.map(Effect::Released);
            }
            State::Attached { .. } => Progress::default(),
            State::Broken { progress, .. } => *progress,
            // Nobody has it yet, or any more.
            State::Attaching { .. } | State::Detaching { .. } => return fail(waiter, ResourceError::NotAttached),
            State::Changing { count, .. } => {
                // The last of those before; if the change fails, nobody is left, which `changed` sees.
                *count = 0;
                return waiter.map(Effect::Released);
            }
        };
        entry.state = State::Detaching { waiter, again: Vec::new() };
        Some(Effect::Detach(id, Arc::clone(&entry.plan), progress))
    }

    /// A detach has ended.
    pub(crate) fn detached(&mut self, id: EntryId, result: Result<(), DetachFailed>) -> Vec<Effect<W, R>> {
        let Some(entry) = self.entries.get_mut(&id) else { return Vec::new() };
        let State::Detaching { waiter, again } = &mut entry.state else { return Vec::new() };
        let (waiter, again) = (waiter.take(), std::mem::take(again));
        let mut effects = Vec::new();
        match result {
            Ok(()) => {
                self.forget(id);
                effects.push(Effect::Freed(id));
                effects.extend(waiter.map(Effect::Released));
            }
            Err(DetachFailed { error, progress }) => {
                // As long as the guest has it, it is as usable as before.
                entry.state = if progress.guest_is_done {
                    State::Broken { why: Arc::new(error.clone()), progress }
                } else {
                    State::Attached { count: 1 }
                };
                effects.extend(waiter.map(|waiter| Effect::Fail(waiter, Box::new(error))));
            }
        }
        effects.extend(again.into_iter().map(|(request, waiter)| Effect::Retry(request, waiter)));
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
        let entries = std::mem::take(&mut self.entries);
        let waiting = entries.into_values().flat_map(|entry| match entry.state {
            State::Attaching { waiters } => waiters,
            State::Detaching { waiter, again } | State::Changing { waiter, again, .. } => {
                waiter.into_iter().chain(again.into_iter().map(|(_, w)| w)).collect()
            }
            State::Attached { .. } | State::Broken { .. } => Vec::new(),
        });
        waiting.collect()
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
