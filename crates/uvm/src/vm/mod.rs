//! A utility VM: create, start, use, end.

mod accessors;
mod background;
mod changes;
mod containers;
mod create;
mod driver;
mod figures;
mod guest_calls;
mod guest_request;
mod host_call;
pub(crate) mod plugged;
mod sockets;
mod start;
mod state;

use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use tokio::sync::{mpsc, oneshot, watch};
use uvm_platform::{Deadlines, ExitStatus, LastWords, Platform, PlatformVm, UvmId, VmProperties};
use uvm_wire::ContainerId;
use uvm_wire::negotiate::GuestOs;
use uvm_wire::ports::FIRST_STDIO_PORT;

pub use state::Refusal;

pub(crate) use background::Background;
pub(crate) use containers::Reach;
pub(crate) use create::random_guid;
pub(crate) use driver::Request;
pub(crate) use host_call::on_host;
pub(crate) use start::Guest;

use driver::{Handles, Life, Status};
use start::{HostConnection, SETTLE};
use state::{Ask, Verdict, admit};

use crate::bridge::BridgeError;
use crate::error::{UvmError, Witness};
use crate::host::Hold;
use crate::options::{LcowOptions, MemoryBacking, WcowOptions};
use crate::process::{self, Process, ProcessSpec};

/// A utility VM. Clones are handles of the same one; when the last is dropped (those inside a [`Process`] included) the VM
/// is ended at once, in the background. [`close`](Self::close) ends it and tells what goes wrong.
///
/// Its methods work on any async runtime, and a future of them that is dropped leaves nothing half done: what was begun
/// goes on or is undone in the background.
///
/// ```no_run
/// use uvm::{LcowOptions, ProcessSpec, UtilityVm};
///
/// # async fn example() -> Result<(), uvm::UvmError> {
/// let vm = UtilityVm::create_lcow(&LcowOptions::default()).await?;
/// vm.start().await?;
/// let output = vm.create_process(&ProcessSpec::new(["uname", "-a"])).await?.output().await?;
/// assert!(output.exit.is_success());
/// vm.close().await
/// # }
/// ```
#[derive(Clone)]
pub struct UtilityVm {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) id: UvmId,
    pub(crate) vm: Arc<dyn PlatformVm>,
    /// As they hold on this VM's accelerator.
    pub(crate) deadlines: Deadlines,
    requests: mpsc::UnboundedSender<Request>,
    status: watch::Receiver<Status>,
    output_done: watch::Receiver<bool>,
    pub(crate) os: GuestOs,
    processor_count: u32,
    backing: MemoryBacking,
    host_connection: Arc<OnceLock<HostConnection>>,
    /// The CPU group it is to be in, or was put in.
    cpu_group: Mutex<Option<String>>,
    containers_counted: AtomicU64,
    mounts_counted: AtomicU64,
    next_stdio_port: AtomicU32,
    _boot_files: Option<Hold>,
    /// The host has shares that are virtio-fs devices.
    pub(crate) virtio_fs: bool,
}

impl UtilityVm {
    /// Creates a VM with a Linux guest on this machine's host, powered off. The options are not changed.
    ///
    /// # Errors
    /// [`UvmError::Options`], [`UvmError::BootFiles`], [`UvmError::Host`] (no QEMU, no writable state directory, ...) or
    /// [`UvmError::Create`]. Nothing is left behind.
    pub async fn create_lcow(options: &LcowOptions) -> Result<Self, UvmError> {
        let host =
            crate::host::blocking(crate::host::default_host).await.and_then(|host| host).map_err(UvmError::Host)?;
        Self::create_lcow_on(host, options).await
    }

    /// As [`create_lcow`](Self::create_lcow), on `host`.
    ///
    /// # Errors
    /// As there.
    pub async fn create_lcow_on(host: Arc<dyn Platform>, options: &LcowOptions) -> Result<Self, UvmError> {
        create::create_lcow(&*host, options).await
    }

