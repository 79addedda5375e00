//! Starting a process: ports first, then the request, then the streams the guest dials, then the wait for its end.
//!
//! All of it runs where the VM's own I/O runs, so that a caller who gives up does not leave it half done: a process that
//! nobody has a handle of is killed, whenever it comes to exist. None of it keeps a VM that nobody has a handle of. Where
//! the host's service holds the guest connection, the host does the same (`hosted.rs`).

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use uvm_platform::{Deadlines, GuestListener, GuestStream, PlatformContainer, PlatformError, Port};
use uvm_wire::ContainerId;
use uvm_wire::execute::{ExecuteProcess, ExecuteProcessReply, HvSocketStdio, ProcessParameters, VsockStdio};
use uvm_wire::negotiate::GuestOs;
use uvm_wire::ports::vsock_service;
use uvm_wire::process::{SignalProcess, WaitForProcess};

use super::bridged::{ALREADY_GONE, BridgedProcess, Outcome};
use super::{Process, ProcessExit, ProcessInput, ProcessOutput, Way, hosted};
use crate::bridge::BridgeError;
use crate::error::{ProgramError, UvmError, chain};
use crate::vm::{Background, Guest, Inner, Reach, UtilityVm};

/// What to start, and where.
pub(crate) struct Launch {
    pub(crate) place: Place,
    /// For messages.
    pub(crate) program: String,
    /// Say which streams to connect, too.
    pub(crate) parameters: ProcessParameters,
}

/// Where to start a process.
pub(crate) enum Place {
    /// In the VM, outside any container.
    Vm,
    /// In a container that is reached by the bridge.
    Bridged(ContainerId),
    /// In one that is reached by way of the host's service; whether the agent can signal its processes.
    Hosted { container: Arc<dyn PlatformContainer>, can_signal: bool },
}

pub(crate) async fn create(vm: &UtilityVm, launch: Launch) -> Result<Process, UvmError> {
    let inner = &vm.inner;
    let Launch { place, program, parameters } = launch;
    match place {
        Place::Vm => match inner.reach(super::CREATE)? {
            Reach::Bridge(guest) => bridged(vm, guest, ContainerId::UVM, program, parameters).await,
            Reach::Host(_) => {
                let create = async { inner.vm.hosted()?.create_process(hosted::text(&parameters)?.get()).await };
                hosted::take(vm, program, true, create.await)
            }
        },
        Place::Bridged(container) => {
            let guest = inner.guest(super::CREATE)?;
            bridged(vm, guest, container, program, parameters).await
        }
        Place::Hosted { container, can_signal } => {
            inner.reach(super::CREATE)?;
            let create = async { container.create_process(hosted::text(&parameters)?.get()).await };
            hosted::take(vm, program, can_signal, create.await)
        }
    }
}

async fn bridged(
    vm: &UtilityVm,
    guest: Guest,
    container: ContainerId,
    program: String,
    parameters: ProcessParameters,
) -> Result<Process, UvmError> {
    let inner = &vm.inner;
    let failed = |source| inner.witness().program(program, source);
    let ports = match StdioPort::open_all(inner, &parameters) {
        Ok(ports) => ports,
        Err(source) => return Err(failed(source)),
    };
    let (background, deadlines) = (inner.background(), inner.deadlines);
    let execution = Execution { background, deadlines, os: inner.os, guest, container };
    match inner.run(execution.execute(parameters, ports)).await? {
        Ok(unclaimed) => Ok(unclaimed.claim(vm)),
        Err(ProgramError::Guest(source)) => {
            let source = inner.unless_ended(super::CREATE, source).await?;
            Err(failed(ProgramError::Guest(source)))
        }
        Err(source) => Err(failed(source)),
    }
}

/// Where a process is started. It does not keep the VM.
struct Execution {
    background: Background,
    deadlines: Deadlines,
    os: GuestOs,
    guest: Guest,
    container: ContainerId,
}

