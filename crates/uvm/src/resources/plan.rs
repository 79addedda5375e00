//! How one thing is plugged in and unplugged: the rule that holds for all of them.
//!
//! To add: access to the file, what the guest must know before, the host, then the guest; whatever fails undoes what was
//! done, with limits of its own. To remove: the guest, then the host, then the access. If the host does not let go, the
//! guest already has: a retry goes on from there. A guest that waits for the device itself cannot begin: of such a device the
//! host lets go first.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use uvm_platform::requests::{Change, Device, VmAccess};
use uvm_platform::{Deadlines, PlatformError, PlatformVm};
use uvm_wire::modify::{Modification, ModifySettings, Resource};
use uvm_wire::{ContainerId, Hresult, RawJson};

use super::{ResourceError, network, vpmem};
use crate::bridge::BridgeError;
use crate::vm::Guest;
use crate::vm::on_host;

/// What it takes to plug one thing in, and to unplug it. Plain data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// A file the VM has to be let at.
    pub(crate) grant: Option<(PathBuf, VmAccess)>,
    /// What the guest is told before the host adds it. The guest's half of removing it takes that back.
    pub(crate) guest_before: Option<Modification>,
    /// The host's half.
    pub(crate) device: Option<Device>,
    /// The guest's half of adding it.
    pub(crate) guest_add: Option<Modification>,
    /// The guest's half of removing it.
    pub(crate) guest_remove: Option<Modification>,
    /// The id of the host's network namespace that `guest_remove` describes: it is looked at again then.
    pub(crate) namespace: Option<String>,
}

/// A change of something that is there: the host, then the guest; a guest that refuses undoes the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// How it is removed from then on.
    pub(crate) to: Plan,
    /// The host's half, and how it is taken back, if it is.
    pub(crate) host: Option<(Change, Option<Change>)>,
    /// The guest's half.
    pub(crate) guest: Option<Modification>,
}

/// How far a removal has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The guest has let go.
    pub(crate) guest_is_done: bool,
}

/// An attach that failed.
#[derive(Clone, Debug)]
pub(crate) struct AttachFailed {
    pub(crate) error: ResourceError,
    /// Something of it is left.
    pub(crate) is_left: bool,
}

/// A detach that failed.
#[derive(Clone, Debug)]
pub(crate) struct DetachFailed {
    pub(crate) error: ResourceError,
    pub(crate) progress: Progress,
}

impl DetachFailed {
    /// Whether what was to be detached is as it was: who did not let go said so.
    pub(super) fn has_changed_nothing(&self) -> bool {
        !self.progress.guest_is_done && !is_unclear(&self.error)
    }
}

/// Who holds the connection to the guest.
#[derive(Clone, Debug)]
pub(crate) enum Connection {
    /// This library.
    Library(Guest),
    /// The host's service: the guest's half goes along with the host's.
    HostService,
    /// Nobody.
    None,
}

impl Connection {
    /// What the guest's agent would have to be able to do for this resource, if it is not.
    fn lacks(&self, resource: &Resource) -> Option<&'static str> {
        let Self::Library(guest) = self else { return None };
        let can = &guest.capabilities.guest_defined;
        match resource {
            // Whether newer ones do is not said; those of January 2021 would do something else than what is asked.
            Resource::MappedVirtualDisk(disk) if can.update_container => {
                let more = disk.partition != 0
                    || disk.block_dev
                    || disk.ensure_filesystem
                    || !(disk.options.is_empty() && disk.filesystem.is_empty());
                more.then_some("partitions, other file systems, mount options and links to disks")
            }
            Resource::VpciDevice(device) if !device.port.is_empty() && !can.pci_ports => Some("PCI devices in ports"),
            Resource::DiskSize(_) if !can.disk_sizes => Some("new sizes of disks"),
            Resource::MappedSocket(_) if !can.mapped_sockets => Some("sockets of the host"),
            _ => None,
        }
    }
}

/// Whom to ask, and how long to wait.
#[derive(Clone)]
pub(crate) struct Ends {
    pub(crate) vm: Arc<dyn PlatformVm>,
    pub(crate) connection: Connection,
    pub(crate) deadlines: Deadlines,
}

