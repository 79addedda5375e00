//! Containers in the VM: made, started, looked at, limited, ended, forgotten.

mod create;
mod documents;
mod options;
mod properties;
mod update;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use uvm_wire::execute::ProcessParameters;
use uvm_wire::system::{DeleteContainerState, ShutdownForced, ShutdownGraceful};
use uvm_wire::{ContainerId, Hresult, RawJson, Rpc};

pub(crate) use create::create;
pub use options::ContainerOptions;
pub use properties::ContainerProcesses;

use crate::bridge::{BridgeError, ContainerEnd, Registration};
use crate::error::{ContainerError, UvmError};
use crate::process::{self, Launch, Process};
use crate::vm::{Guest, UtilityVm};

use options::object;

/// A container in the VM: one that was [made](UtilityVm::create_container), or another handle of it
/// ([`UtilityVm::open_container`]). Dropping the handle does not end the container; whoever holds only this one does not
/// learn of its end any more.
///
/// Each call waits at most [`rpc`](crate::Deadlines::rpc) for the guest's answer, unless it says otherwise. Besides the
/// errors they name, all can fail with [`UvmError::Exited`] and [`UvmError::Refused`].
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

/// A handle of a container that may be there.
pub(crate) fn open(vm: &UtilityVm, id: &str) -> Result<Container, UvmError> {
    let guest = vm.inner.guest("open a container in")?;
    let failed = |source| vm.inner.witness().container(id.to_owned(), "open", source);
    let container = ContainerId::from(id);
    // Above all, none of its calls may mean the VM itself.
    container.check_new().map_err(|e| failed(ContainerError::Id(e)))?;
    let registration = guest.bridge.register(&container);
    Ok(Container { vm: vm.clone(), guest, registration: Arc::new(registration) })
}

impl Container {
    /// Its id.
    pub fn id(&self) -> &str {
        self.registration.id().as_str()
    }

    /// Starts its init process, with a terminal if the specification says so: then it has no standard error, and
    /// [`Process::resize`] tells it the size. To be done once.
    ///
    /// The guest tells the end of a container whose init process was started, and of no other.
    ///
    /// # Errors
    /// [`UvmError::Program`].
    pub async fn start(&self, stdio: ContainerStdio) -> Result<Process, UvmError> {
        let program = format!("the init process of container {:?}", self.id());
        process::create(&self.vm, self.launch(program, stdio, None)).await
    }

    /// Starts a further process in it. `process` is an OCI process object as JSON; with `"terminal": true` in it, the
    /// process has a terminal and no standard error.
    ///
    /// # Errors
    /// [`UvmError::Container`] if it is no JSON object, [`UvmError::Program`].
    pub async fn exec(&self, process: &str, stdio: ContainerStdio) -> Result<Process, UvmError> {
        let (process, _) = object("process", process).map_err(|e| self.failed("start a process in", e))?;
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

    /// Waits for its end: its init process has ended and its output was read, or its state was deleted, or the VM has
    /// ended, or this handle was closed. Without limit, since a container may run for ever. Cancel-safe.
    pub async fn wait(&self) -> ContainerEnd {
        self.registration.ended().await
    }

    /// Asks its init process to end (SIGTERM), and does not wait for its end: see [`wait`](Self::wait). Success if it has
    /// ended or is not there. A caller that gives up does not call it back.
    ///
    /// # Errors
    /// [`UvmError::Container`].
    pub async fn shutdown(&self) -> Result<(), UvmError> {
        self.end("shut down", ShutdownGraceful {}).await
    }

    /// Kills it, and does not wait for its end. Success if it has ended or is not there.
    ///
    /// # Errors
    /// [`UvmError::Container`].
    pub async fn terminate(&self) -> Result<(), UvmError> {
        self.end("terminate", ShutdownForced {}).await
    }

    /// Frees its id in the guest, and what the guest keeps of it. It must have ended.
    ///
    /// Agents of January 2021 at times fail here for a container that has ended, and keep its id; nothing can be done
    /// about it in the life of that VM.
    ///
    /// # Errors
    /// [`UvmError::Container`], [`UvmError::GuestUnsupported`].
    pub async fn delete_state(&self) -> Result<(), UvmError> {
        if !self.guest.capabilities.guest_defined.delete_container_state {
            let what = "deleting the state of a container";
            return Err(UvmError::GuestUnsupported { id: self.vm.id().clone(), what });
        }
        let (guest, id, deadline) = self.target();
        let deleted = async move {
            let result = guest.bridge.call(id.clone(), &DeleteContainerState {}, Some(deadline)).await;
            if result.is_ok() {
                guest.bridge.container_deleted(&id);
            }
            result
        };
        self.outcome("delete the state of", self.vm.inner.run(deleted).await?).await.map(drop)
    }

    /// Closes this handle; whoever waits for the container is told so. The container goes on.
    pub fn close(&self) {
        self.registration.close();
    }

    async fn end<R>(&self, intent: &'static str, call: R) -> Result<(), UvmError>
    where
        R: Rpc<Reply: Send> + Send + Sync + 'static,
    {
        match self.call(intent, call).await {
            Err(UvmError::Container { source: ContainerError::Guest(source), .. }) if has_ended(&source) => Ok(()),
            result => result.map(drop),
        }
    }

    async fn call<R>(&self, intent: &'static str, call: R) -> Result<R::Reply, UvmError>
    where
        R: Rpc<Reply: Send> + Send + Sync + 'static,
    {
        let (guest, id, deadline) = self.target();
        let call = async move { guest.bridge.call(id, &call, Some(deadline)).await };
        self.outcome(intent, self.vm.inner.run(call).await?).await
    }

    /// What a call takes.
    fn target(&self) -> (Guest, ContainerId, Duration) {
        (self.guest.clone(), self.registration.id().clone(), self.vm.inner.deadlines.rpc)
    }

    async fn outcome<T>(&self, intent: &'static str, result: Result<T, BridgeError>) -> Result<T, UvmError> {
        match result {
            Ok(reply) => Ok(reply),
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
