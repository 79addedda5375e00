//! One VM: a QEMU process, its QMP connection, console and transport.
//!
//! ```text
//! created --start--> running <--pause/resume--> paused
//!    |                  |                          |
//!    +------------------+---- QEMU ends -----------+--> ended --close--> (state directory removed)
//! ```
//!
//! Everything runs on the VM's own thread ([`VmThread`]); a method hands its work there and waits, so it works under any
//! runtime, and a caller that gives up leaves nothing half done.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use uvm_platform::hvsocket::HvSocketServices;
use uvm_platform::requests::{Change, Device, HostFile, VmAccess};
use uvm_platform::{
    Accelerator, BoxFuture, Deadlines, ExitStatus, Feature, GuestListener, GuestStream, HostGuestConnection,
    HostedGuest, HvSocketServiceConfig, HvSocketServiceId, LastWords, Link, PlatformError, PlatformNetwork, PlatformVm,
    Port, UvmId, VmEvent, VmProperties, VmStatistics, VmThread,
};

use crate::command::MUX_DEVICE;
use crate::disks::Disks;
use crate::exit::{self, Evidence};
use crate::process_info::ProcessInfo;
use crate::qmp::{CallError, Qmp, QmpEvent};
use crate::residue::Residue;
use crate::ring::Ring;
use crate::sockets::Sockets;
use crate::spawn::ChildProcess;
use crate::transport::AgentTransport;

/// Where the VM is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Created,
    Running,
    Paused,
    Ended(ExitStatus),
}

impl Life {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Created => "not started",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Ended(_) => "gone",
        }
    }
}

/// A VM with its thread. Dropping it kills QEMU at once and removes what it left.
pub(crate) struct QemuVm {
    vm: Arc<Vm>,
    thread: Arc<VmThread>,
}

/// What the VM's tasks share.
pub(crate) struct Vm {
    pub(crate) id: UvmId,
    pub(crate) accelerator: Accelerator,
    pub(crate) deadlines: Deadlines,
    pub(crate) qmp: Qmp,
    pub(crate) child: ChildProcess,
    pub(crate) residue: Residue,
    pub(crate) console: Ring,
    pub(crate) host_output: Ring,
    pub(crate) transport: AgentTransport,
    pub(crate) sockets: Sockets,
    pub(crate) disks: Disks,
    pub(crate) life: watch::Sender<Life>,
    pub(crate) started: Mutex<Option<Instant>>,
    pub(crate) evidence: Mutex<Evidence>,
    /// The guest's agent has opened its port.
    pub(crate) agent_port_open: AtomicBool,
}

impl QemuVm {
    pub(crate) fn new(vm: Arc<Vm>, thread: Arc<VmThread>, events: mpsc::Sender<VmEvent>) -> Self {
        thread.handle().spawn(Arc::clone(&vm).follow_qmp(events.clone()));
        thread.handle().spawn(Arc::clone(&vm).follow_link(events.clone()));
        thread.handle().spawn(Arc::clone(&vm).follow_exit(events));
        Self { vm, thread }
    }

    /// Runs `work` on the VM's thread.
    fn run<F, T>(&self, work: F) -> BoxFuture<'_, Result<T, PlatformError>>
    where
        F: Future<Output = Result<T, PlatformError>> + Send + 'static,
        T: Send + 'static,
    {
        Box::pin(async move {
            let result = self.thread.run(work).await;
            result.unwrap_or_else(|| Err(PlatformError::WrongState { intent: "use it", state: "closed" }))
        })
    }
}

impl Drop for QemuVm {
    fn drop(&mut self) {
        self.vm.evidence().terminated = true;
        // Failing means that it has ended.
        let _ = self.vm.child.kill();
        self.vm.residue.abandon();
    }
}

impl Vm {
    pub(crate) fn evidence(&self) -> std::sync::MutexGuard<'_, Evidence> {
        self.evidence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn life(&self) -> Life {
        self.life.borrow().clone()
    }