impl Ends {
    pub(crate) async fn attach(&self, plan: &Plan) -> Result<(), AttachFailed> {
        let clean = |error| AttachFailed { error, is_left: false };
        let tells = plan.guest_before.is_some() || plan.guest_add.is_some();
        if tells && matches!(self.connection, Connection::None) {
            return Err(clean(ResourceError::NoGuestConnection));
        }
        if let Some(what) = plan.guest_add.as_ref().and_then(|add| self.connection.lacks(&add.resource)) {
            return Err(clean(ResourceError::NotForThisAgent { what }));
        }
        if let Some((path, access)) = &plan.grant {
            self.host("let it open a file", self.vm.grant(path, *access)).await.map_err(clean)?;
        }
        let added = self.prepare_and_add(plan).await;
        if added.is_err() {
            self.revoke(plan).await;
        }
        added
    }

    async fn prepare_and_add(&self, plan: &Plan) -> Result<(), AttachFailed> {
        let Some(before) = &plan.guest_before else { return self.add(plan).await };
        if let Err(error) = self.tell(before).await {
            if is_unclear(&error) {
                self.take_back(plan).await;
            }
            return Err(AttachFailed { error, is_left: false });
        }
        self.add(plan).await
    }

    async fn add(&self, plan: &Plan) -> Result<(), AttachFailed> {
        let along = self.along(plan.guest_add.as_ref());
        if let Some(device) = &plan.device {
            let change = Change::Add(device.clone());
            if let Err(error) = self.change(&change, along.as_ref()).await {
                if plan.guest_before.is_some() {
                    self.take_back(plan).await;
                }
                // What was not answered may have been done.
                let is_left = is_unclear(&error) && self.undo(device).await.is_err();
                return Err(AttachFailed { error, is_left });
            }
        } else if let Some(guest) = &along {
            let passed = self.host("have its guest add something", self.vm.pass_on(guest.get())).await;
            return passed.map_err(|error| AttachFailed { error, is_left: false });
        }
        let Some(modification) = plan.guest_add.as_ref().filter(|_| along.is_none()) else { return Ok(()) };
        let Err(error) = self.guest(&self.placed(plan, modification)).await else { return Ok(()) };
        if plan.guest_before.is_some() || is_unclear(&error) {
            self.take_back(plan).await;
        }
        let is_left = match &plan.device {
            Some(device) => match self.undo(device).await {
                Ok(()) => false,
                // Who served it has ended or stalled, which is why the guest would not have it. It is told once.
                Err(lost @ ResourceError::Host(PlatformError::Host { .. }))
                    if matches!(device, Device::VirtioFs(_)) && self.undo(device).await.is_ok() =>
                {
                    tracing::warn!(
                        error = crate::error::chain(&error),
                        "what the guest says of a share that the host says it has lost"
                    );
                    return Err(AttachFailed { error: lost, is_left: false });
                }
                Err(e) => {
                    tracing::warn!(error = crate::error::chain(&e), "what the guest would not have cannot be undone");
                    true
                }
            },
            None => false,
        };
        Err(AttachFailed { error, is_left })
    }

    pub(crate) async fn detach(&self, plan: &Plan, mut progress: Progress) -> Result<(), DetachFailed> {
        let looked = self.guest_remove(plan).await;
        let guest_remove = looked.map_err(|error| DetachFailed { error, progress })?;
        let along = self.along(guest_remove.as_ref());
        if !progress.guest_is_done
            && along.is_none()
            && let Some(modification) = &guest_remove
            && !matches!(self.connection, Connection::None)
        {
            self.let_go(plan, modification).await.map_err(|error| DetachFailed { error, progress })?;
        }
        // Where the guest has no half, a host that refuses has changed nothing.
        progress.guest_is_done = plan.guest_remove.is_some() && along.is_none();
        let removed = match (&plan.device, &along) {
            (Some(device), _) => self.change(&Change::Remove(device.clone()), along.as_ref()).await,
            (None, Some(guest)) => self.host("have its guest remove something", self.vm.pass_on(guest.get())).await,
            (None, None) => Ok(()),
        };
        removed.map_err(|error| DetachFailed { error, progress })?;
        self.revoke(plan).await;
        Ok(())
    }

