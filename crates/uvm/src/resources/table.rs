//! What is asked for, matched with what is there; and what nobody has any more, though it could not be unplugged.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::oneshot;
use uvm_platform::{PlatformError, PlatformVm};
use uvm_wire::negotiate::GuestOs;

use super::disk_options::ScsiDisk;
use super::effect::{Effect, EntryId, Kept};
use super::limits::Limits;
use super::machine::Machine;
use super::places::Places;
use super::plan::{AttachFailed, DetachFailed, Plan, Step};
use super::waiter::{Count, Follows, Reply, Waiter};
use super::wanted::{Key, Wanted};
use super::{ResourceError, layers, network, pipe, plan9, resize, scsi, share, virtio_fs, vpci, vpmem, vsmb};

/// What somebody got.
#[derive(Clone, Debug)]
pub(crate) struct Attached {
    pub(crate) count: Count,
    pub(crate) plan: Arc<Plan>,
}

pub(crate) type Effects = Vec<Effect<Key, Waiter, Wanted>>;

/// One who names what is to be released is told here.
pub(crate) type Told = oneshot::Sender<Result<(), ResourceError>>;

/// All things of one VM.
pub(crate) struct Table {
    machine: Machine<Key, Waiter, Wanted>,
    /// Counts that could not be given back and that nobody has any more, and what each stands on.
    nobodys: BTreeMap<Count, Option<Count>>,
    vm: Arc<dyn PlatformVm>,
    pub(super) limits: Limits,
    pub(super) scsi: Places<EntryId>,
    pub(super) vpmem: Places<EntryId>,
    pci: Places<EntryId>,
    next_plan9: u64,
    next_virtio_fs: u64,
    next_vsmb: u64,
    next_mapped: u64,
    next_pipe: u32,
    next_layers: u64,
}

/// How what is there can be had by one who asks for it.
pub(super) enum Fit {
    /// As it is.
    AsIs,
    /// After a change.
    After(Box<Step>),
}

/// The place a new thing takes.
pub(super) enum Place {
    Scsi(u32),
    Vpmem(u32),
    Pci(u32),
    None,
}

impl Table {
    pub(crate) fn new(vm: Arc<dyn PlatformVm>, limits: Limits) -> Self {
        let looks_for_disks = limits.os == GuestOs::Linux && !vm.guest_notices_disks();
        let limits =
            Limits { looks_for_disks, reaches_pipes: vm.guest_reaches_pipes(), pci_ports: vm.pci_ports(), ..limits };
        let pci =
            Places::new(limits.pci_ports.as_ref().map_or(0, |ports| u32::try_from(ports.len()).unwrap_or(u32::MAX)));
        let scsi = Places::new(limits.scsi_controllers * scsi::LUNS);
        let vpmem = Places::new(limits.vpmem_devices);
        let (root_disk, scratch_disk) = (limits.root_disk.clone(), limits.scratch_disk.clone());
        let mut table = Self {
            machine: Machine::default(),
            nobodys: BTreeMap::new(),
            vm,
            limits,
            scsi,
            vpmem,
            pci,
            next_plan9: 0,
            next_virtio_fs: 0,
            next_vsmb: 1,
            next_mapped: 0,
            next_pipe: 0,
            next_layers: 0,
        };
        if let Some(path) = root_disk {
            let key = Key::Vpmem(table.path(&path));
            let id = table.machine.pin(key, vpmem::attached_at(&path, 0), "it booted from it");
            table.vpmem.take(0, id);
        }
        if let Some(path) = scratch_disk {
            let key = Key::Scsi(table.path(&path));
            let plan = scsi::attached_at(&ScsiDisk::new(path), 0, &table.limits);
            let id = table.machine.pin(key, plan, "its guest writes to it");
            table.scsi.take(0, id);
        }
        table
    }