    /// Creates a VM with a Windows guest on this machine's host, powered off. The options are not changed.
    ///
    /// # Errors
    /// [`UvmError::Options`], [`UvmError::Host`] or [`UvmError::Create`]: the host has no Windows guests
    /// ([`Unsupported`](crate::ErrorKind::Unsupported)), no layer holds a guest's system, and so on. Nothing is left behind.
    pub async fn create_wcow(options: &WcowOptions) -> Result<Self, UvmError> {
        let host =
            crate::host::blocking(crate::host::default_host).await.and_then(|host| host).map_err(UvmError::Host)?;
        Self::create_wcow_on(host, options).await
    }

    /// As [`create_wcow`](Self::create_wcow), on `host`.
    ///
    /// # Errors
    /// As there.
    pub async fn create_wcow_on(host: Arc<dyn Platform>, options: &WcowOptions) -> Result<Self, UvmError> {
        create::create_wcow(&*host, options).await
    }

    pub(crate) fn new(parts: create::Parts, handles: Handles) -> Self {
        let Handles { requests, status } = handles;
        let next_stdio_port = AtomicU32::new(FIRST_STDIO_PORT);
        let inner = Inner {
            id: parts.id,
            vm: parts.vm,
            deadlines: parts.deadlines,
            requests,
            status,
            output_done: parts.output_done,
            os: parts.os,
            processor_count: parts.processor_count,
            backing: parts.backing,
            host_connection: parts.host_connection,
            cpu_group: Mutex::new(parts.cpu_group),
            containers_counted: AtomicU64::new(0),
            mounts_counted: AtomicU64::new(0),
            next_stdio_port,
            _boot_files: parts.boot_files,
            virtio_fs: parts.virtio_fs,
        };
        Self { inner: Arc::new(inner) }
    }

    async fn ask(&self, request: impl FnOnce(driver::Answer) -> Life) -> Result<(), UvmError> {
        let (reply, answer) = oneshot::channel();
        let gone = |_| UvmError::Refused { id: self.inner.id.clone(), intent: "use", why: Refusal::Closed };
        self.inner.requests.send(Request::Life(request(reply))).map_err(|e| gone(e.to_string()))?;
        answer.await.unwrap_or_else(|e| Err(gone(e.to_string())))
    }

    /// Powers the VM on and waits until its agent answers and its processors are online, at most
    /// [`Deadlines::start`].
    ///
    /// # Errors
    /// [`UvmError::Start`], which says how far it came, what the VM did meanwhile, and why: it has been terminated then.
    /// [`UvmError::Refused`] if it was started before.
    pub async fn start(&self) -> Result<(), UvmError> {
        self.ask(Life::Start).await
    }

    /// Stops the guest's processors. Idempotent.
    ///
    /// # Errors
    /// [`UvmError::Operation`], [`UvmError::Refused`].
    pub async fn pause(&self) -> Result<(), UvmError> {
        self.ask(Life::Pause).await
    }

    /// Lets the guest's processors go on. Idempotent.
    ///
    /// # Errors
    /// [`UvmError::Operation`], [`UvmError::Refused`].
    pub async fn resume(&self) -> Result<(), UvmError> {
        self.ask(Life::Resume).await
    }

    /// Asks the guest to end its processes and power off, and waits until it has, at most [`Deadlines::shutdown`].
    ///
    /// # Errors
    /// [`UvmError::Timeout`]: it still runs; terminate it. [`UvmError::Guest`]: it refused.
    pub async fn shutdown(&self) -> Result<(), UvmError> {
        self.ask(Life::Shutdown).await
    }

    /// Ends the VM at once, without asking the guest, and waits until it has ended. Idempotent.
    ///
    /// # Errors
    /// [`UvmError::Operation`].
    pub async fn terminate(&self) -> Result<(), UvmError> {
        self.ask(Life::Terminate).await
    }

