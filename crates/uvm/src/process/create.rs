//! Starting a process: ports first, then the request, then the streams the guest dials, then the wait for its end.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use uvm_platform::{GuestListener, GuestStream, PlatformError, Port};
use uvm_wire::ContainerId;
use uvm_wire::execute::{ExecuteProcess, ProcessParameters, VsockStdio};
use uvm_wire::process::{SignalProcess, WaitForProcess};

use super::{Process, ProcessExit, ProcessInput, ProcessOutput};
use crate::bridge::BridgeError;
use crate::error::{ProgramError, UvmError};
use crate::vm::{Guest, Inner, Refusal, UtilityVm};

const INTENT: &str = "create a process in";

/// What to start, and where.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    /// The VM itself, or a container.
    pub(crate) container: ContainerId,
    /// For messages.
    pub(crate) program: String,
    /// Say which streams to connect, too.
    pub(crate) parameters: ProcessParameters,
}

pub(crate) async fn create(vm: &UtilityVm, launch: Launch) -> Result<Process, UvmError> {
    let guest = vm.inner.guest(INTENT)?;
    let (reply, answer) = tokio::sync::oneshot::channel();
    let (inner, vm) = (Arc::clone(&vm.inner), vm.clone());
    inner.vm.spawn(Box::pin(async move {
        let created = execute(vm, guest, launch).await;
        // If the caller gave up, nobody has a handle of the process: it is killed, where the agent can do that.
        if let Err(Ok(process)) = reply.send(created) {
            kill(&process.vm.inner, &process.guest, &process.container, process.id).await;
        }
    }));
    match answer.await {
        Ok(created) => created,
        Err(_) => Err(UvmError::Refused { id: inner.id.clone(), intent: INTENT, why: Refusal::Closed }),
    }
}

/// Ends a process that nobody wants.
async fn kill(inner: &Inner, guest: &Guest, container: &ContainerId, id: u32) {
    if let Err(e) = inner.call(guest, container, "kill a process of", &SignalProcess::kill(id)).await {
        tracing::warn!(vm = %inner.id, process = id, error = %e, "a process that nobody waits for goes on");
    }
}

async fn execute(vm: UtilityVm, guest: Guest, launch: Launch) -> Result<Process, UvmError> {
    let inner = Arc::clone(&vm.inner);
    let Launch { container, program, parameters } = launch;
    let failed =
        |source| UvmError::Program { id: inner.id.clone(), program: program.clone(), source: Box::new(source) };
    let mut ports = [
        StdioPort::open(&inner, "stdin", parameters.create_stdin_pipe).map_err(failed)?,
        StdioPort::open(&inner, "stdout", parameters.create_stdout_pipe).map_err(failed)?,
        StdioPort::open(&inner, "stderr", parameters.create_stderr_pipe).map_err(failed)?,
    ];
    let [stdin, stdout, stderr] = ports.each_ref().map(|port| port.number);
    let call = ExecuteProcess::linux(parameters, VsockStdio { stdin, stdout, stderr });
    let deadline = Some(inner.deadlines.rpc);
    // The guest dials before it answers, so both run at once; after the answer the dialling has a limit of its own.
    let (answered, answered_receiver) = watch::channel(false);
    let executed = async {
        let result = guest.bridge.call(container.clone(), &call, deadline).await;
        answered.send_replace(true);
        result.map_err(ProgramError::Guest)
    };
    let waited = inner.deadlines.stdio_dial;
    let [stdin, stdout, stderr] = &mut ports;
    let dialled = async {
        tokio::try_join!(
            stdin.accept(answered_receiver.clone(), waited),
            stdout.accept(answered_receiver.clone(), waited),
            stderr.accept(answered_receiver.clone(), waited),
        )
    };
    let (executed, dialled) = join_or_fail(executed, dialled).await;
    let id = match executed {
        Ok(reply) => reply.process_id,
        Err(ProgramError::Guest(source @ BridgeError::Closed { .. })) => {
            return Err(match inner.guest_error(INTENT, source).await {
                UvmError::Guest { source, .. } => failed(ProgramError::Guest(source)),
                exited => exited,
            });
        }
        Err(source) => return Err(failed(source)),
    };
    let [stdin, stdout, stderr] = match dialled {
        Some(Ok((stdin, stdout, stderr))) => [stdin, stdout, stderr],
        // It runs, but nobody can talk to it.
        Some(Err(source)) => {
            kill(&inner, &guest, &container, id).await;
            return Err(failed(source));
        }
        None => [None, None, None],
    };
    let outcome = wait_in_background(&inner, &guest, &container, id);
    Ok(Process {
        vm,
        guest,
        container,
        id,
        stdin: stdin.map(ProcessInput::new),
        stdout: stdout.map(ProcessOutput::new),
        stderr: stderr.map(ProcessOutput::new),
        outcome,
    })
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

/// Waits for the end of a process from its beginning on, so that the guest need not keep it for long.
fn wait_in_background(inner: &Arc<Inner>, guest: &Guest, container: &ContainerId, id: u32) -> super::Outcome {
    let (sender, outcome) = watch::channel(None);
    let (guest, container) = (guest.clone(), container.clone());
    // A process that runs does not keep a VM alive that nobody has a handle of.
    let weak = Arc::downgrade(inner);
    inner.vm.spawn(Box::pin(async move {
        let result = guest.bridge.call(container.clone(), &WaitForProcess::forever(id), None).await;
        if matches!(result, Err(BridgeError::Encode { .. } | BridgeError::Failed(_)))
            && let Some(inner) = weak.upgrade()
        {
            // Nobody would ever learn of its end.
            kill(&inner, &guest, &container, id).await;
        }
        sender.send_replace(Some(result.map(ProcessExit::of).map_err(Arc::new)));
    }));
    outcome
}