    /// Somebody asks for a thing. With that, what is nobody's is tried to be given back once more: what is left half attached
    /// before, so that it can be had anew, and the rest after, so that whoever asks for the same has it instead.
    pub(crate) fn ask(&mut self, wanted: Wanted, waiter: Waiter) -> Effects {
        let nobodys = self.nobodys.clone().into_iter().map(|(count, under)| {
            let is_broken = self.machine.broken_part(count.id).is_some();
            (is_broken, count.clone(), Waiter::nobody(count, under))
        });
        let (broken, whole): (Vec<_>, Vec<_>) = nobodys.partition(|(is_broken, ..)| *is_broken);
        let mut effects = Effects::new();
        effects.extend(broken.into_iter().flat_map(|(_, count, nobody)| self.release(count, nobody)));
        effects.extend(self.ask_once(wanted, waiter));
        effects.extend(whole.into_iter().flat_map(|(_, count, nobody)| self.release(count, nobody)));
        effects
    }

    fn ask_once(&mut self, wanted: Wanted, waiter: Waiter) -> Effects {
        match self.look(&wanted) {
            Err(error) => vec![Effect::Fail(waiter, Box::new(error))],
            Ok(Found::Same(id, part)) => self.machine.join(id, part, wanted, waiter).into_iter().collect(),
            Ok(Found::Changeable(id, part, step)) => {
                self.machine.change(id, part, *step, wanted, waiter).into_iter().collect()
            }
            Ok(Found::New { key, part, plan, place }) => {
                let (id, effect) = self.machine.begin(key, part, *plan, waiter);
                match place {
                    Place::Scsi(place) => self.scsi.take(place, id),
                    Place::Vpmem(place) => self.vpmem.take(place, id),
                    Place::Pci(place) => self.pci.take(place, id),
                    Place::None => {}
                }
                vec![effect]
            }
        }
    }

    fn look(&mut self, wanted: &Wanted) -> Result<Found, ResourceError> {
        let key = match wanted {
            Wanted::Scsi(disk) => {
                scsi::check(disk, &self.limits)?;
                Key::Scsi(self.path(&disk.host_path))
            }
            Wanted::Resize(resize) => resize.disk.clone(),
            Wanted::Vpmem(layer) => {
                vpmem::check(&self.limits)?;
                Key::Vpmem(self.path(&layer.host_path))
            }
            Wanted::Plan9(_) => {
                plan9::check(&self.limits)?;
                // Each is its own. A number that the guest may know of is used up.
                self.next_plan9 += 1;
                Key::Plan9(self.next_plan9 - 1)
            }
            Wanted::VirtioFs(_) => {
                // Each is its own, and a tag is used once: the guest may not have let go of an earlier device.
                self.next_virtio_fs += 1;
                Key::VirtioFs(self.next_virtio_fs - 1)
            }
            Wanted::Vsmb(part) => part.share_key(|path| self.path(path)),
            Wanted::Mapped(_) => {
                self.next_mapped += 1;
                Key::Mapped(self.next_mapped)
            }
            Wanted::Pipe(pipe) => Key::Pipe(self.path(&pipe.host_path)),
            Wanted::Layers(overlay) => {
                self.next_layers += 1;
                Key::Layers(overlay.root.clone(), self.next_layers)
            }
            Wanted::Pci(assignment) => vpci::key(&assignment.device, &self.limits),
            Wanted::Network(part) => {
                if let Key::Adapter { namespace, .. } = &part.key
                    && self.adapters(namespace).is_none()
                {
                    return Err(ResourceError::NamespaceNotFound);
                }
                part.key.clone()
            }
        };
        let part = match wanted {
            Wanted::Vsmb(part) => part.key(|path| self.path(path)),
            _ => key.clone(),
        };
        if let Some((id, plan)) = self.machine.find(&key) {
            if self.machine.is_in_motion(id) {
                return Ok(Found::Same(id, part));
            }
            let fit = match wanted {
                Wanted::Scsi(disk) => scsi::fit(disk, plan, &self.limits)?,
                Wanted::Resize(resize) => Fit::After(Box::new(resize::step(resize, plan, &self.limits)?)),
                Wanted::Vsmb(part) => vsmb::fit(part, plan, |path| self.path(path))?,
                Wanted::Network(part) => network::fit(part)?,
                Wanted::Pipe(pipe) => pipe::fit(pipe, plan)?,
                Wanted::Vpmem(layer) => vpmem::fit(layer, plan)?,
                Wanted::Plan9(_) | Wanted::VirtioFs(_) | Wanted::Mapped(_) | Wanted::Layers(_) | Wanted::Pci(_) => {
                    Fit::AsIs
                }
            };
            return Ok(match fit {
                Fit::AsIs => Found::Same(id, part),
                Fit::After(step) => Found::Changeable(id, part, step),
            });
        }
        let (plan, place) = match wanted {
            Wanted::Scsi(disk) => scsi::plan(disk, &self.scsi, &self.limits)?,
            Wanted::Resize(_) => return Err(ResourceError::NotAttached),
            Wanted::Vpmem(layer) => vpmem::plan(layer, &self.vpmem, &self.limits)?,
            Wanted::Plan9(share) => {
                let Key::Plan9(number) = key else { return Err(ResourceError::NotAttached) };
                (plan9::plan(share, number), Place::None)
            }
            Wanted::VirtioFs(share) => {
                let Key::VirtioFs(number) = key else { return Err(ResourceError::NotAttached) };
                (virtio_fs::plan(share, number), Place::None)
            }
            Wanted::Vsmb(part) => {
                // A name is used up whether it works or not: the guest may know of it.
                self.next_vsmb += 1;
                (vsmb::plan(part, self.next_vsmb - 1), Place::None)
            }
            Wanted::Mapped(mapped) => (share::plan(mapped), Place::None),
            Wanted::Pipe(pipe) => {
                let plan = pipe::plan(pipe, self.next_pipe, |path| self.path(path), &self.limits)?;
                // What comes late over a port of an earlier pipe is not for this one.
                self.next_pipe = self.next_pipe.wrapping_add(1);
                (plan, Place::None)
            }
            Wanted::Layers(overlay) => (layers::plan(overlay), Place::None),
            Wanted::Pci(assignment) => vpci::plan(assignment, &self.pci, &self.limits)?,
            Wanted::Network(part) => ((*part.plan).clone(), Place::None),
        };
        Ok(Found::New { key, part, plan: Box::new(plan), place })
    }