    /// The guest's half of a removal. A guest that does not get through unmounting a share waits for the process that serves
    /// it: the host takes the device away then, which ends the waiting with errors, and the guest is told again, once.
    async fn let_go(&self, plan: &Plan, modification: &Modification) -> Result<(), ResourceError> {
        let Err(error) = self.guest(modification).await else { return Ok(()) };
        match &plan.device {
            Some(device @ Device::VirtioFs(_)) if is_unclear(&error) => {
                tracing::warn!(
                    error = crate::error::chain(&error),
                    "a share that the guest does not get unmounted is taken away from it"
                );
                self.change(&Change::Remove(device.clone()), None).await?;
                self.guest(modification).await
            }
            _ => Err(error),
        }
    }

    pub(crate) async fn change_to(&self, step: &Step) -> Result<(), ResourceError> {
        if step.guest.is_some() && matches!(self.connection, Connection::None) {
            return Err(ResourceError::NoGuestConnection);
        }
        if let Some(what) = step.guest.as_ref().and_then(|change| self.connection.lacks(&change.resource)) {
            return Err(ResourceError::NotForThisAgent { what });
        }
        let along = self.along(step.guest.as_ref());
        match (&step.host, &along) {
            (Some((change, back)), _) => {
                if let Err(error) = self.change(change, along.as_ref()).await {
                    if let Some(back) = back.as_ref().filter(|_| is_unclear(&error)) {
                        // What was not answered may have been done, or never will be: then this fails, too.
                        let _ = self.change(back, None).await;
                    }
                    return Err(error);
                }
            }
            (None, Some(guest)) => self.host("have its guest change something", self.vm.pass_on(guest.get())).await?,
            (None, None) => {}
        }
        let Some(modification) = step.guest.as_ref().filter(|_| along.is_none()) else { return Ok(()) };
        let Err(error) = self.guest(modification).await else { return Ok(()) };
        if let Some((_, Some(back))) = &step.host
            && let Err(e) = self.change(back, None).await
        {
            tracing::warn!(error = crate::error::chain(&e), "a change that the guest would not have stays on the host");
        }
        Err(error)
    }

    /// The guest's half of removing it, as it is to be told now.
    async fn guest_remove(&self, plan: &Plan) -> Result<Option<Modification>, ResourceError> {
        let (Some(id), Some(otherwise)) = (&plan.namespace, &plan.guest_remove) else {
            return Ok(plan.guest_remove.as_ref().map(|told| self.placed(plan, told)));
        };
        let network = self.vm.network().map_err(ResourceError::Host)?;
        let looked = self.host("look at a network namespace for", network.namespace(id)).await?;
        Ok(Some(network::namespace_removed(looked.as_deref(), otherwise)))
    }

    /// What the guest is told of a thing, as the host has put it there: known from the host's half on, until that is undone.
    fn placed(&self, plan: &Plan, told: &Modification) -> Modification {
        let place = match &plan.device {
            Some(Device::Vpmem(layer)) => self.vm.layer_place(layer.slot),
            _ => None,
        };
        place.map_or_else(|| told.clone(), |place| vpmem::placed(told, place))
    }

    /// The guest's half, if it goes along with the host's.
    fn along(&self, modification: Option<&Modification>) -> Option<RawJson> {
        match self.connection {
            Connection::HostService => RawJson::of(modification?).ok(),
            Connection::Library(_) | Connection::None => None,
        }
    }

    /// Why a guest does not answer its VM may tell.
    async fn guest(&self, modification: &Modification) -> Result<(), ResourceError> {
        let Connection::Library(guest) = &self.connection else { return Ok(()) };
        let call = ModifySettings { modification: modification.clone() };
        let told = guest.bridge.call(ContainerId::UVM, &call, Some(self.deadlines.rpc)).await.map(|_| ());
        told.map_err(|error| {
            let is_silent = error.is_silence();
            let source = Arc::new(error);
            if is_silent {
                ResourceError::Silent { last_words: Arc::new(self.vm.last_words()), source }
            } else {
                ResourceError::Guest(source)
            }
        })
    }

