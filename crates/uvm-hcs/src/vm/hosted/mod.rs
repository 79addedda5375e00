//! Containers and processes that the service makes in the guest, where it holds the guest connection.
//!
//! The VM owns them: what a program has are names of them. So whatever a program keeps, nothing stays open longer than
//! the VM, and a container goes on when nobody has a handle of it.

mod container;
mod input;
mod process;
mod unclaimed;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::task::JoinSet;
use uvm_platform::{BoxFuture, HostedGuest, NewContainer, NewProcess, PlatformContainer, PlatformError};

use super::{HcsVm, Vm, panicked};
use crate::home::Home;
use crate::host::{ComputeProcess, HcsError};

use container::{HcsContainer, OpenContainer};

/// What is open in the guest.
#[derive(Default)]
pub(super) struct Hosted {
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    /// The VM is being closed, or was: what comes now stays behind.
    closed: bool,
    containers: Vec<Arc<OpenContainer>>,
    processes: Vec<Arc<dyn ComputeProcess>>,
}

impl Hosted {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes something that nobody uses any more: nobody is left to be told of an error but the log.
async fn told_if_left(vm: &Vm, what: &str, name: impl fmt::Display, close: impl Future<Output = Result<(), HcsError>>) {
    let (id, limit) = (&vm.parts.id, vm.parts.deadlines.host_call);
    match tokio::time::timeout(limit, close).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(vm = %id, %error, "{what} {name} was not closed"),
        Err(_) => tracing::warn!(vm = %id, waited = ?limit, "{what} {name} was not closed in time"),
    }
}

/// The way from a handle to its VM, which it does not keep.
#[derive(Clone)]
struct Link {
    vm: Weak<Vm>,
    home: Weak<Home>,
}

impl Link {
    /// Runs `work` at the VM's home and waits for it. A caller that gives up does not stop it.
    fn run<'a, T, F>(
        &self,
        intent: &'static str,
        work: impl FnOnce(Arc<Vm>) -> F + Send + 'a,
    ) -> BoxFuture<'a, Result<T, PlatformError>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, PlatformError>> + Send + 'static,
    {
        let Self { vm, home } = self.clone();
        Box::pin(async move {
            let begun = vm.upgrade().zip(home.upgrade()).map(|(vm, home)| home.begin(work(vm)));
            // It ends with the VM.
            let lost = |_| Err(if vm.strong_count() == 0 { closed(intent) } else { panicked() });
            begun.ok_or_else(|| closed(intent))?.await.unwrap_or_else(lost)
        })
    }

    /// Runs `work` at the VM's home, unless the VM is gone.
    fn spawn<F>(&self, work: impl FnOnce(Arc<Vm>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        if let Some((vm, home)) = self.vm.upgrade().zip(self.home.upgrade()) {
            home.spawn(work(vm));
        }
    }
}

impl Vm {
    /// Closes all that is open in the guest, and what comes later. What fails is told in the log: the VM has ended, and its
    /// end is what counts.
    pub(super) async fn close_hosted(self: &Arc<Self>) {
        let closed = Open { closed: true, ..Open::default() };
        let Open { containers, processes, .. } = std::mem::replace(&mut *self.hosted.open(), closed);
        let mut closing = JoinSet::new();
        for process in processes {
            let vm = Arc::clone(self);
            closing.spawn(async move {
                told_if_left(&vm, "process", process.id(), process.close()).await;
            });
        }
        for container in containers {
            let vm = Arc::clone(self);
            closing.spawn(async move { container.close(&vm).await });
        }
        while closing.join_next().await.is_some() {}
    }

    /// Fails if what was made in the guest cannot be used any more: the VM has ended, or its closing has passed it by.
    fn require_hosted(&self, intent: &'static str) -> Result<(), PlatformError> {
        self.require_open(intent)?;
        if self.hosted.open().closed { Err(closed(intent)) } else { Ok(()) }
    }

    /// Has the service do something in the guest, no longer than a call to the guest may take.
    async fn in_guest<T>(
        &self,
        intent: &'static str,
        call: impl Future<Output = Result<T, HcsError>> + Send,
    ) -> Result<T, PlatformError> {
        self.require_open(intent)?;
        let limit = self.parts.deadlines.rpc;
        let result = tokio::select! {
            biased;
            result = tokio::time::timeout(limit, call) => result,
            status = self.ending() => return Err(self.ended(intent, status)),
        };
        match result {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                // What fails because the VM has ended is told so.
                self.require_open(intent)?;
                Err(failure(intent, error))
            }
            Err(_) => Err(self.timeout(&format!("the compute service, to {intent}"), limit)),
        }
    }
}

fn closed(intent: &'static str) -> PlatformError {
    PlatformError::WrongState { intent, state: "closed" }
}

fn failure(intent: &str, error: HcsError) -> PlatformError {
    let fault = error.guest_fault();
    PlatformError::InGuest { intent: intent.to_owned(), fault, source: uvm_platform::error::Cause::new(error) }
}

impl HcsVm {
    fn link(&self) -> Link {
        Link { vm: Arc::downgrade(&self.vm), home: Arc::downgrade(&self.home) }
    }
}

impl HostedGuest for HcsVm {
    fn create_container<'a>(
        &'a self,
        container: NewContainer<'a>,
    ) -> BoxFuture<'a, Result<Arc<dyn PlatformContainer>, PlatformError>> {
        container::create(&self.link(), container)
    }

    fn open_container(&self, id: &str) -> Arc<dyn PlatformContainer> {
        Arc::new(HcsContainer::find(&self.vm, self.link(), id))
    }

    fn create_process<'a>(&'a self, parameters: &'a str) -> NewProcess<'a> {
        let system = Arc::clone(&self.vm.parts.system);
        process::create(&self.link(), || Ok(system), parameters)
    }
}
