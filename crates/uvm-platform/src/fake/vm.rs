//! One VM of the fake host.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use super::FakePlatform;
use super::ports::Ports;
use crate::BoxFuture;
use crate::error::{LastWords, PlatformError};
use crate::id::UvmId;
use crate::stream::{GuestListener, GuestStream, Port};
use crate::vm::{Accelerator, ExitStatus, PlatformVm, VmEvent, VmEvents, VmProperties};

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Created,
    Running,
    Paused,
    Ended,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Created => "not started",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Ended => "gone",
        }
    }
}

pub(super) struct FakeVm {
    host: FakePlatform,
    id: UvmId,
    ports: Ports,
    life: Arc<Mutex<Life>>,
    /// On the runtime of the test, so that its paused clock holds for them.
    tasks: Mutex<JoinSet<()>>,
}

struct Life {
    state: State,
    events: mpsc::Sender<VmEvent>,
    guest: Option<AbortHandle>,
}

impl FakeVm {
    pub(super) fn new(host: FakePlatform, id: UvmId) -> (Arc<Self>, VmEvents) {
        let (sender, receiver) = mpsc::channel(8);
        let life = Life { state: State::Created, events: sender, guest: None };
        let (life, tasks) = (Arc::new(Mutex::new(life)), Mutex::default());
        let vm = Self { host, id, ports: Ports::default(), life, tasks };
        (Arc::new(vm), VmEvents::new(receiver))
    }

    fn enter(&self, intent: &'static str, from: &[State], to: State) -> Result<(), PlatformError> {
        let mut life = lock(&self.life);
        if life.state == to || from.contains(&life.state) {
            life.state = to;
            return Ok(());
        }
        Err(PlatformError::WrongState { intent, state: life.state.name() })
    }
}

fn lock(life: &Mutex<Life>) -> std::sync::MutexGuard<'_, Life> {
    life.lock().unwrap_or_else(PoisonError::into_inner)
}

fn end(life: &Mutex<Life>, ports: &Ports, status: ExitStatus) {
    let mut life = lock(life);
    if life.state == State::Ended {
        return;
    }
    life.state = State::Ended;
    if let Some(guest) = life.guest.take() {
        guest.abort();
    }
    ports.clear();
    // A full or closed channel means that nobody is interested in events.
    let _ = life.events.try_send(VmEvent::Exited(status));
}

impl PlatformVm for FakeVm {
    fn accelerator(&self) -> Accelerator {
        Accelerator::None
    }

    fn start(&self) -> BoxFuture<'_, Result<(), PlatformError>> {
        Box::pin(async {
            self.host.call("start").await?;
            self.enter("start it", &[State::Created], State::Running)?;
            let script = (self.host.script)(self.ports.guest_end());
            let (life, ports) = (Arc::clone(&self.life), self.ports.clone());
            let guest = tokio::spawn(async move {
                script.await;
                end(&life, &ports, ExitStatus::PoweredOff);
            });
            lock(&self.life).guest = Some(guest.abort_handle());
            Ok(())
        })
    }

    fn pause(&self) -> BoxFuture<'_, Result<(), PlatformError>> {
        Box::pin(async {
            self.host.call("pause").await?;
            self.enter("pause it", &[State::Running], State::Paused)
        })
    }

    fn resume(&self) -> BoxFuture<'_, Result<(), PlatformError>> {
        Box::pin(async {
            self.host.call("resume").await?;
            self.enter("resume it", &[State::Paused], State::Running)
        })
    }

    fn terminate(&self) -> BoxFuture<'_, Result<(), PlatformError>> {
        Box::pin(async {
            self.host.call("terminate").await?;
            end(&self.life, &self.ports, ExitStatus::Terminated);
            Ok(())
        })
    }

    fn close(&self) -> BoxFuture<'_, Result<(), PlatformError>> {
        Box::pin(async {
            self.host.call("close").await?;
            end(&self.life, &self.ports, ExitStatus::Terminated);
            Ok(())
        })
    }

    fn properties(&self) -> BoxFuture<'_, Result<VmProperties, PlatformError>> {
        Box::pin(async {
            self.host.call("properties").await?;
            Ok(VmProperties { state: lock(&self.life).state.name().to_owned(), ..VmProperties::default() })
        })
    }

    fn listen(&self, port: Port) -> Result<GuestListener, PlatformError> {
        let name = format!("listen {port}");
        if self.host.note(&name).is_some() {
            return Err(PlatformError::host(name, "a planted fault"));
        }
        self.ports.listen_on_host(port)
    }

    fn dial(&self, port: Port) -> BoxFuture<'_, Result<GuestStream, PlatformError>> {
        Box::pin(async move {
            self.host.call(&format!("dial {port}")).await?;
            self.ports.dial_guest(port).await
        })
    }

    fn last_words(&self) -> LastWords {
        LastWords {
            phase: Some(format!("fake VM {} is {}", self.id, lock(&self.life).state.name())),
            ..LastWords::default()
        }
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(task);
    }
}

impl Drop for FakeVm {
    fn drop(&mut self) {
        end(&self.life, &self.ports, ExitStatus::Terminated);
    }
}