    /// Ends the VM if it still runs and removes everything it left on the host, within [`Deadlines::close`]. Idempotent;
    /// callers at the same time share the outcome.
    ///
    /// # Errors
    /// [`UvmError::Operation`]: something is left. It can be called again.
    pub async fn close(&self) -> Result<(), UvmError> {
        self.ask(Life::Close).await
    }

    /// Waits until the VM has ended and its output was handled, and tells how it ended. Without limit, since a VM may run
    /// for ever. Cancel-safe.
    ///
    /// # Errors
    /// [`UvmError::Refused`]: the VM is gone without a word, with the thread it ran on.
    pub async fn wait(&self) -> Result<ExitStatus, UvmError> {
        let mut status = self.inner.status.clone();
        let exit = status.wait_for(|status| status.exit.is_some()).await.ok().and_then(|status| status.exit.clone());
        // Nobody to wait for if the handler never ran.
        let _ = self.inner.output_done.clone().wait_for(|done| *done).await;
        exit.ok_or_else(|| UvmError::Refused { id: self.inner.id.clone(), intent: "wait for", why: Refusal::Closed })
    }

    /// How the VM ended, if it has.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.inner.status.borrow().exit.clone()
    }

    /// Passes if the VM has ended as its guest or owner wished.
    ///
    /// # Errors
    /// [`UvmError::Exited`] if it ended otherwise, [`UvmError::Refused`] if it has not ended.
    pub fn exit_error(&self) -> Result<(), UvmError> {
        match self.exit_status() {
            Some(status) if status.is_clean() => Ok(()),
            Some(status) => Err(driver::exited(&self.inner.id, "find no fault with", status, &*self.inner.vm)),
            None => {
                let (id, why) = (self.inner.id.clone(), Refusal::NotEnded);
                Err(UvmError::Refused { id, intent: "tell the exit of", why })
            }
        }
    }

    /// What the host knows of the VM; never asks the guest.
    ///
    /// # Errors
    /// [`UvmError::Operation`]; [`UvmError::Refused`] once it is closed.
    pub async fn properties(&self) -> Result<VmProperties, UvmError> {
        let refused = |why| UvmError::Refused { id: self.inner.id.clone(), intent: "inspect", why };
        if matches!(self.inner.status.borrow().phase, state::Phase::Closing | state::Phase::Closed) {
            return Err(refused(Refusal::Closed));
        }
        let (vm, limit, intent) = (Arc::clone(&self.inner.vm), self.inner.deadlines.host_call, "inspect");
        let properties = self.inner.run(async move { on_host(&*vm, intent, limit, vm.properties()).await }).await?;
        properties.map_err(|source| UvmError::Operation { id: self.inner.id.clone(), intent, source })
    }

    /// What the VM said and did last. Never waits.
    pub fn last_words(&self) -> LastWords {
        self.inner.vm.last_words()
    }

    /// Starts a process in the VM, outside any container, as root.
    ///
    /// # Errors
    /// [`UvmError::Program`]; its [`kind`](UvmError::kind) is [`NotFound`](crate::ErrorKind::NotFound) for a program that is
    /// not there. [`UvmError::Refused`], [`UvmError::Exited`].
    pub async fn create_process(&self, spec: &ProcessSpec) -> Result<Process, UvmError> {
        process::create(self, spec.launch()).await
    }
}

impl Inner {
    /// Says in time, and with the state, that something cannot be done.
    fn admit(&self, intent: &'static str, ask: Ask) -> Result<(), UvmError> {
        self.admit_in(&self.status.borrow().clone(), intent, ask)
    }

    /// The same for the state `status`.
    fn admit_in(&self, status: &Status, intent: &'static str, ask: Ask) -> Result<(), UvmError> {
        match (admit(status.phase, ask), &status.exit) {
            (Verdict::Refuse(Refusal::Ended), Some(exit)) => {
                Err(driver::exited(&self.id, intent, exit.clone(), &*self.vm))
            }
            (Verdict::Refuse(why), _) => Err(UvmError::Refused { id: self.id.clone(), intent, why }),
            _ => Ok(()),
        }
    }

