//! A process that is reached by way of the host's service, which holds the guest connection.

use std::fmt;
use std::sync::Arc;

use uvm_platform::{PlatformError, PlatformProcess};
use uvm_wire::RawJson;
use uvm_wire::execute::ProcessParameters;
use uvm_wire::process::{Signal, SignalProcess, WaitForProcessReply};

use super::{Process, ProcessExit, ProcessInput, ProcessOutput, TerminalSize, Way};
use crate::error::{ProgramError, UvmError};
use crate::vm::UtilityVm;

/// The parameters of a process as the service takes them.
pub(super) fn text(parameters: &ProcessParameters) -> Result<RawJson, PlatformError> {
    RawJson::of(parameters).map_err(|e| PlatformError::host("write the parameters of a process", e))
}

/// Takes a process that was created, which leaves nothing where it was not.
pub(super) fn take(
    vm: &UtilityVm,
    program: String,
    can_be_signalled: bool,
    created: Result<Arc<dyn PlatformProcess>, PlatformError>,
) -> Result<Process, UvmError> {
    let inner = &vm.inner;
    let process = match created {
        Ok(process) => process,
        Err(source) => {
            let source = inner.host_unless_ended(super::CREATE, source)?;
            return Err(inner.witness().program(program, ProgramError::Host(source)));
        }
    };
    let stdio = process.take_stdio();
    Ok(Process {
        vm: vm.clone(),
        id: process.id(),
        can_be_signalled,
        stdin: stdio.stdin.map(ProcessInput::by_host),
        stdout: stdio.stdout.map(ProcessOutput::by_host),
        stderr: stdio.stderr.map(ProcessOutput::by_host),
        way: Way::Host(HostedProcess(process)),
    })
}

pub(super) struct HostedProcess(Arc<dyn PlatformProcess>);

impl HostedProcess {
    pub(super) async fn wait(&self, vm: &UtilityVm) -> Result<ProcessExit, UvmError> {
        outcome(vm, super::WAIT, self.0.wait().await).map(exit)
    }

    pub(super) fn exit(&self) -> Option<ProcessExit> {
        self.0.exit_code().map(exit)
    }

    pub(super) async fn signal(&self, vm: &UtilityVm, call: SignalProcess) -> Result<bool, UvmError> {
        let sent = match call.options.filter(|options| options.signal != Signal::Unspecified) {
            None => self.0.kill().await,
            Some(options) => match RawJson::of(&options) {
                Ok(options) => self.0.signal(options.get()).await,
                Err(error) => Err(PlatformError::host("write the signal", error)),
            },
        };
        outcome(vm, super::SIGNAL, sent)
    }

    pub(super) async fn resize(&self, vm: &UtilityVm, size: TerminalSize) -> Result<(), UvmError> {
        outcome(vm, super::RESIZE, self.0.resize(size.rows, size.columns).await)
    }
}

/// The service passes on what the guest says, which is what goes over the bridge otherwise.
fn exit(exit_code: u32) -> ProcessExit {
    ProcessExit::of(WaitForProcessReply { exit_code, signal: None })
}

fn outcome<T>(vm: &UtilityVm, intent: &'static str, result: Result<T, PlatformError>) -> Result<T, UvmError> {
    result.or_else(|source| {
        let source = vm.inner.host_unless_ended(intent, source)?;
        Err(UvmError::Operation { id: vm.id().clone(), intent, source })
    })
}

impl fmt::Debug for HostedProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HostedProcess")
    }
}