    /// Tells the guest something alone, by whoever holds the connection to it.
    async fn tell(&self, modification: &Modification) -> Result<(), ResourceError> {
        match self.along(Some(modification)) {
            Some(request) => self.host("tell its guest something", self.vm.pass_on(request.get())).await,
            None => self.guest(modification).await,
        }
    }

    /// Takes back what the guest was told, or may have been, of a thing that does not come after all. A guest that knows
    /// nothing of it, or does not answer, cannot be helped: nothing else will have the same name.
    async fn take_back(&self, plan: &Plan) {
        let Some(remove) = &plan.guest_remove else { return };
        if let Err(e) = self.tell(&self.placed(plan, remove)).await {
            tracing::debug!(error = crate::error::chain(&e), "what the guest was told is not taken back");
        }
    }

    async fn undo(&self, device: &Device) -> Result<(), ResourceError> {
        self.change(&Change::UndoAdd(device.clone()), None).await
    }

    async fn change(&self, change: &Change, guest: Option<&RawJson>) -> Result<(), ResourceError> {
        let changing = self.vm.change(change, guest.map(RawJson::get));
        let limit = change_limit(change, &self.deadlines);
        on_host(&*self.vm, "change", limit, changing).await.map_err(ResourceError::Host)
    }

    /// What cannot be taken back is told, and does not keep the rest from being undone.
    async fn revoke(&self, plan: &Plan) {
        let Some((path, VmAccess::Individual)) = &plan.grant else { return };
        if let Err(e) = self.host("keep it from opening a file", self.vm.revoke(path)).await {
            tracing::warn!(path = %path.display(), error = crate::error::chain(&e), "a VM's access to a file stays");
        }
    }

    async fn host<T>(
        &self,
        intent: &'static str,
        call: impl Future<Output = Result<T, PlatformError>>,
    ) -> Result<T, ResourceError> {
        on_host(&*self.vm, intent, self.deadlines.host_call, call).await.map_err(ResourceError::Host)
    }
}

/// How long the host may take for a change: it keeps that by itself, so it is the host's error that is told, with the step
/// that took too long.
fn change_limit(change: &Change, deadlines: &Deadlines) -> Duration {
    let Deadlines { host_call, terminate, .. } = *deadlines;
    match change {
        // Its turn, the device plugged in (or asked for), and, once a process that kept it from that is ended, the device
        // taken out. Each of the two processes that there may be is waited for, ended, and waited for again.
        Change::Add(Device::VirtioFs(_))
        | Change::Remove(Device::VirtioFs(_))
        | Change::UndoAdd(Device::VirtioFs(_)) => {
            host_call.saturating_mul(4).saturating_add(terminate.saturating_mul(4))
        }
        // All its steps share one limit.
        _ => host_call,
    }
}

/// Whether the guest waits in vain for something: it did not answer, or answered that it has given up. An agent that does not
/// say so has refused, for all that is known: what its programs may be using is not taken away on a guess.
fn is_given_up(error: &BridgeError) -> bool {
    matches!(error, BridgeError::Timeout { .. }) || error.is_any(&[Hresult::TIMEOUT])
}

/// Whether what was asked for may have been done, or yet be.
fn is_unclear(error: &ResourceError) -> bool {
    match error {
        ResourceError::Host(PlatformError::Timeout { .. }) | ResourceError::Silent { .. } => true,
        ResourceError::Guest(error) => is_given_up(error),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use uvm_wire::{Failure, MessageType};

    use super::*;

    #[test]
    fn a_share_in_use_is_not_taken_for_one_that_does_not_answer() {
        let failed = |failure| BridgeError::Failed(Box::new(failure));
        assert!(is_given_up(&failed(Failure::wrapping(Hresult::TIMEOUT, "unmounting took longer than 25s"))));
        assert!(!is_given_up(&failed(Failure::plain("it is another mount"))));
        assert!(!is_given_up(&failed(Failure::plain("it is in use").with_errno(16))));
        let silent = BridgeError::Timeout { call: MessageType::MODIFY_SETTINGS, waited: Duration::from_secs(30) };
        assert!(is_given_up(&silent));
    }
}