    /// The running guest, or why there is none.
    pub(crate) fn guest(&self, intent: &'static str) -> Result<Guest, UvmError> {
        let status = self.status.borrow().clone();
        self.admit_in(&status, intent, Ask::Use)?;
        let unsupported = || UvmError::GuestUnsupported { id: self.id.clone(), what: "calls by this library" };
        status.guest.ok_or_else(unsupported)
    }

    /// Runs `work` where the VM's own I/O runs, and waits for it. A caller that gives up does not stop it. It must not hold
    /// the VM: one that nobody has a handle of ends at once, whatever is under way.
    pub(crate) async fn run<T, F>(&self, work: F) -> Result<T, UvmError>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        self.vm.spawn(Box::pin(async move {
            // A caller that gave up does not want the answer; what must be undone then sees to it when it is dropped.
            let _ = reply.send(work.await);
        }));
        answer.await.map_err(|_| UvmError::Refused { id: self.id.clone(), intent: "use", why: Refusal::Closed })
    }

    /// The same for `work` that may be given up at any time: it ends when its caller gives up.
    async fn run_while_wanted<T, F>(&self, work: F) -> Result<T, UvmError>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (mut reply, answer) = oneshot::channel();
        self.vm.spawn(Box::pin(async move {
            tokio::select! {
                result = work => drop(reply.send(result)),
                () = reply.closed() => {}
            }
        }));
        answer.await.map_err(|_| UvmError::Refused { id: self.id.clone(), intent: "use", why: Refusal::Closed })
    }

    /// Calls the guest, within the deadline for calls. An error tells of the VM's end where that is the reason.
    pub(crate) async fn call<R>(
        &self,
        guest: &Guest,
        container: &ContainerId,
        intent: &'static str,
        call: R,
    ) -> Result<R::Reply, UvmError>
    where
        R: uvm_wire::Rpc<Reply: Send> + Send + Sync + 'static,
    {
        let (bridge, container, deadline) = (guest.bridge.clone(), container.clone(), self.deadlines.rpc);
        match self.run(async move { bridge.call(container, &call, Some(deadline)).await }).await? {
            Ok(reply) => Ok(reply),
            Err(source) => {
                let source = self.unless_ended(intent, source).await?;
                Err(self.witness().guest(intent, source))
            }
        }
    }

    /// The error of a call, unless the bridge was closed because the VM ended: then that is the error. The end of a
    /// connection and of the VM may be noticed one after the other.
    pub(crate) async fn unless_ended(&self, intent: &'static str, error: BridgeError) -> Result<BridgeError, UvmError> {
        if !matches!(error, BridgeError::Closed { .. }) {
            return Ok(error);
        }
        let mut status = self.status.clone();
        let ended = self.run(async move {
            let ended = status.wait_for(|status| status.exit.is_some());
            tokio::time::timeout(SETTLE, ended).await.ok()?.ok()?.exit.clone()
        });
        match ended.await {
            Ok(Some(status)) => Err(driver::exited(&self.id, intent, status, &*self.vm)),
            _ => Ok(error),
        }
    }

    /// Who tells what keeps a guest that does not answer.
    pub(crate) fn witness(&self) -> Witness<'_> {
        Witness { id: &self.id, vm: &*self.vm }
    }

    /// Where work goes on whose caller gave up.
    pub(crate) fn background(&self) -> Background {
        Background::new(&self.vm)
    }

    /// A port for a standard stream, never used before.
    pub(crate) fn stdio_port(&self) -> u32 {
        self.next_stdio_port.fetch_add(1, Ordering::Relaxed)
    }
}

impl fmt::Debug for UtilityVm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = self.inner.status.borrow().phase;
        f.debug_struct("UtilityVm").field("id", &self.inner.id.as_str()).field("phase", &phase).finish_non_exhaustive()
    }
}
