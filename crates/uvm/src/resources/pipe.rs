//! Named pipes and Unix sockets of the host, to be reached from the guest.

use std::path::{Path, PathBuf};

use uvm_platform::Port;
use uvm_platform::requests::{Device, MappedPipe};
use uvm_wire::modify::{MappedSocket, Modification, Resource};
use uvm_wire::ports::{BRIDGE_PORT, FIRST_SOCKET_PORT};

use super::table::Fit;
use super::vsmb::GUEST_PREFIX;
use super::{Held, Key, Limits, Plan, ResourceError, Wanted};
use crate::error::UvmError;
use crate::vm::UtilityVm;

/// A pipe to offer, and where if that is the caller's to say.
#[derive(Clone, Debug)]
pub(crate) struct Offered {
    pub(crate) host_path: PathBuf,
    pub(crate) guest_path: Option<String>,
}

/// The pipe whose number in the VM's life this is. `full_path` is how the host compares paths.
pub(super) fn plan(
    pipe: &Offered,
    number: u32,
    full_path: impl FnOnce(&Path) -> String,
    limits: &Limits,
) -> Result<Plan, ResourceError> {
    let Offered { host_path, guest_path } = pipe;
    if limits.reaches_pipes {
        if let Some(guest_path) = guest_path {
            return Err(ResourceError::BadInput {
                what: "path in the guest",
                value: guest_path.clone(),
                allowed: "none can be chosen on this host, whose guests reach pipes by the names these have",
            });
        }
        let device = Device::Pipe(MappedPipe { path: host_path.clone(), port: None });
        return Ok(Plan { device: Some(device), ..Plan::default() });
    }
    // A name that is not Unicode would not be the same in the guest.
    let same_path = || host_path.to_str().is_some().then(|| full_path(host_path));
    let mount_path = guest_path.clone().or_else(same_path).unwrap_or_default();
    if !mount_path.starts_with('/') {
        return Err(ResourceError::BadInput {
            what: "path in the guest",
            value: mount_path,
            allowed: "an absolute one; without one the socket's own, if that is Unicode",
        });
    }
    let port = FIRST_SOCKET_PORT + number % (BRIDGE_PORT - FIRST_SOCKET_PORT);
    let guest = Resource::MappedSocket(MappedSocket { mount_path, port });
    Ok(Plan {
        device: Some(Device::Pipe(MappedPipe { path: host_path.clone(), port: Some(Port(port)) })),
        guest_add: Some(Modification::add(guest.clone())),
        guest_remove: Some(Modification::remove(guest)),
        ..Plan::default()
    })
}

/// Whether the pipe is where it is asked for.
pub(super) fn fit(pipe: &Offered, plan: &Plan) -> Result<Fit, ResourceError> {
    match (guest_path(plan), &pipe.guest_path) {
        (Some(there), Some(wanted)) if there != wanted => {
            Err(ResourceError::AttachedOtherwise { how: format!("at {there:?}, asked for at {wanted:?}") })
        }
        _ => Ok(Fit::AsIs),
    }
}

/// Where the guest's agent offers it.
fn guest_path(plan: &Plan) -> Option<&str> {
    match &plan.guest_add.as_ref()?.resource {
        Resource::MappedSocket(socket) => Some(&socket.mount_path),
        _ => None,
    }
}

/// Whether this is the path of a named pipe of the host itself. Letter case counts, and a name is not needed.
///
/// ```
/// assert!(uvm::is_pipe(r"\\.\pipe\docker_engine"));
/// assert!(!uvm::is_pipe(r"C:\pipe\docker_engine"));
/// ```
pub fn is_pipe(path: &str) -> bool {
    path.starts_with(PIPE_PREFIX)
}

/// How a named pipe of the host is mounted into a Windows container.
///
/// ```
/// use uvm::ContainerPipeMapping;
///
/// let (source, destination) = (r"\\.\pipe\docker_engine", r"\\.\pipe\engine");
/// let mapping = ContainerPipeMapping::on_host(source, destination);
/// assert_eq!((mapping.host_path.as_str(), mapping.container_name.as_str()), (source, "engine"));
/// let mapping = ContainerPipeMapping::in_vm(source, destination);
/// assert_eq!(mapping.host_path, r"\\?\VMSMB\VSMB-{dcc079ae-60ba-4d07-847c-3493609c0870}\IPC$\docker_engine");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerPipeMapping {
    /// The pipe, as whoever runs the container reaches it: the host, or the guest of a utility VM.
    pub host_path: String,
    /// The name it has in the container, without what the path of every pipe begins with.
    pub container_name: String,
}

impl ContainerPipeMapping {
    /// The pipe at `source` as `destination` of a container that runs on the host itself.
    pub fn on_host(source: &str, destination: &str) -> Self {
        Self { host_path: source.to_owned(), container_name: pipe_name(destination).to_owned() }
    }

