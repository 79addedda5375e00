//! A container that the service made.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{mpsc, watch};
use uvm_platform::{
    BoxFuture, ContainerCommand, ContainerExit, GuestFault, NewContainer, NewProcess, PlatformContainer, PlatformError,
};

use super::unclaimed::Unclaimed;
use super::{Link, process, told_if_left};
use crate::create::discard;
use crate::document::create_container;
use crate::document::query::{SystemProperties, query};
use crate::host::{ComputeSystem, HcsError, Notification, NotificationKind, OpenSystem};
use crate::life::{Evidence, classify};
use crate::vm::Vm;
use crate::vm::platform_vm::raw_json;

const INTENT: &str = "create a container in it";

/// Makes a container, and starts it if that is wanted.
pub(super) fn create<'a>(
    link: &Link,
    container: NewContainer<'_>,
) -> BoxFuture<'a, Result<Arc<dyn PlatformContainer>, PlatformError>> {
    let NewContainer { id, settings, start } = container;
    let (at, id, settings) = (link.clone(), id.to_owned(), settings.to_owned());
    let made = link.run(INTENT, move |vm| async move { make(vm, at, id, settings, start).await });
    Box::pin(async move { Ok(Arc::new(made.await?.claim()) as Arc<dyn PlatformContainer>) })
}

async fn make(
    vm: Arc<Vm>,
    link: Link,
    id: String,
    settings: String,
    start: bool,
) -> Result<Unclaimed<HcsContainer>, PlatformError> {
    let document = create_container(&vm.parts.id, &vm.parts.owner, &raw_json(&settings)?);
    // One that comes too late is closed, which ends it.
    let open = vm.in_guest(INTENT, vm.parts.host.create_system(&id, &document)).await?;
    let ready = async {
        let answer = vm.in_guest(INTENT, open.system.properties(&query(&[]))).await?;
        SystemProperties::read(&answer).map_err(|e| PlatformError::host(INTENT, e))?;
        if start {
            vm.in_guest("start a container in it", open.system.start()).await?;
        }
        Ok(())
    };
    if let Err(error) = ready.await {
        discard(&id, open, vm.parts.deadlines).await;
        return Err(error);
    }
    let made = HcsContainer::keep(&vm, link.clone(), id, open);
    let made = Unclaimed::new(made, link, |vm, container| Box::pin(async move { container.undo(&vm).await }));
    // The VM may have been closed meanwhile, with all that was known then.
    match vm.require_hosted(INTENT) {
        Ok(()) => Ok(made),
        Err(error) => {
            made.undo(vm).await;
            Err(error)
        }
    }
}

/// A container that is open. It goes on when nobody has a handle of it.
pub(super) struct OpenContainer {
    id: String,
    system: Arc<dyn ComputeSystem>,
    /// Each handle hears of it.
    end: watch::Sender<Option<ContainerExit>>,
    /// Somebody has had it terminated.
    terminated: AtomicBool,
}

impl OpenContainer {
    pub(super) async fn close(&self, vm: &Vm) {
        told_if_left(vm, "container", self.id.as_str(), self.system.close()).await;
    }

    async fn command(&self, command: ContainerCommand) -> Result<(), HcsError> {
        match command {
            ContainerCommand::Start => self.system.start().await,
            ContainerCommand::Pause => self.system.pause().await,
            ContainerCommand::Resume => self.system.resume().await,
            ContainerCommand::Shutdown => self.system.shutdown().await,
            ContainerCommand::Terminate => {
                self.terminated.store(true, Ordering::Relaxed);
                self.system.terminate().await
            }
        }
    }

    /// Waits until the service tells its end.
    async fn told(&self, notifications: &mut mpsc::UnboundedReceiver<Notification>) -> ContainerExit {
        while let Some(told) = notifications.recv().await {
            match told.kind {
                NotificationKind::SystemExited => {
                    let terminated = self.terminated.load(Ordering::Relaxed);
                    return ContainerExit::Exited(classify(&told, Evidence { terminated, ..Evidence::default() }));
                }
                NotificationKind::ServiceDisconnect => return ContainerExit::Lost,
                kind => tracing::debug!(container = self.id, ?kind, "the compute service tells"),
            }
        }
        // It was closed, which ends it.
        ContainerExit::Lost
    }
}

/// Follows a container to its end, and closes it once nobody has a handle of it.
async fn follow(vm: Arc<Vm>, open: Arc<OpenContainer>, mut notifications: mpsc::UnboundedReceiver<Notification>) {
    let exit = tokio::select! {
        biased;
        exit = open.told(&mut notifications) => exit,
        _ = vm.ending() => ContainerExit::Lost,
    };
    open.end.send_replace(Some(exit));
    open.end.closed().await;
    let_go(&vm, &open).await;
}

async fn let_go(vm: &Vm, open: &Arc<OpenContainer>) {
    vm.hosted.open().containers.retain(|other| !Arc::ptr_eq(other, open));
    open.close(vm).await;
}

/// A handle of a container.
pub(super) struct HcsContainer {
    id: String,
    link: Link,
    open: Weak<OpenContainer>,
    hearing: Mutex<Hearing>,
    closed: watch::Sender<bool>,
}

/// What a handle hears of the end.
enum Hearing {
    Open(watch::Receiver<Option<ContainerExit>>),
    /// Nothing any more, but for what it knows.
    Closed(ContainerExit),
}