    /// Sends the QMP command that takes the VM from one state to another. Being there already is success, but for power-on.
    async fn enter(
        &self,
        intent: &'static str,
        command: &'static str,
        from: Life,
        to: Life,
    ) -> Result<(), PlatformError> {
        match self.life() {
            Life::Ended(status) => return Err(self.ended(intent, status)),
            life if life == to && from != Life::Created => return Ok(()),
            life if life != from => return Err(PlatformError::WrongState { intent, state: life.name() }),
            _ => {}
        }
        self.call(command, Value::Null).await?;
        self.life.send_if_modified(|life| {
            let lives = !matches!(life, Life::Ended(_));
            if lives {
                *life = to;
            }
            lives
        });
        Ok(())
    }

    /// Sends a QMP command; an error says how the VM is.
    pub(crate) async fn call(&self, command: &'static str, arguments: Value) -> Result<Value, PlatformError> {
        self.call_with(command, arguments, None).await
    }

    /// As [`call`](Self::call), with a descriptor for QEMU.
    pub(crate) async fn call_with(
        &self,
        command: &'static str,
        arguments: Value,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<Value, PlatformError> {
        match self.qmp.call_with_fds(command, arguments, fd.as_slice()).await {
            Ok(value) => Ok(value),
            Err(error) => Err(self.call_error(command, error).await),
        }
    }

    /// What a command's failure tells of the VM.
    pub(crate) async fn call_error(&self, command: &'static str, error: CallError) -> PlatformError {
        match error {
            CallError::Timeout { waited, .. } => self.timeout(&format!("QEMU's answer to {command}"), waited),
            CallError::Closed { .. } => {
                let error = PlatformError::host(format!("have QEMU {command}"), error);
                self.end_or(command, error).await
            }
            CallError::Refused(_) | CallError::Send { .. } => {
                PlatformError::host(format!("have QEMU {command}"), error)
            }
        }
    }

    /// That the VM has ended, if it has: that is the reason then. Else `error`.
    pub(crate) async fn end_or(&self, what: &str, error: PlatformError) -> PlatformError {
        match self.await_end(SETTLE).await {
            Some(status) => self.ended(what, status),
            None => error,
        }
    }

    pub(crate) fn timeout(&self, what: &str, waited: Duration) -> PlatformError {
        PlatformError::Timeout { what: what.to_owned(), waited, last_words: Box::new(self.last_words()) }
    }

    fn ended(&self, what: &str, status: ExitStatus) -> PlatformError {
        PlatformError::Ended { what: what.to_owned(), status, last_words: Box::new(self.last_words()) }
    }

    /// How the VM ended, if it does within `deadline`.
    pub(crate) async fn await_end(&self, deadline: Duration) -> Option<ExitStatus> {
        let mut life = self.life.subscribe();
        let ended = life.wait_for(|life| matches!(life, Life::Ended(_)));
        match tokio::time::timeout(deadline, ended).await {
            Ok(Ok(life)) => match &*life {
                Life::Ended(status) => Some(status.clone()),
                _ => None,
            },
            _ => None,
        }
    }

    async fn terminate(&self) -> Result<(), PlatformError> {
        if matches!(self.life(), Life::Ended(_)) {
            return Ok(());
        }
        self.evidence().terminated = true;
        self.child.kill().map_err(|e| PlatformError::host("kill QEMU", e))?;
        match self.await_end(self.deadlines.terminate).await {
            Some(_) => Ok(()),
            None => Err(self.timeout("the end of QEMU after SIGKILL", self.deadlines.terminate)),
        }
    }

    async fn close(&self, ended: Box<dyn FnOnce() + Send>) -> Result<(), PlatformError> {
        let terminated = self.terminate().await;
        ended();
        terminated?;
        self.residue
            .remove()
            .await
            .map_err(|e| PlatformError::host(format!("remove what VM {} left on the host", self.id), e))
    }

    fn last_words(&self) -> LastWords {
        let mut words = LastWords::default();
        words.phase = Some(self.phase());
        words.host_output = self.host_output.last_lines(QUOTED_LINES);
        words.console = self.console.telling_lines(QUOTED_LINES);
        words
    }

    /// How far the VM has come, and what keeps it.
    fn phase(&self) -> String {
        let pid = self.child.id();
        let standstill = || ProcessInfo::of(pid).and_then(|info| info.standstill());
        match self.life() {
            Life::Ended(status) => status.to_string(),
            life => match standstill() {
                Some(why) => format!("QEMU (pid {pid}) does not run: {why}"),
                None => format!("QEMU (pid {pid}) runs, {}", self.guest_phase(&life)),
            },
        }
    }

    fn guest_phase(&self, life: &Life) -> String {
        match life {
            Life::Created => "the VM is not powered on".into(),
            Life::Paused => "the VM is paused".into(),
            _ if matches!(*self.transport.get().link().borrow(), Link::Up { .. }) => self.transport.up_means().into(),
            _ if self.agent_port_open.load(Ordering::Relaxed) => {
                "the guest agent has opened its port but not answered".into()
            }
            _ if self.console.total() > 0 => "the guest's kernel has printed, no agent has opened its port".into(),
            _ => "the guest's kernel has printed nothing, no agent has opened its port".into(),
        }
    }

    async fn follow_qmp(self: Arc<Self>, events: mpsc::Sender<VmEvent>) {
        let mut qmp_events = self.qmp.events();
        loop {
            tokio::select! {
                biased;
                event = qmp_events.recv() => match event {
                    Ok(event) => self.heard(&event, &events),
                    Err(tokio::sync::broadcast::error::RecvError::Lagged(missed)) => {
                        tracing::warn!(vm = %self.id, missed, "QMP events were missed");
                    }
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
                },
                () = self.qmp.closed() => return,
            }
        }
    }

    fn heard(&self, event: &QmpEvent, events: &mpsc::Sender<VmEvent>) {
        let text = |key: &str| event.data.get(key).and_then(Value::as_str);
        match event.name.as_str() {
            "SHUTDOWN" => self.evidence().shutdown_reason = text("reason").map(str::to_owned),
            "GUEST_PANICKED" => {
                self.evidence().panicked = true;
                // A full channel has told enough; the exit follows.
                let _ = events.try_send(VmEvent::GuestPanicked);
            }
            "VSERPORT_CHANGE" if text("id") == Some(MUX_DEVICE) => {
                let open = event.data.get("open").and_then(Value::as_bool).unwrap_or(false);
                self.agent_port_open.store(open, Ordering::Relaxed);
            }
            _ => tracing::trace!(vm = %self.id, event = event.name, "QMP event"),
        }
    }

    /// Tells of a transport that is lost while QEMU runs.
    async fn follow_link(self: Arc<Self>, events: mpsc::Sender<VmEvent>) {
        let why = self.transport.lost().await;
        if self.await_end(SETTLE).await.is_none() {
            tracing::warn!(vm = %self.id, why, "the VM's transport is lost");
            let _ = events.send(VmEvent::Broken { why }).await;
        }
    }

    async fn follow_exit(self: Arc<Self>, events: mpsc::Sender<VmEvent>) {
        let mut exit = self.child.exit();
        let Some(exit) = exit.wait_for(Option::is_some).await.ok().and_then(|exit| *exit) else { return };
        // Its last words on QMP are read by another task; they are there, so a moment is enough.
        let _ = tokio::time::timeout(SETTLE, self.qmp.closed()).await;
        tokio::task::yield_now().await;
        let status = exit::classify(exit, &self.evidence());
        tracing::info!(vm = %self.id, %status, "utility VM ended");
        self.life.send_replace(Life::Ended(status.clone()));
        let _ = events.send(VmEvent::Exited(status)).await;
    }
}

impl PlatformVm for QemuVm {
    fn accelerator(&self) -> Accelerator {
        self.vm.accelerator
    }

