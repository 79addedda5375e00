//! The model: who has how much of what.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use uvm::UvmError;
use uvm_testkit::memory::Fault;

use crate::obedient::Oddity;
use crate::scene::{Handle, Scene, Thing};
use crate::support::TestResult;

/// Something that somebody has.
pub(super) struct Item {
    pub(super) thing: Thing,
    pub(super) which: &'static str,
    pub(super) handle: Box<dyn Handle>,
    /// Nobody failed to release it: what it stands for is as it was when it was added.
    pub(super) is_sound: bool,
}

impl Item {
    pub(super) fn key(&self) -> Key {
        Key::of(self.thing, self.which)
    }

    /// Whether it can be removed without its handle.
    pub(super) fn has_a_name(&self) -> bool {
        matches!(self.key(), Key::Disk(_) | Key::Layer(_) | Key::Pipe(_) | Key::Layers)
    }
}

/// What tells things apart. Shares have no names: each is its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Disk(&'static str),
    Layer(&'static str),
    Pipe(&'static str),
    Device(&'static str),
    Share,
    Layers,
}

impl Key {
    pub(super) fn of(thing: Thing, which: &'static str) -> Self {
        match thing {
            Thing::MountedDisk | Thing::BareDisk => Self::Disk(which),
            Thing::Layer => Self::Layer(which),
            Thing::Pipe => Self::Pipe(which),
            Thing::Device => Self::Device(which),
            Thing::Plan9 | Thing::SharedDirectory | Thing::SharedFile => Self::Share,
            Thing::Layers => Self::Layers,
        }
    }
}

/// Removes something by its name. `None`: it has none.
pub(super) async fn remove(scene: &Scene, thing: Thing, which: &'static str) -> Option<Result<(), UvmError>> {
    let path = scene.host.path(which);
    Some(match Key::of(thing, which) {
        Key::Disk(_) => scene.vm.remove_scsi(path).await,
        Key::Layer(_) => scene.vm.remove_vpmem(path).await,
        Key::Pipe(which) => scene.vm.remove_pipe(format!(r"\\.\pipe\{which}")).await,
        Key::Layers => scene.vm.remove_combined_layers("/root").await,
        Key::Device(_) | Key::Share => return None,
    })
}

/// What is known of one key.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Known {
    /// How many counts were taken by name from whoever has them, or from nobody.
    pub(super) removed: usize,
    /// How many handles were found to have been robbed of their count so.
    pub(super) found_gone: usize,
    /// How much may be there that nobody has: what could not be had or dropped, and may not have been undone.
    pub(super) suspects: usize,
}

/// The model. Tasks share it.
#[derive(Default)]
pub(super) struct Model(Mutex<State>);

#[derive(Default)]
struct State {
    items: Vec<Item>,
    known: BTreeMap<Key, Known>,
    planted: usize,
    hangs: usize,
    ignored: usize,
}

impl Model {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic")
    }

    fn know(&self, key: Key, change: impl FnOnce(&mut Known)) {
        change(self.lock().known.entry(key).or_default());
    }

    pub(super) fn has(&self, item: Item) {
        self.lock().items.push(item);
    }

    pub(super) fn take(&self, at: usize) -> Option<Item> {
        let items = &mut self.lock().items;
        (!items.is_empty()).then(|| items.swap_remove(at % items.len()))
    }

    pub(super) fn take_all(&self) -> Vec<Item> {
        std::mem::take(&mut self.lock().items)
    }

    pub(super) fn could_not_have(&self, thing: Thing, which: &'static str) {
        self.know(Key::of(thing, which), |known| known.suspects += 1);
    }

    /// Who has it may have lost it, or half of it.
    pub(super) fn could_not_remove(&self, thing: Thing, which: &'static str) {
        let key = Key::of(thing, which);
        self.lock().items.iter_mut().filter(|item| item.key() == key).for_each(|item| item.is_sound = false);
        self.know(key, |known| known.suspects += 1);
    }

    /// It is given back in the background, which may go wrong.
    pub(super) fn dropped(&self, item: Item) {
        self.know(item.key(), |known| known.suspects += 1);
        drop(item);
    }

    pub(super) fn removed(&self, thing: Thing, which: &'static str) {
        self.know(Key::of(thing, which), |known| known.removed += 1);
    }

    pub(super) fn released(&self, item: &Item) {
        // It makes the key known.
        self.know(item.key(), |_| ());
    }

    /// A handle's count was gone: somebody must have taken it by name.
    pub(super) fn found_gone(&self, item: &Item) -> TestResult {
        let mut state = self.lock();
        let known = state.known.entry(item.key()).or_default();
        known.found_gone += 1;
        // One who removes it may not have been told yet.
        if item.has_a_name() { Ok(()) } else { Err(format!("nobody can have taken {:?}", item.thing).into()) }
    }

    /// Nobody has anything any more: each count that was taken by name was somebody's, who found it gone, or nobody's. What
    /// went wrong explains the rest: who releases something while its removal is about to fail finds it gone, too.
    pub(super) fn counts_agree(&self) -> TestResult {
        self.look(|key, known, having| {
            if having.is_empty() && known.removed.abs_diff(known.found_gone) <= known.suspects {
                return Ok(());
            }
            Err(format!("{key:?}: {known:?}, {} have it", having.len()).into())
        })
    }

    pub(super) fn planted_on_host(&self, fault: Fault) {
        let mut state = self.lock();
        state.planted += 1;
        state.hangs += usize::from(fault == Fault::Hang);
    }

    pub(super) fn planted_in_guest(&self, oddity: Oddity) {
        let mut state = self.lock();
        state.planted += 1;
        state.ignored += usize::from(oddity == Oddity::Ignore);
    }

    pub(super) fn planted(&self) -> usize {
        self.lock().planted
    }

    pub(super) fn hangs(&self) -> usize {
        self.lock().hangs
    }

    pub(super) fn ignored(&self) -> usize {
        self.lock().ignored
    }

    /// Calls `look` with each key, what is known of it, and who has it.
    pub(super) fn look<E>(&self, mut look: impl FnMut(Key, Known, &[&Item]) -> Result<(), E>) -> Result<(), E> {
        let state = self.lock();
        let mut keys: Vec<Key> = state.items.iter().map(Item::key).chain(state.known.keys().copied()).collect();
        keys.sort_unstable();
        keys.dedup();
        for key in keys {
            let having: Vec<&Item> = state.items.iter().filter(|item| item.key() == key).collect();
            look(key, state.known.get(&key).copied().unwrap_or_default(), &having)?;
        }
        Ok(())
    }
}