    /// The key of a thing by its path, as it would be asked for.
    pub(crate) fn path(&self, path: &Path) -> String {
        self.vm.path_key(path)
    }

    /// The thing or the part with this key, as it is attached; `None` while it is not.
    pub(crate) fn attached_as(&self, part: Key) -> Option<Attached> {
        let id = self.machine.find_part(&part)?;
        self.attached_by(Count { id, part })
    }

    fn attached_by(&self, count: Count) -> Option<Attached> {
        let plan = Arc::clone(self.machine.attached_plan(count.id)?);
        Some(Attached { count, plan })
    }

    /// Hands what is attached to the waiter, who has this count of it. One that is nobody's goes for that.
    pub(crate) fn grant(&mut self, count: Count, waiter: Waiter) -> Effects {
        let mut effects = match self.attached_by(count.clone()) {
            Some(attached) => self.follow(waiter.grant(attached)),
            None => self.follow(waiter.fail(ResourceError::NotAttached)),
        };
        if let Some(under) = self.nobodys.get(&count).cloned() {
            effects.extend(self.release(count.clone(), Waiter::nobody(count, under)));
        }
        effects
    }

    /// What follows from what a waiter was told.
    pub(crate) fn follow(&mut self, follows: Follows) -> Effects {
        match follows {
            Follows::Nothing => Effects::new(),
            Follows::GiveBack(count, waiter) => self.release(count, waiter),
            Follows::Nobodys { count, under, why } => {
                let (what, error) = (&count.part, crate::error::chain(&why));
                tracing::warn!(?what, error, "what nobody has any more could not be given back, and stays for now");
                self.nobodys.insert(count, under);
                Effects::new()
            }
        }
    }

    /// What could not be decided before.
    pub(crate) fn retry(&mut self, kept: Kept<Key, Waiter, Wanted>) -> Effects {
        match kept {
            Kept::Ask(wanted, waiter) => self.ask_once(wanted, waiter),
            Kept::Release(id, part, Some(waiter)) => self.release(Count { id, part }, waiter),
            Kept::Release(_, _, None) => Effects::new(),
        }
    }