/// The request, with the ports of input, output and error as a guest of this kind calls them.
fn request(os: GuestOs, parameters: ProcessParameters, ports: [Option<NonZeroU32>; 3]) -> ExecuteProcess {
    match os {
        GuestOs::Linux => {
            let [stdin, stdout, stderr] = ports;
            ExecuteProcess::linux(parameters, VsockStdio { stdin, stdout, stderr })
        }
        GuestOs::Windows => {
            let [stdin, stdout, stderr] = ports.map(|port| port.map(|port| vsock_service(port.get())));
            ExecuteProcess::windows(parameters, HvSocketStdio { stdin, stdout, stderr })
        }
    }
}

impl Execution {
    async fn execute(
        self,
        parameters: ProcessParameters,
        mut ports: [StdioPort; 3],
    ) -> Result<Unclaimed, ProgramError> {
        let call = request(self.os, parameters, ports.each_ref().map(|port| port.number));
        // The guest dials before it answers, so both run at once; after the answer the dialling has a limit of its own.
        let (answered, answered_receiver) = watch::channel(false);
        let executed = async {
            let result = self.call(call).await;
            answered.send_replace(true);
            result.map_err(ProgramError::Guest)
        };
        let waited = self.deadlines.stdio_dial;
        let [stdin, stdout, stderr] = &mut ports;
        let dialled = async {
            tokio::try_join!(
                stdin.accept(answered_receiver.clone(), waited),
                stdout.accept(answered_receiver.clone(), waited),
                stderr.accept(answered_receiver.clone(), waited),
            )
        };
        let (executed, dialled) = join_or_fail(executed, dialled).await;
        let process = self.process(executed?.process_id);
        let streams = match dialled {
            Some(Ok((stdin, stdout, stderr))) => [stdin, stdout, stderr],
            // It runs, but nobody can talk to it.
            Some(Err(source)) => {
                process.kill().await;
                return Err(source);
            }
            None => [None, None, None],
        };
        let outcome = process.wait_in_background();
        Ok(Unclaimed(Some(Started { process, streams, outcome })))
    }

    async fn call(&self, call: ExecuteProcess) -> Result<ExecuteProcessReply, BridgeError> {
        let process = self.process(0);
        let undo = move |reply: ExecuteProcessReply| async move {
            GuestProcess { id: reply.process_id, ..process }.kill().await;
        };
        let spawn = |task| self.background.spawn(task);
        self.guest.bridge.call_or_undo(self.container.clone(), call, self.deadlines.rpc, spawn, undo).await
    }

    fn process(&self, id: u32) -> GuestProcess {
        let (background, guest, container) = (self.background.clone(), self.guest.clone(), self.container.clone());
        GuestProcess { background, guest, container, id, limit: self.deadlines.rpc }
    }
}

/// A process as the guest knows it. It does not keep the VM.
#[derive(Clone)]
struct GuestProcess {
    background: Background,
    guest: Guest,
    container: ContainerId,
    id: u32,
    /// For killing it.
    limit: Duration,
}

impl GuestProcess {
    /// Ends a process that nobody wants.
    async fn kill(&self) {
        let call = SignalProcess::kill(self.id);
        match self.guest.bridge.call(self.container.clone(), &call, Some(self.limit)).await {
            Err(e) if !e.is_any(&ALREADY_GONE) => {
                tracing::warn!(process = self.id, error = chain(&e), "a process that nobody waits for goes on");
            }
            _ => {}
        }
    }

    /// Waits for its end from its beginning on, so that the guest need not keep it for long.
    fn wait_in_background(&self) -> Outcome {
        let (sender, outcome) = watch::channel(None);
        let process = self.clone();
        let wait = async move {
            let call = WaitForProcess::forever(process.id);
            let result = process.guest.bridge.call(process.container.clone(), &call, None).await;
            if matches!(result, Err(BridgeError::Encode { .. } | BridgeError::Failed(_))) {
                // Nobody would ever learn of its end.
                process.kill().await;
            }
            sender.send_replace(Some(result.map(ProcessExit::of).map_err(Arc::new)));
        };
        self.background.spawn(wait);
        outcome
    }
}