impl HcsContainer {
    /// Has the VM own the container, and follows it to its end.
    fn keep(vm: &Arc<Vm>, link: Link, id: String, open: OpenSystem) -> Self {
        let OpenSystem { system, notifications } = open;
        let (end, hearing) = watch::channel(None);
        let open = Arc::new(OpenContainer { id: id.clone(), system, end, terminated: AtomicBool::new(false) });
        vm.hosted.open().containers.push(Arc::clone(&open));
        let follow = follow(Arc::clone(vm), Arc::clone(&open), notifications);
        link.spawn(|_| follow);
        Self::new(id, link, Arc::downgrade(&open), Hearing::Open(hearing))
    }

    /// A handle of what is open by this id.
    pub(super) fn find(vm: &Vm, link: Link, id: &str) -> Self {
        let containers = vm.hosted.open();
        // One that has ended may have left its id to the next.
        let open = containers.containers.iter().rev().find(|open| open.id == id);
        let hearing = open.map_or(Hearing::Closed(ContainerExit::Lost), |open| Hearing::Open(open.end.subscribe()));
        Self::new(id.to_owned(), link, open.map(Arc::downgrade).unwrap_or_default(), hearing)
    }

    fn new(id: String, link: Link, open: Weak<OpenContainer>, hearing: Hearing) -> Self {
        Self { id, link, open, hearing: Mutex::new(hearing), closed: watch::Sender::new(false) }
    }

    fn hearing(&self) -> MutexGuard<'_, Hearing> {
        self.hearing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a container that nobody wants.
    async fn undo(self, vm: &Vm) {
        let Some(open) = self.open.upgrade() else { return };
        match tokio::time::timeout(vm.parts.deadlines.rpc, open.system.terminate()).await {
            Ok(Err(error)) if !error.is_ending() => {
                tracing::warn!(container = self.id, %error, "a container that nobody wants goes on until it is closed");
            }
            // What is not told in time ends when it is closed.
            _ => drop(tokio::time::timeout(vm.parts.deadlines.terminate, self.ended()).await),
        }
        let_go(vm, &open).await;
    }

    /// Has the service do something with the container.
    fn call<T, F>(
        &self,
        intent: &'static str,
        call: impl FnOnce(Arc<OpenContainer>) -> F + Send + 'static,
    ) -> BoxFuture<'static, Result<T, PlatformError>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, HcsError>> + Send + 'static,
    {
        let open = self.finder(intent);
        self.link.run(intent, move |vm| async move {
            vm.require_open(intent)?;
            vm.in_guest(intent, call(open()?)).await
        })
    }

    /// What finds it, once it is wanted.
    fn finder(
        &self,
        intent: &'static str,
    ) -> impl FnOnce() -> Result<Arc<OpenContainer>, PlatformError> + Send + 'static {
        let (open, id) = (Weak::clone(&self.open), self.id.clone());
        move || {
            open.upgrade().ok_or_else(|| {
                let source = uvm_platform::error::Cause::new(format!("it has no container {id:?}"));
                PlatformError::InGuest { intent: intent.to_owned(), fault: GuestFault::NotFound, source }
            })
        }
    }
}

impl PlatformContainer for HcsContainer {
    fn id(&self) -> &str {
        &self.id
    }

    fn command(&self, command: ContainerCommand) -> BoxFuture<'_, Result<(), PlatformError>> {
        let ends = matches!(command, ContainerCommand::Shutdown | ContainerCommand::Terminate);
        let intent = match command {
            ContainerCommand::Start => "start a container in it",
            ContainerCommand::Pause => "pause a container in it",
            ContainerCommand::Resume => "resume a container in it",
            ContainerCommand::Shutdown => "shut down a container in it",
            ContainerCommand::Terminate => "terminate a container in it",
        };
        let open = self.finder(intent);
        self.link.run(intent, move |vm| async move {
            vm.require_open(intent)?;
            let open = match open() {
                Err(_) if ends => return Ok(()),
                open => open?,
            };
            let commanded = async {
                match open.command(command).await {
                    Err(error) if ends && error.is_ending() => Ok(()),
                    result => result,
                }
            };
            vm.in_guest(intent, commanded).await
        })
    }

    fn modify<'a>(&'a self, request: &'a str) -> BoxFuture<'a, Result<(), PlatformError>> {
        let request = request.to_owned();
        self.call("change a container in it", |open| async move { open.system.modify(&request).await })
    }

    fn properties<'a>(&'a self, query: &'a str) -> BoxFuture<'a, Result<String, PlatformError>> {
        let query = query.to_owned();
        self.call("read properties of a container in it", |open| async move { open.system.properties(&query).await })
    }

    fn create_process<'a>(&'a self, parameters: &'a str) -> NewProcess<'a> {
        let open = self.finder(process::INTENT);
        process::create(&self.link, || Ok(Arc::clone(&open()?.system)), parameters)
    }

    fn ended(&self) -> BoxFuture<'_, ContainerExit> {
        let mut end = match &*self.hearing() {
            Hearing::Open(end) => end.clone(),
            Hearing::Closed(known) => {
                let known = known.clone();
                return Box::pin(async { known });
            }
        };
        let mut closed = self.closed.subscribe();
        Box::pin(async move {
            tokio::select! {
                biased;
                end = end.wait_for(Option::is_some) => {
                    // What follows it went with the VM, and with it the container.
                    end.ok().and_then(|end| end.clone()).unwrap_or(ContainerExit::Lost)
                }
                // The sender is alive: `self` holds it.
                _ = closed.wait_for(|closed| *closed) => ContainerExit::Closed,
            }
        })
    }

    fn close(&self) {
        let mut hearing = self.hearing();
        if let Hearing::Open(end) = &*hearing {
            let known = end.borrow().clone().unwrap_or(ContainerExit::Closed);
            *hearing = Hearing::Closed(known);
        }
        drop(hearing);
        self.closed.send_replace(true);
    }
}