    /// The adapters in a network namespace, also those that come or go; `None`: the namespace is not there.
    pub(crate) fn adapters(&self, namespace: &str) -> Option<Vec<Key>> {
        self.attached_as(network::namespace_key(namespace))?;
        let is_in = |key: &&Key| matches!(key, Key::Adapter { namespace: of, .. } if *of == namespace.to_lowercase());
        Some(self.machine.keys().filter(is_in).cloned().collect())
    }

    /// One who has the thing, or a part of it, gives it up. While it goes it is not known yet whether there is anything to give
    /// up.
    pub(crate) fn release(&mut self, count: Count, mut waiter: Waiter) -> Effects {
        if let Some(under) = self.nobodys.remove(&count) {
            waiter.takes_nobodys(under);
        }
        let Count { id, part } = count;
        let less = self.machine.plan(id).and_then(|plan| vsmb::without(&part, plan, |path| self.path(path)));
        self.machine.release_in_turn(id, part, less, waiter).into_iter().collect()
    }

    /// The same, by its key.
    pub(crate) fn release_key(&mut self, key: Key, reply: Told) -> Effects {
        if let Key::Namespace(namespace) = &key
            && let Some(adapters) = self.adapters(namespace).map(|adapters| adapters.len()).filter(|count| *count > 0)
        {
            // A caller that gave up does not want the answer.
            let _ = reply.send(Err(ResourceError::NamespaceInUse { adapters }));
            return Effects::new();
        }
        let count = self.machine.find_part(&key).map(|id| Count { id, part: key });
        self.release_found(count, reply)
    }

    /// The same, of the layers that were combined at `root` last.
    pub(crate) fn release_layers(&mut self, root: &str, reply: Told) -> Effects {
        let id = self.machine.last(|key| matches!(key, Key::Layers(of, _) if of == root));
        let count = id.and_then(|id| self.machine.key(id).map(|key| Count { id, part: key.clone() }));
        self.release_found(count, reply)
    }

    fn release_found(&mut self, count: Option<Count>, reply: Told) -> Effects {
        let Some(count) = count else {
            let _ = reply.send(Err(ResourceError::NotAttached));
            return Effects::new();
        };
        let reply = Reply::Caller { reply, is_nobodys: false };
        self.release(count.clone(), Waiter::Release { count, reply, under: None })
    }

    pub(crate) fn attached(&mut self, id: EntryId, result: Result<(), AttachFailed>) -> Effects {
        if let Err(AttachFailed { error: ResourceError::Host(PlatformError::Unsupported { .. }), .. }) = &result
            && let Some(&Key::Plan9(number)) = self.machine.key(id)
            && number + 1 == self.next_plan9
        {
            // Nobody was asked.
            self.next_plan9 = number;
        }
        let effects = self.machine.attached(id, result);
        if let Some(part) = self.machine.broken_part(id) {
            // Whoever asked for it has no handle.
            self.nobodys.insert(Count { id, part: part.clone() }, None);
        }
        effects
    }

    pub(crate) fn changed(&mut self, id: EntryId, result: Result<(), ResourceError>) -> Effects {
        self.machine.changed(id, result)
    }

    pub(crate) fn detached(&mut self, id: EntryId, result: Result<(), DetachFailed>) -> Effects {
        self.machine.detached(id, result)
    }

    /// The thing is gone: its place is free.
    pub(crate) fn freed(&mut self, id: EntryId) {
        self.scsi.leave(&id);
        self.vpmem.leave(&id);
        self.pci.leave(&id);
    }

    /// The VM is gone, and everything with it. Gives who still waits.
    pub(crate) fn clear(&mut self) -> Vec<Waiter> {
        self.scsi = Places::new(self.scsi.count());
        self.vpmem = Places::new(self.vpmem.count());
        self.pci = Places::new(self.pci.count());
        self.nobodys.clear();
        self.machine.clear()
    }
}

enum Found {
    Same(EntryId, Key),
    Changeable(EntryId, Key, Box<Step>),
    New { key: Key, part: Key, plan: Box<Plan>, place: Place },
}