/// A process that was started.
struct Started {
    process: GuestProcess,
    streams: [Option<GuestStream>; 3],
    outcome: Outcome,
}

/// A process on its way to whoever asked for it. If nobody takes it, it is killed, where the agent can do that.
struct Unclaimed(Option<Started>);

impl Unclaimed {
    fn claim(mut self, vm: &UtilityVm) -> Process {
        // Only this and the drop take it.
        let started = self.0.take().expect("an unclaimed process is there until it is claimed");
        let Started { process: GuestProcess { guest, container, id, .. }, streams, outcome } = started;
        let [stdin, stdout, stderr] = streams;
        Process {
            vm: vm.clone(),
            id,
            can_be_signalled: container.is_uvm() || guest.capabilities.guest_defined.signal_process,
            stdin: stdin.map(ProcessInput::by_guest),
            stdout: stdout.map(ProcessOutput::by_guest),
            stderr: stderr.map(ProcessOutput::by_guest),
            way: Way::Bridge(BridgedProcess { guest, container, id, outcome }),
        }
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let Some(Started { process, .. }) = self.0.take() {
            let background = process.background.clone();
            background.spawn(async move { process.kill().await });
        }
    }
}

/// Waits for both; if the request fails, what was dialled does not matter any more.
async fn join_or_fail<A, B, E>(
    request: impl Future<Output = Result<A, E>>,
    dialled: impl Future<Output = B>,
) -> (Result<A, E>, Option<B>) {
    tokio::pin!(request, dialled);
    let mut streams = None;
    let result = loop {
        tokio::select! {
            biased;
            result = &mut request => break result,
            done = &mut dialled, if streams.is_none() => streams = Some(done),
        }
    };
    if result.is_ok() && streams.is_none() {
        streams = Some(dialled.await);
    }
    (result, streams)
}

/// A port that the guest will dial for one stream. Dropping it closes it.
struct StdioPort {
    name: &'static str,
    number: Option<NonZeroU32>,
    listener: Option<GuestListener>,
}

impl StdioPort {
    /// Input, output, error.
    fn open_all(inner: &Inner, parameters: &ProcessParameters) -> Result<[Self; 3], ProgramError> {
        Ok([
            Self::open(inner, "stdin", parameters.create_stdin_pipe)?,
            Self::open(inner, "stdout", parameters.create_stdout_pipe)?,
            Self::open(inner, "stderr", parameters.create_stderr_pipe)?,
        ])
    }

    fn open(inner: &Inner, name: &'static str, wanted: bool) -> Result<Self, ProgramError> {
        if !wanted {
            return Ok(Self { name, number: None, listener: None });
        }
        let number = inner.stdio_port();
        let failed = |source| ProgramError::Port { stream: name, source };
        let number = NonZeroU32::new(number).ok_or_else(|| {
            failed(PlatformError::host("open a port", "all ports for standard streams have been used"))
        })?;
        let listener = inner.vm.listen(Port(number.get())).map_err(failed)?;
        Ok(Self { name, number: Some(number), listener: Some(listener) })
    }

    /// Accepts the one connection, and closes the port. Once the request is answered, it must come within `waited`.
    async fn accept(
        &mut self,
        mut answered: watch::Receiver<bool>,
        waited: Duration,
    ) -> Result<Option<GuestStream>, ProgramError> {
        let Some(mut listener) = self.listener.take() else { return Ok(None) };
        let too_late = async {
            let _ = answered.wait_for(|answered| *answered).await;
            tokio::time::sleep(waited).await;
        };
        tokio::select! {
            biased;
            accepted = listener.accept() => {
                accepted.map(Some).map_err(|source| ProgramError::Port { stream: self.name, source })
            }
            () = too_late => Err(ProgramError::StreamNotDialled { stream: self.name, waited }),
        }
    }
}