    fn start(&self) -> BoxFuture<'_, Result<(), PlatformError>> {
        let vm = Arc::clone(&self.vm);
        self.run(async move {
            vm.enter("start it", "cont", Life::Created, Life::Running).await?;
            *vm.started.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            Ok(())
        })
    }

    fn pause(&self) -> BoxFuture<'_, Result<(), PlatformError>> {
        let vm = Arc::clone(&self.vm);
        self.run(async move { vm.enter("pause it", "stop", Life::Running, Life::Paused).await })
    }

    fn resume(&self) -> BoxFuture<'_, Result<(), PlatformError>> {
        let vm = Arc::clone(&self.vm);
        self.run(async move { vm.enter("resume it", "cont", Life::Paused, Life::Running).await })
    }

    fn terminate(&self) -> BoxFuture<'_, Result<(), PlatformError>> {
        let vm = Arc::clone(&self.vm);
        self.run(async move { vm.terminate().await })
    }

    fn close_after(&self, ended: Box<dyn FnOnce() + Send>) -> BoxFuture<'_, Result<(), PlatformError>> {
        let vm = Arc::clone(&self.vm);
        self.run(async move { vm.close(ended).await })
    }

    fn runtime_id(&self) -> Option<String> {
        None
    }

    fn new_guid(&self) -> Option<Result<String, PlatformError>> {
        None
    }

    fn guest_connection(&self) -> BoxFuture<'_, Result<HostGuestConnection, PlatformError>> {
        Box::pin(async { Err(not_here(Feature::HostOwnedGuestConnection, NO_HOST_SERVICE)) })
    }

    fn properties(&self) -> BoxFuture<'_, Result<VmProperties, PlatformError>> {
        let vm = Arc::clone(&self.vm);
        Box::pin(async move {
            let info = ProcessInfo::of(vm.child.id());
            let mut properties = VmProperties::default();
            properties.host_pid = info.is_some().then(|| vm.child.id());
            properties.state = vm.life().name().into();
            properties.uptime = vm.started.lock().unwrap_or_else(PoisonError::into_inner).map(|at| at.elapsed());
            properties.processor_time = info.as_ref().map(|info| info.processor_time);
            properties.working_set_bytes = info.as_ref().map(|info| info.resident_bytes);
            Ok(properties)
        })
    }

    /// Those of its process. QEMU counts nodes and pages no further.
    fn statistics(&self) -> BoxFuture<'_, Result<VmStatistics, PlatformError>> {
        let info = ProcessInfo::of(self.vm.child.id());
        let runtime = info.as_ref().map(|info| u64::try_from(info.processor_time.as_nanos()).unwrap_or(u64::MAX));
        let working_set_bytes = info.map(|info| info.resident_bytes);
        let statistics = VmStatistics { processor_runtime_ns: runtime, working_set_bytes, ..VmStatistics::default() };
        Box::pin(async { Ok(statistics) })
    }

    /// What its process has in memory.
    fn assigned_memory(&self) -> BoxFuture<'_, Result<u64, PlatformError>> {
        let info = ProcessInfo::of(self.vm.child.id());
        let gone = PlatformError::WrongState { intent: "read its memory", state: "gone" };
        Box::pin(async { info.map(|info| info.resident_bytes).ok_or(gone) })
    }

    fn listen(&self, port: Port) -> Result<GuestListener, PlatformError> {
        self.vm.transport.get().listen(port)
    }

    fn dial(&self, port: Port) -> BoxFuture<'_, Result<GuestStream, PlatformError>> {
        self.vm.transport.get().dial(port)
    }

    fn add_sockets(&self) -> BoxFuture<'_, Result<(), PlatformError>> {
        let vm = Arc::clone(&self.vm);
        self.run(async move { vm.add_sockets().await })
    }

    fn remove_sockets(&self) -> BoxFuture<'_, Result<(), PlatformError>> {
        let vm = Arc::clone(&self.vm);
        self.run(async move { vm.remove_sockets().await })
    }

    fn check_socket_service(
        &self,
        service: &HvSocketServiceId,
        config: &HvSocketServiceConfig,
    ) -> Result<(), PlatformError> {
        HvSocketServices::check(service, config)
    }

    fn update_socket_service<'a>(
        &'a self,
        service: &'a HvSocketServiceId,
        config: &'a HvSocketServiceConfig,
    ) -> BoxFuture<'a, Result<(), PlatformError>> {
        Box::pin(async move { self.vm.sockets.gate.update(service, config) })
    }

    fn remove_socket_service<'a>(&'a self, service: &'a HvSocketServiceId) -> BoxFuture<'a, Result<(), PlatformError>> {
        Box::pin(async move { self.vm.sockets.gate.remove(service) })
    }

    fn listen_socket(&self, port: Port) -> Result<GuestListener, PlatformError> {
        self.vm.sockets.listen(port)
    }

    fn dial_socket(&self, port: Port) -> BoxFuture<'_, Result<GuestStream, PlatformError>> {
        Box::pin(self.vm.sockets.dial(port))
    }

    fn change<'a>(&'a self, change: &'a Change, _guest: Option<&'a str>) -> BoxFuture<'a, Result<(), PlatformError>> {
        let (vm, change) = (Arc::clone(&self.vm), change.clone());
        self.run(async move {
            match change {
                Change::Add(Device::Scsi(disk)) => vm.add_disk(&disk).await,
                Change::Remove(Device::Scsi(disk)) | Change::UndoAdd(Device::Scsi(disk)) => {
                    vm.remove_disk(disk.slot).await
                }
                other => Err(not_here(other.feature(), CANNOT_YET)),
            }
        })
    }

    /// Its kernel does not look for units 0, and not for what was there before its driver.
    fn guest_notices_disks(&self) -> bool {
        false
    }

    fn pass_on<'a>(&'a self, _request: &'a str) -> BoxFuture<'a, Result<(), PlatformError>> {
        Box::pin(async { Err(not_here(Feature::HostOwnedGuestConnection, NO_HOST_SERVICE)) })
    }

    fn hosted(&self) -> Result<&dyn HostedGuest, PlatformError> {
        Err(not_here(Feature::HostOwnedGuestConnection, NO_HOST_SERVICE))
    }

    fn network(&self) -> Result<&dyn PlatformNetwork, PlatformError> {
        Err(not_here(Feature::NetworkAdapters, CANNOT_YET))
    }

    fn look_at<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, Result<HostFile, PlatformError>> {
        let path = path.to_owned();
        self.run(async move {
            let looked = tokio::task::spawn_blocking(move || HostFile::at(&path)).await;
            looked.unwrap_or_else(|e| Err(PlatformError::host("look at a file", e)))
        })
    }

    fn can_map_files_of<'a>(&'a self, _directory: &'a Path) -> BoxFuture<'a, Result<bool, PlatformError>> {
        Box::pin(async { Err(not_here(Feature::VsmbShares, "Windows guests have them")) })
    }

    fn path_key(&self, path: &Path) -> String {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        path.to_string_lossy().into_owned()
    }

    fn grant<'a>(&'a self, _path: &'a Path, _access: VmAccess) -> BoxFuture<'a, Result<(), PlatformError>> {
        // Files are opened by their owner, and QEMU gets the descriptor.
        Box::pin(async { Ok(()) })
    }

    fn revoke<'a>(&'a self, _path: &'a Path) -> BoxFuture<'a, Result<(), PlatformError>> {
        Box::pin(async { Ok(()) })
    }

    fn last_words(&self) -> LastWords {
        self.vm.last_words()
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.thread.handle().spawn(task);
    }
}

const NO_HOST_SERVICE: &str = "no service of the host holds the guest connection";
/// Why what is still to come cannot be had.
pub(crate) const CANNOT_YET: &str = "it cannot be done to a running VM yet";

pub(crate) fn not_here(feature: Feature, why: &str) -> PlatformError {
    PlatformError::Unsupported { feature, platform: "qemu", why: why.into() }
}

/// How long what belongs together (the end of a process and of its connections) may lie apart.
const SETTLE: Duration = Duration::from_secs(1);
/// Lines of console and of QEMU's own output in an error.
const QUOTED_LINES: usize = 12;
