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
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use uvm_platform::{
    Accelerator, BoxFuture, Deadlines, ExitStatus, Feature, LastWords, Link, PlatformError, UvmId, VmEvent, VmThread,
};

use crate::command::MUX_DEVICE;
use crate::disks::Disks;
use crate::exit::{self, Evidence};
use crate::full_disk::FullDisk;
use crate::layers::Layers;
use crate::pci::PciDevices;
use crate::pipes::Pipes;
use crate::process_info::ProcessInfo;
use crate::qmp::{CallError, Qmp, QmpEvent};
use crate::residue::Residue;
use crate::ring::Ring;
use crate::shares::Shares;
use crate::slots::Slots;
use crate::sockets::Sockets;
use crate::spawn::ChildProcess;
use crate::step_limit::StepLimit;
use crate::transport::AgentTransport;
use crate::turns::Turns;
use crate::virtio_fs::VirtioFs;

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
    pub(crate) vm: Arc<Vm>,
    pub(crate) thread: Arc<VmThread>,
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
    pub(crate) layers: Layers,
    pub(crate) shares: Shares,
    pub(crate) pipes: Pipes,
    pub(crate) virtio_fs: VirtioFs,
    pub(crate) pci: PciDevices,
    pub(crate) full_disk: FullDisk,
    pub(crate) slots: Slots,
    pub(crate) turns: Turns,
    /// Held while the guest is stopped or let go on.
    pub(crate) power: tokio::sync::Mutex<()>,
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
    pub(crate) fn run<F, T>(&self, work: F) -> BoxFuture<'_, Result<T, PlatformError>>
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
        self.vm.virtio_fs.close();
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
    pub(crate) async fn enter(
        &self,
        intent: &'static str,
        command: &'static str,
        from: Life,
        to: Life,
    ) -> Result<(), PlatformError> {
        let _turn = self.power.lock().await;
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

    /// Waits for a step of a change that is no QMP command, as long as for one.
    pub(crate) async fn step<T>(&self, what: &str, step: impl Future<Output = T>) -> Result<T, PlatformError> {
        let limit = StepLimit::of(self.deadlines.host_call);
        limit.keep(step).await.ok_or_else(|| self.timeout(what, limit.limit))
    }

    /// A step that opens or looks at something of the host, on a thread that may wait. What comes too late is dropped.
    pub(crate) async fn blocking_step<T: Send + 'static>(
        &self,
        intent: String,
        step: impl FnOnce() -> Result<T, PlatformError> + Send + 'static,
    ) -> Result<T, PlatformError> {
        let done = self.step(&format!("to {intent}"), tokio::task::spawn_blocking(step)).await?;
        done.unwrap_or_else(|e| Err(PlatformError::host(intent, e)))
    }

    /// What a command's failure tells of the VM.
    pub(crate) async fn call_error(&self, command: &'static str, error: CallError) -> PlatformError {
        match error {
            CallError::Timeout { waited, .. } => self.timeout(&format!("QEMU's answer to {command}"), waited),
            // What cannot be sent finds the connection closed, too.
            CallError::Closed { .. } | CallError::Send { .. } => {
                let error = PlatformError::host(format!("have QEMU {command}"), error);
                self.end_or(command, error).await
            }
            CallError::Refused(_) => PlatformError::host(format!("have QEMU {command}"), error),
        }
    }

    /// That the VM has ended, if it has: that is the reason then. Else `error`.
    pub(crate) async fn end_or(&self, what: &str, error: PlatformError) -> PlatformError {
        match self.await_end(StepLimit::of(SETTLE).left()).await {
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

    pub(crate) async fn terminate(&self) -> Result<(), PlatformError> {
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

    pub(crate) async fn close(&self, ended: Box<dyn FnOnce() + Send>) -> Result<(), PlatformError> {
        let terminated = self.terminate().await;
        ended();
        terminated?;
        self.end_helpers().await?;
        self.residue
            .remove()
            .await
            .map_err(|e| PlatformError::host(format!("remove what VM {} left on the host", self.id), e))
    }

    pub(crate) fn last_words(&self) -> LastWords {
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
            _ if self.full_disk.image().is_some() => self.waits_for_room(),
            _ if matches!(*self.transport.get().link().borrow(), Link::Up { .. }) => self.transport.up_means().into(),
            _ if self.agent_port_open.load(Ordering::Relaxed) => {
                "the guest agent has opened its port but not answered".into()
            }
            _ if self.console.total() > 0 => "the guest's kernel has printed, no agent has opened its port".into(),
            _ => "the guest's kernel has printed nothing, no agent has opened its port".into(),
        }
    }

    fn waits_for_room(&self) -> String {
        let image = self.full_disk.image().unwrap_or_default();
        format!("the VM waits for room on the host for {}", image.display())
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
                        self.look_after_missed_events().await;
                    }
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
                },
                () = self.qmp.closed() => return,
            }
        }
    }

    fn heard(self: &Arc<Self>, event: &QmpEvent, events: &mpsc::Sender<VmEvent>) {
        let text = |key: &str| event.data.get(key).and_then(Value::as_str);
        match event.name.as_str() {
            "SHUTDOWN" => self.evidence().shutdown_reason = text("reason").map(str::to_owned),
            "GUEST_PANICKED" => {
                self.evidence().panicked = true;
                // A full channel has told enough; the exit follows.
                let _ = events.try_send(VmEvent::GuestPanicked);
            }
            "BLOCK_IO_ERROR" => self.disk_failed(event),
            "RESUME" => self.full_disk.is_over(),
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
        self.shares.close();
        self.pipes.close();
        self.virtio_fs.close();
        let _ = events.send(VmEvent::Exited(status)).await;
    }
}

pub(crate) const NO_HOST_SERVICE: &str = "no service of the host holds the guest connection";
/// Why what is still to come cannot be had.
pub(crate) const CANNOT_YET: &str = "it cannot be done to a running VM yet";

pub(crate) fn not_here(feature: Feature, why: &str) -> PlatformError {
    PlatformError::Unsupported { feature, platform: "qemu", why: why.into() }
}

/// How long what belongs together (the end of a process and of its connections) may lie apart.
const SETTLE: Duration = Duration::from_secs(1);
/// Lines of console and of QEMU's own output in an error.
const QUOTED_LINES: usize = 12;
