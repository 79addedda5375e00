//! Where a fake VM is in its life.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use super::ports::Ports;
use crate::error::PlatformError;
use crate::vm::{ExitStatus, VmEvent};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Created,
    Running,
    Paused,
    Ended,
}

impl State {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Created => "not started",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Ended => "gone",
        }
    }
}

/// What the VM, its guest and whoever ends it share.
pub(super) struct Life {
    pub(super) ports: Ports,
    /// Those of virtual sockets.
    pub(super) sockets: Ports,
    state: watch::Sender<State>,
    events: mpsc::Sender<VmEvent>,
    /// The task of the guest's script.
    guest: Mutex<Option<AbortHandle>>,
}

impl Life {
    pub(super) fn new(ports: Ports, sockets: Ports, events: mpsc::Sender<VmEvent>) -> Self {
        Self { ports, sockets, state: watch::Sender::new(State::Created), events, guest: Mutex::default() }
    }

    pub(super) fn state(&self) -> State {
        *self.state.borrow()
    }

    /// Goes from one of the states `from` to `to`. To be there already is success.
    pub(super) fn enter(&self, intent: &'static str, from: &[State], to: State) -> Result<(), PlatformError> {
        let mut result = Ok(());
        self.state.send_if_modified(|state| {
            if *state != to && !from.contains(state) {
                result = Err(PlatformError::WrongState { intent, state: state.name() });
                return false;
            }
            std::mem::replace(state, to) != to
        });
        result
    }

    pub(super) fn runs_guest(&self, guest: AbortHandle) {
        *self.guest() = Some(guest);
    }

    pub(super) async fn powered_on(&self) {
        // The sender is alive: `self` holds it.
        let _ = self.state.subscribe().wait_for(|state| *state != State::Created).await;
    }

    /// A full or closed channel means that nobody is interested in events.
    pub(super) fn tell(&self, event: VmEvent) {
        let _ = self.events.try_send(event);
    }

    pub(super) fn end(&self, status: ExitStatus) {
        if self.state.send_replace(State::Ended) == State::Ended {
            return;
        }
        if let Some(guest) = self.guest().take() {
            guest.abort();
        }
        self.ports.clear();
        self.sockets.clear();
        self.tell(VmEvent::Exited(status));
    }

    fn guest(&self) -> MutexGuard<'_, Option<AbortHandle>> {
        self.guest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
