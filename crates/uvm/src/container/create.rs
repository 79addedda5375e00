//! Making a container: its end is asked for first, then the guest makes it, then it is started.
//!
//! All of it runs where the VM's own I/O runs, so that a caller who gives up does not leave it half done: a container that
//! nobody has a handle of is killed and forgotten, whenever it comes to exist. None of it keeps a VM that nobody has a
//! handle of. Where the host's service holds the guest connection, the host does the same (`hosted.rs`).

use std::sync::Arc;
use std::time::Duration;

use uvm_wire::create::{ContainerConfig, Create};
use uvm_wire::system::{DeleteContainerState, ShutdownForced, Start};
use uvm_wire::{ContainerId, Rpc};

use super::bridged::{BridgedContainer, HAS_ENDED};
use super::{Container, ContainerOptions, Way, hosted};
use crate::bridge::{BridgeError, Registration};
use crate::error::{ContainerError, UvmError, chain};
use crate::vm::{Background, Guest, Reach, UtilityVm};

pub(super) const INTENT: &str = "create a container in";

/// Makes and starts a container of a Linux guest.
pub(crate) async fn create(vm: &UtilityVm, options: &ContainerOptions) -> Result<Container, UvmError> {
    make(vm, &options.id, options.config(), true).await
}

/// Makes a container of any guest, and starts it if that is wanted.
pub(super) async fn make(
    vm: &UtilityVm,
    id: &str,
    config: Result<ContainerConfig, ContainerError>,
    starts: bool,
) -> Result<Container, UvmError> {
    let inner = &vm.inner;
    let reach = inner.reach(INTENT)?;
    let failed = |source| inner.witness().container(id.to_owned(), "create", source);
    let container = ContainerId::from(id);
    container.check_new().map_err(|e| failed(ContainerError::Id(e)))?;
    let config = config.map_err(failed)?;
    let guest = match reach {
        Reach::Bridge(guest) => guest,
        Reach::Host(capabilities) => {
            return hosted::make(vm, id, &config, starts, capabilities.guest_defined.signal_process).await;
        }
    };
    // Before it is created: its end may be told at any time after that.
    let registration = guest.bridge.register_maker(&container).ok_or_else(|| failed(ContainerError::Exists))?;
    let (background, limit) = (inner.background(), inner.deadlines.rpc);
    let made = GuestContainer { background, guest, registration: Arc::new(registration), limit };
    match inner.run(made.make(Create { config }, starts)).await? {
        Ok(unclaimed) => Ok(unclaimed.claim(vm)),
        Err(source) => Err(failed(ContainerError::Guest(inner.unless_ended(INTENT, source).await?))),
    }
}

/// A container as the guest knows it. It does not keep the VM.
#[derive(Clone)]
struct GuestContainer {
    background: Background,
    guest: Guest,
    /// The id is taken as long as this is there.
    registration: Arc<Registration>,
    /// For each call.
    limit: Duration,
}

impl GuestContainer {
    /// Makes it and starts it, if that is wanted. If it cannot be started, it is undone before this returns.
    async fn make(self, create: Create, starts: bool) -> Result<Unclaimed, BridgeError> {
        let late = self.clone();
        let undo = move |_| async move { late.undo().await };
        let spawn = |task| self.background.spawn(task);
        self.guest.bridge.call_or_undo(self.id(), create, self.limit, spawn, undo).await?;
        if !starts {
            return Ok(Unclaimed(Some(self)));
        }
        match self.call(&Start {}).await {
            Ok(_) => Ok(Unclaimed(Some(self))),
            Err(e) => {
                self.undo().await;
                Err(e)
            }
        }
    }

    /// Ends a container that nobody wants, and frees its id in the guest where the agent can do that.
    async fn undo(&self) {
        let killed = self.call(&ShutdownForced {}).await;
        self.told("a container that nobody wants goes on", killed.err());
        if self.guest.capabilities.guest_defined.delete_container_state {
            let deleted = self.call(&DeleteContainerState {}).await;
            self.told("the guest keeps the id of a container that nobody wants", deleted.err());
        }
    }

    async fn call<R: Rpc>(&self, call: &R) -> Result<R::Reply, BridgeError> {
        self.guest.bridge.call(self.id(), call, Some(self.limit)).await
    }

    /// Nobody is left to be told of an error but the log.
    fn told(&self, what: &'static str, error: Option<BridgeError>) {
        if let Some(error) = error.filter(|e| !e.is_any(&HAS_ENDED)) {
            tracing::warn!(container = self.registration.id().as_str(), error = chain(&error), "{what}");
        }
    }

    fn id(&self) -> ContainerId {
        self.registration.id().clone()
    }
}

/// A container on its way to whoever asked for it. If nobody takes it, it is undone.
struct Unclaimed(Option<GuestContainer>);

impl Unclaimed {
    fn claim(mut self, vm: &UtilityVm) -> Container {
        // Only this and the drop take it.
        let made = self.0.take().expect("an unclaimed container is there until it is claimed");
        let GuestContainer { guest, registration, .. } = made;
        Container { vm: vm.clone(), way: Way::Bridge(BridgedContainer { guest, registration }) }
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let Some(made) = self.0.take() {
            let background = made.background.clone();
            background.spawn(async move { made.undo().await });
        }
    }
}
