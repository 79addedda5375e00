//! One VM: a compute system, what the service tells of it, and its sockets.
//!
//! Everything runs at the VM's [`Home`]; a method hands its work there and waits, so it works under any runtime, and a
//! caller that gives up leaves nothing half done.

mod changes;
mod end;
mod figures;
mod hosted;
mod platform_vm;
mod transitions;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OnceCell, mpsc, watch};
use tokio::time::Instant;
use uvm_platform::{BoxFuture, Deadlines, ExitStatus, LastWords, PlatformError, UvmId, VmEvents};
use uvm_wire::Guid;

pub use changes::Access;

use crate::document::DocumentDevices;
use crate::home::Home;
use crate::host::{ComputeSystem, HcsError, HcsHost, MemoryProcess, Notification};
use crate::life::{Evidence, Life};
use crate::network::HcsNetwork;
use crate::ports::{Guest, Ports};
use crate::scratch::Scratch;
use crate::windows_build::WindowsBuild;

use hosted::Hosted;

/// A VM on the Host Compute Service. Dropping it closes its system, which ends it.
///
/// Besides what every host's VM does ([`PlatformVm`](uvm_platform::PlatformVm)), its devices are changed here
/// ([`change`](Self::change)), and what its service alone can do is done.
pub struct HcsVm {
    vm: Arc<Vm>,
    home: Arc<Home>,
    network: HcsNetwork,
}

/// What a VM is made of, besides what becomes of it.
pub(crate) struct VmParts {
    pub(crate) id: UvmId,
    pub(crate) owner: String,
    pub(crate) guest: Guest,
    pub(crate) host: Arc<dyn HcsHost>,
    pub(crate) build: WindowsBuild,
    pub(crate) deadlines: Deadlines,
    pub(crate) system: Arc<dyn ComputeSystem>,
    pub(crate) runtime_id: Guid,
    pub(crate) devices: DocumentDevices,
    pub(crate) virtual_sockets: bool,
    /// Its memory was taken from the host when it was created.
    pub(crate) physically_backed: bool,
    /// The CPU group it is to be in.
    pub(crate) cpu_group: Option<String>,
    pub(crate) scratch: Option<Scratch>,
}

/// What the VM's tasks share.
struct Vm {
    parts: VmParts,
    life: watch::Sender<Life>,
    evidence: Mutex<Evidence>,
    started: Mutex<Option<Instant>>,
    /// The service would not start it, or was told to end it because of that: nothing is left to end, only to close.
    nothing_to_end: AtomicBool,
    /// The process that holds its memory, once it was found.
    memory_process: OnceCell<Arc<dyn MemoryProcess>>,
    /// It is in a CPU group.
    in_cpu_group: AtomicBool,
    ports: Ports,
    hosted: Hosted,
    closed: OnceCell<()>,
}

impl HcsVm {
    /// The VM of a system that was created, and its events.
    pub(crate) fn new(
        parts: VmParts,
        notifications: mpsc::UnboundedReceiver<Notification>,
        home: Arc<Home>,
    ) -> (Arc<Self>, VmEvents) {
        let created_in_group = parts.cpu_group.is_some() && crate::document::creates_in_cpu_group(parts.build);
        let vm = Arc::new(Vm {
            parts,
            life: watch::Sender::new(Life::Created),
            evidence: Mutex::default(),
            started: Mutex::default(),
            nothing_to_end: AtomicBool::new(false),
            memory_process: OnceCell::new(),
            in_cpu_group: AtomicBool::new(created_in_group),
            ports: Ports::default(),
            hosted: Hosted::default(),
            closed: OnceCell::new(),
        });
        // Room for all there can be: a crash, a lost service, the end.
        let (events, receiver) = mpsc::channel(8);
        home.spawn(Arc::clone(&vm).follow(notifications, events));
        let (host, limit) = (Arc::clone(&vm.parts.host), vm.parts.deadlines.host_call);
        let network = HcsNetwork::at_home(host, Arc::clone(&home), limit);
        (Arc::new(Self { vm, home, network }), VmEvents::new(receiver))
    }

    /// The GUID that the VM's sockets are addressed by.
    pub fn runtime_id(&self) -> Guid {
        self.vm.parts.runtime_id
    }

    /// The build of the host.
    pub fn build(&self) -> WindowsBuild {
        self.vm.parts.build
    }

    /// What the VM was created with, also by what was merged into its document.
    pub fn created_devices(&self) -> &DocumentDevices {
        &self.vm.parts.devices
    }

    /// Runs `work` at the VM's home.
    fn run<F, T>(&self, work: F) -> BoxFuture<'_, Result<T, PlatformError>>
    where
        F: Future<Output = Result<T, PlatformError>> + Send + 'static,
        T: Send + 'static,
    {
        Box::pin(async move {
            let result = self.home.run(work).await;
            result.unwrap_or_else(|| Err(panicked()))
        })
    }
}

fn panicked() -> PlatformError {
    PlatformError::host("use a utility VM", "an internal error (panic)")
}

impl Vm {
    fn evidence(&self) -> MutexGuard<'_, Evidence> {
        self.evidence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the service, and no longer than `deadline`.
    async fn call<T>(
        &self,
        what: &str,
        deadline: Duration,
        call: impl Future<Output = Result<T, HcsError>> + Send,
    ) -> Result<T, PlatformError> {
        match tokio::time::timeout(deadline, call).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(PlatformError::host(what, error)),
            Err(_) => Err(self.timeout(&format!("the compute service, to {what}"), deadline)),
        }
    }

    fn timeout(&self, what: &str, waited: Duration) -> PlatformError {
        PlatformError::Timeout { what: what.to_owned(), waited, last_words: Box::new(self.last_words()) }
    }

    fn ended(&self, what: &str, status: ExitStatus) -> PlatformError {
        PlatformError::Ended { what: what.to_owned(), status, last_words: Box::new(self.last_words()) }
    }

    /// Fails if the VM can be used no more.
    fn require_open(&self, intent: &'static str) -> Result<(), PlatformError> {
        if self.closed.initialized() {
            return Err(PlatformError::WrongState { intent, state: "closed" });
        }
        match &*self.life.borrow() {
            Life::Ended(status) => Err(self.ended(intent, status.clone())),
            _ => Ok(()),
        }
    }

    fn last_words(&self) -> LastWords {
        let mut words = LastWords::default();
        words.phase = Some(match &*self.life.borrow() {
            Life::Ended(status) => status.to_string(),
            life => format!("compute system {} is {}", self.parts.id, life.name()),
        });
        words
    }
}
