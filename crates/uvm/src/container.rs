//! Containers in the VM: made, started, ended, forgotten.

mod create;

use std::fmt;
use std::sync::Arc;

use uvm_wire::execute::ProcessParameters;
use uvm_wire::system::{DeleteContainerState, ShutdownForced, ShutdownGraceful};
use uvm_wire::{Hresult, RawJson, Rpc};

pub(crate) use create::create;

use crate::bridge::{BridgeError, ContainerEnd, Registration};
use crate::error::{ContainerError, UvmError};
use crate::process::{self, Launch, Process};
use crate::vm::{Guest, UtilityVm};

/// A container in the VM. Dropping it does not end it; nobody learns of its end any more.
pub struct Container {
    vm: UtilityVm,
    guest: Guest,
    registration: Arc<Registration>,
}

/// Which standard streams to connect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContainerStdio {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
}

impl Container {
    /// Its id.
    pub fn id(&self) -> &str {
        self.registration.id().as_str()
    }

    /// Starts its init process. To be done once.
    ///
    /// # Errors
    /// [`UvmError::Program`].
    pub async fn start(&self, stdio: ContainerStdio) -> Result<Process, UvmError> {
        let program = format!("the init process of container {:?}", self.id());
        process::create(&self.vm, self.launch(program, stdio, None)).await
    }

    /// Starts a further process in it. `process` is an OCI process object as JSON.
    ///
    /// # Errors
    /// [`UvmError::Container`] if it is no JSON, [`UvmError::Program`].
    pub async fn exec(&self, process: &str, stdio: ContainerStdio) -> Result<Process, UvmError> {
        let process =
            RawJson::parse(process).map_err(|e| self.failed("start a process in", ContainerError::Specification(e)))?;
        let program = format!("a process of container {:?}", self.id());
        process::create(&self.vm, self.launch(program, stdio, Some(process))).await
    }

    fn launch(&self, program: String, stdio: ContainerStdio, oci_process: Option<RawJson>) -> Launch {
        let parameters = ProcessParameters {
            create_stdin_pipe: stdio.stdin,
            create_stdout_pipe: stdio.stdout,
            create_stderr_pipe: stdio.stderr,
            oci_process,
            ..ProcessParameters::default()
        };
        Launch { container: self.registration.id().clone(), program, parameters }
    }

    /// Waits for its end: its init process has ended, or the VM, or this handle was closed. Cancel-safe.
    pub async fn wait(&self) -> ContainerEnd {
        self.registration.ended().await
    }

    /// Asks its init process to end (SIGTERM). Success if it has ended.
    ///
    /// # Errors
    /// [`UvmError::Container`].
    pub async fn shutdown(&self) -> Result<(), UvmError> {
        self.end("shut down", ShutdownGraceful {}).await
    }

    /// Kills it. Success if it has ended.
    ///
    /// # Errors
    /// [`UvmError::Container`].
    pub async fn terminate(&self) -> Result<(), UvmError> {
        self.end("terminate", ShutdownForced {}).await
    }

    /// Frees its id in the guest. It must have ended.
    ///
    /// # Errors
    /// [`UvmError::Container`].
    pub async fn delete_state(&self) -> Result<(), UvmError> {
        if !self.guest.capabilities.guest_defined.delete_container_state {
            let what = "deleting the state of a container";
            return Err(UvmError::GuestUnsupported { id: self.vm.id().clone(), what });
        }
        self.call("delete the state of", DeleteContainerState {}).await
    }

    /// Closes this handle; whoever waits for the container is told so. The container goes on.
    pub fn close(&self) {
        self.registration.close();
    }

    async fn end<R>(&self, intent: &'static str, call: R) -> Result<(), UvmError>
    where
        R: Rpc<Reply = uvm_wire::call::Done> + Send + Sync + 'static,
    {
        match self.call(intent, call).await {
            Err(UvmError::Container { source: ContainerError::Guest(source), .. }) if has_ended(&source) => Ok(()),
            result => result,
        }
    }

    async fn call<R>(&self, intent: &'static str, call: R) -> Result<(), UvmError>
    where
        R: Rpc<Reply = uvm_wire::call::Done> + Send + Sync + 'static,
    {
        let (guest, id, deadline) = (self.guest.clone(), self.registration.id().clone(), self.vm.inner.deadlines.rpc);
        let call = async move { guest.bridge.call(id, &call, Some(deadline)).await };
        match self.vm.inner.run(call).await? {
            Ok(_) => Ok(()),
            Err(source) => {
                let source = self.vm.inner.unless_ended("use a container of", source).await?;
                Err(self.failed(intent, ContainerError::Guest(source)))
            }
        }
    }

    fn failed(&self, intent: &'static str, source: ContainerError) -> UvmError {
        self.vm.inner.witness().container(self.id().to_owned(), intent, source)
    }
}

/// The guest does not know the container, or says that it has stopped.
fn has_ended(error: &BridgeError) -> bool {
    let gone = [Hresult::SYSTEM_NOT_FOUND, Hresult::SYSTEM_ALREADY_STOPPED];
    error.failure().is_some_and(|failure| gone.contains(&failure.result))
}

impl fmt::Debug for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Container").field("id", &self.id()).finish_non_exhaustive()
    }
}