    /// The pipe at `source` of the host as `destination` of a container in a utility VM, which must have been given the
    /// pipe by [`UtilityVm::add_pipe`].
    pub fn in_vm(source: &str, destination: &str) -> Self {
        let host_path = format!(r"{GUEST_PREFIX}IPC$\{}", pipe_name(source));
        Self { host_path, container_name: pipe_name(destination).to_owned() }
    }
}

fn pipe_name(path: &str) -> &str {
    path.strip_prefix(PIPE_PREFIX).unwrap_or(path)
}

const PIPE_PREFIX: &str = r"\\.\pipe\";

/// A named pipe, or a Unix socket, that the guest can reach. Dropping it gives it back in the background; the last one removes it.
/// What cannot be given back then is tried again, as with a [`ScsiMount`](crate::ScsiMount).
#[derive(Debug)]
pub struct PipeMount {
    held: Held,
    host_path: PathBuf,
}

impl PipeMount {
    /// The pipe or socket on the host.
    pub fn host_path(&self) -> &Path {
        &self.host_path
    }

    /// Where the guest has it: the path of a Unix socket there, to be mounted into containers, too. `None` on Windows hosts,
    /// where guests reach a pipe by its name.
    pub fn guest_path(&self) -> Option<&str> {
        guest_path(&self.held.plan)
    }

    /// Gives it back; the last one removes it. On QEMU the guest's socket is gone then, and connections that came by it are
    /// cut.
    ///
    /// Cancel-safe, as [`ScsiMount::release`](crate::ScsiMount::release).
    ///
    /// # Errors
    /// [`UvmError::Resource`]: the guest or the host did not let go; this can be called again.
    pub async fn release(&self) -> Result<(), UvmError> {
        self.held.release().await
    }
}

impl UtilityVm {
    /// Lets the guest reach a named pipe of the host, or shares that. Cancel-safe.
    ///
    /// On QEMU it is a Unix stream socket, which the guest finds at the same path; [`add_pipe_at`](Self::add_pipe_at) says
    /// where else.
    ///
    /// # Errors
    /// As [`add_pipe_at`](Self::add_pipe_at).
    pub async fn add_pipe(&self, host_path: impl Into<PathBuf>) -> Result<PipeMount, UvmError> {
        self.offer_pipe(host_path.into(), None).await
    }

    /// Offers a Unix stream socket of the host at a path of the guest, or shares it where it is there already. On QEMU;
    /// guests of Windows hosts reach pipes by their own names. Cancel-safe.
    ///
    /// Each connection of a program in the guest is one to the socket, made anew and by the VM's owner, with its rights: the
    /// socket may be replaced meanwhile, and where nobody listens the guest's connection is cut, which the log tells. Every
    /// user of the guest may connect; directories that are not there are made. Both directions end by themselves. At most
    /// 128 connections at once go by one socket, and 512 by all of a VM, or fewer where the
    /// process may have few descriptors; further ones wait. Descriptors are not passed on.
    ///
    /// # Errors
    /// [`UvmError::Resource`]: there is no socket, something is at that path of the guest, an agent that cannot (the
    /// original's), or the host or the guest refused, and nothing is left. [`UvmError::Refused`], [`UvmError::Exited`].
    pub async fn add_pipe_at(
        &self,
        host_path: impl Into<PathBuf>,
        guest_path: impl Into<String>,
    ) -> Result<PipeMount, UvmError> {
        self.offer_pipe(host_path.into(), Some(guest_path.into())).await
    }

    async fn offer_pipe(&self, host_path: PathBuf, guest_path: Option<String>) -> Result<PipeMount, UvmError> {
        let wanted = Wanted::Pipe(Offered { host_path: host_path.clone(), guest_path });
        let held = self.attach(format!("pipe {}", host_path.display()), wanted).await?;
        Ok(PipeMount { held, host_path })
    }

    /// Gives one count of the pipe back, whoever has it; the last one removes it.
    ///
    /// # Errors
    /// [`UvmError::Resource`]: not attached, or as [`PipeMount::release`].
    pub async fn remove_pipe(&self, host_path: impl AsRef<Path>) -> Result<(), UvmError> {
        let host_path = host_path.as_ref();
        self.detach(format!("pipe {}", host_path.display()), Key::Pipe(self.path_key(host_path))).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_is_told_by_what_its_path_begins_with() {
        for (path, expected) in [
            (r"\\.\pipe\x", true),
            (r"\\.\pipe\", true),
            (r"\\.\PIPE\x", false),
            (r"\\.\pipe", false),
            (r"//./pipe/x", false),
            (r"C:\\.\pipe\x", false),
            ("", false),
        ] {
            assert_eq!(is_pipe(path), expected, "{path}");
        }
    }

    #[test]
    fn a_path_that_is_no_pipe_is_taken_for_the_name_of_one() {
        let mapping = ContainerPipeMapping::in_vm(r"a\b", "c");
        assert_eq!(mapping.host_path, format!(r"{GUEST_PREFIX}IPC$\a\b"));
        assert_eq!(mapping.container_name, "c");
        assert_eq!(ContainerPipeMapping::on_host("a", r"\\.\pipe\").container_name, "");
    }
}
