//! What the agent is, whichever connection it serves: its processes, its log, what it owes its host.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, oneshot, watch};

use crate::log::Log;
use crate::modules::Modules;
use crate::outbox::Outbox;
use crate::process::{Processes, Reap};
use crate::relays::Relays;
use crate::shutdown::Shutdown;
use crate::storage::Storage;

/// The agent's state. It outlives every connection.
pub struct Agent {
    pub(crate) processes: Processes,
    pub(crate) relays: Relays,
    pub(crate) outbox: Outbox,
    pub(crate) log: Log,
    pub(crate) storage: Storage,
    /// Until it is ready, negotiation is not answered: when the host's start returns, the guest is complete.
    pub(crate) ready: Readiness,
    shutdown: Mutex<Option<Shutdown>>,
    shutdown_wanted: Notify,
    /// Everything has ended: what is still owed goes out, then the connection is closed.
    last_call: watch::Sender<bool>,
    connected: AtomicBool,
}

impl Agent {
    /// An agent that reaps as it is told, and is ready once `ready` says so or is dropped.
    ///
    /// # Errors
    /// The system has no thread, or no descriptors, to give.
    pub fn new(reap: Reap, log: Log, ready: oneshot::Receiver<()>) -> io::Result<Self> {
        Ok(Self {
            processes: Processes::new(reap),
            relays: Relays::new(log.clone())?,
            outbox: Outbox::default(),
            log,
            storage: Storage::new(Arc::default()),
            ready: Readiness(tokio::sync::Mutex::new(Some(ready))),
            shutdown: Mutex::new(None),
            shutdown_wanted: Notify::new(),
            last_call: watch::Sender::new(false),
            connected: AtomicBool::new(false),
        })
    }

    /// With modules of the kernel to load when they are needed; without, it has everything built in.
    #[must_use]
    pub fn with_modules(self, modules: Arc<Modules>) -> Self {
        Self { storage: Storage::new(modules), ..self }
    }

    /// The processes that were started through the bridge.
    pub fn processes(&self) -> &Processes {
        &self.processes
    }

    /// The host wants the VM to end. The first wish counts.
    pub(crate) fn shut_down(&self, how: Shutdown) {
        self.shutdown.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(how);
        self.shutdown_wanted.notify_waiters();
        self.shutdown_wanted.notify_one();
    }

    /// The wish, if there is one.
    pub(crate) fn shutdown(&self) -> Option<Shutdown> {
        *self.shutdown.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Waits for the host to want the VM to end.
    pub async fn shutdown_wanted(&self) -> Shutdown {
        loop {
            let wanted = self.shutdown_wanted.notified();
            if let Some(how) = self.shutdown() {
                return how;
            }
            wanted.await;
        }
    }

    /// Nothing more will come to be owed to the host: the bridge may end.
    pub fn last_call(&self) {
        self.last_call.send_replace(true);
    }

    /// Waits for [`last_call`](Self::last_call). Cancel-safe.
    pub(crate) async fn is_last_call(&self) {
        // The sender is alive: `self` holds it.
        let _ = self.last_call.subscribe().wait_for(|last| *last).await;
    }

    /// Takes the one place of a bridge connection; `None` while another has it.
    pub(crate) fn take_seat(&self) -> Option<Seat<'_>> {
        self.connected.compare_exchange(false, true, Ordering::AcqRel, Ordering::Acquire).ok()?;
        Some(Seat(&self.connected))
    }
}

/// The one place of a bridge connection. Dropping it frees it.
pub(crate) struct Seat<'a>(&'a AtomicBool);

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Something that becomes ready once.
pub(crate) struct Readiness(tokio::sync::Mutex<Option<oneshot::Receiver<()>>>);

impl Readiness {
    /// Waits until it is ready; at once ever after.
    pub(crate) async fn wait(&self) {
        let mut pending = self.0.lock().await;
        if let Some(ready) = pending.as_mut() {
            // A dropped sender has logged why.
            let _ = ready.await;
            *pending = None;
        }
    }
}
