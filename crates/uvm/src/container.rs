//! Containers in the VM: made, started, looked at, limited, ended, forgotten.

mod bridged;
mod create;
mod documents;
mod hosted;
mod options;
mod properties;
mod update;

use std::fmt;
use std::sync::Arc;

use uvm_platform::ContainerCommand;
use uvm_wire::execute::ProcessParameters;
use uvm_wire::system::{ShutdownForced, ShutdownGraceful};
use uvm_wire::{ContainerId, RawJson};

pub(crate) use create::create;
pub use options::ContainerOptions;
pub use properties::ContainerProcesses;

use crate::bridge::ContainerEnd;
use crate::error::{ContainerError, UvmError};
use crate::process::{self, Launch, Place, Process};
use crate::vm::{Reach, UtilityVm};

use bridged::BridgedContainer;
use hosted::HostedContainer;
use options::object;

/// A container in the VM: one that was [made](UtilityVm::create_container), or another handle of it
/// ([`UtilityVm::open_container`]). Dropping the handle does not end the container; whoever holds only this one does not
/// learn of its end any more.
///
/// Each call waits at most [`rpc`](crate::Deadlines::rpc) for the guest's answer, unless it says otherwise. Besides the
/// errors they name, all can fail with [`UvmError::Exited`] and [`UvmError::Refused`].
pub struct Container {
    vm: UtilityVm,
    way: Way,
}

/// By which way a container is reached.
enum Way {
    Bridge(BridgedContainer),
    Host(HostedContainer),
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
    let reach = vm.inner.reach(OPEN)?;
    let failed = |source| vm.inner.witness().container(id.to_owned(), "open", source);
    let container = ContainerId::from(id);
    // Above all, none of its calls may mean the VM itself.
    container.check_new().map_err(|e| failed(ContainerError::Id(e)))?;
    let guest = match reach {
        Reach::Bridge(guest) => guest,
        Reach::Host(capabilities) => return hosted::open(vm, id, capabilities.guest_defined.signal_process),
    };
    let registration = Arc::new(guest.bridge.register(&container));
    Ok(Container { vm: vm.clone(), way: Way::Bridge(BridgedContainer { guest, registration }) })
}

impl Container {
    /// Its id.
    pub fn id(&self) -> &str {
        match &self.way {
            Way::Bridge(container) => container.registration.id().as_str(),
            Way::Host(container) => container.container.id(),
        }
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
        Launch { place: self.place(), program, parameters }
    }

    /// Where its processes are started.
    fn place(&self) -> Place {
        match &self.way {
            Way::Bridge(container) => Place::Bridged(container.registration.id().clone()),
            Way::Host(HostedContainer { container, can_signal }) => {
                Place::Hosted { container: Arc::clone(container), can_signal: *can_signal }
            }
        }
    }

    /// Waits for its end: its init process has ended and its output was read, or its state was deleted, or the VM has
    /// ended, or this handle was closed. Without limit, since a container may run for ever. Cancel-safe.
    pub async fn wait(&self) -> ContainerEnd {
        match &self.way {
            Way::Bridge(container) => container.registration.ended().await,
            Way::Host(container) => container.wait().await,
        }
    }

    /// Asks its init process to end (SIGTERM), and does not wait for its end: see [`wait`](Self::wait). Success if it has
    /// ended or is not there. A caller that gives up does not call it back.
    ///
    /// # Errors
    /// [`UvmError::Container`].
    pub async fn shutdown(&self) -> Result<(), UvmError> {
        let intent = "shut down";
        match &self.way {
            Way::Bridge(container) => container.end(&self.vm, intent, ShutdownGraceful {}).await,
            Way::Host(container) => container.command(&self.vm, intent, ContainerCommand::Shutdown).await,
        }
    }

    /// Kills it, and does not wait for its end. Success if it has ended or is not there.
    ///
    /// # Errors
    /// [`UvmError::Container`].
    pub async fn terminate(&self) -> Result<(), UvmError> {
        let intent = "terminate";
        match &self.way {
            Way::Bridge(container) => container.end(&self.vm, intent, ShutdownForced {}).await,
            Way::Host(container) => container.command(&self.vm, intent, ContainerCommand::Terminate).await,
        }
    }

    /// Lets its processes stand still, where the host's service holds the guest connection. Agents have no such call.
    ///
    /// # Errors
    /// [`UvmError::Container`], [`UvmError::GuestUnsupported`].
    pub async fn pause(&self) -> Result<(), UvmError> {
        self.command("pause", "pausing a container", ContainerCommand::Pause).await
    }

    /// Lets its processes go on after a [`pause`](Self::pause).
    ///
    /// # Errors
    /// As there.
    pub async fn resume(&self) -> Result<(), UvmError> {
        self.command("resume", "resuming a container", ContainerCommand::Resume).await
    }

    /// Frees its id in the guest, and what the guest keeps of it. It must have ended.
    ///
    /// Agents of January 2021 at times fail here for a container that has ended, and keep its id; nothing can be done
    /// about it in the life of that VM.
    ///
    /// Where the host's service holds the guest connection, there is nothing to free: a container that has ended is
    /// forgotten when nobody has a handle of it any more.
    ///
    /// # Errors
    /// [`UvmError::Container`], [`UvmError::GuestUnsupported`].
    pub async fn delete_state(&self) -> Result<(), UvmError> {
        match &self.way {
            Way::Bridge(container) if container.guest.capabilities.guest_defined.delete_container_state => {
                container.delete_state(&self.vm, "delete the state of").await
            }
            _ => Err(self.unsupported("deleting the state of a container")),
        }
    }

    /// Closes this handle; whoever waits for the container is told so. The container goes on.
    pub fn close(&self) {
        match &self.way {
            Way::Bridge(container) => container.registration.close(),
            Way::Host(container) => container.container.close(),
        }
    }

    /// What the service alone can do.
    async fn command(
        &self,
        intent: &'static str,
        what: &'static str,
        command: ContainerCommand,
    ) -> Result<(), UvmError> {
        match &self.way {
            Way::Bridge(_) => Err(self.unsupported(what)),
            Way::Host(container) => container.command(&self.vm, intent, command).await,
        }
    }

    fn unsupported(&self, what: &'static str) -> UvmError {
        UvmError::GuestUnsupported { id: self.vm.id().clone(), what }
    }

    fn failed(&self, intent: &'static str, source: ContainerError) -> UvmError {
        self.vm.inner.witness().container(self.id().to_owned(), intent, source)
    }
}

/// What is tried, in errors about the VM.
const OPEN: &str = "open a container in";
const USE: &str = "use a container of";

impl fmt::Debug for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Container").field("id", &self.id()).finish_non_exhaustive()
    }
}
