//! What the platform needs of a Windows host, as small traits: the service itself and what lies around it.
//!
//! Texts that go in and out are the service's JSON, made and read by [`document`](crate::document). On Windows
//! the compute core library and its neighbours are behind these traits; in tests, a host in memory that keeps every
//! call (feature `recording`).

mod error;
mod files;
mod notification;
mod systems;

use std::io;
use std::sync::Arc;

use uvm_platform::stream::PollAccept;
use uvm_platform::{BoxFuture, GuestStream};
use uvm_wire::Guid;

pub use error::HcsError;
pub use files::{FileKind, FileStat, HostFiles};
pub use notification::{Notification, NotificationKind};
pub use systems::{ComputeProcess, ComputeSystem, ComputeSystems, OpenSystem};
pub use uvm_platform::ProcessStdio;

use crate::win_path::WinPath;
use crate::windows_build::WindowsBuild;

/// A Windows host: everything the platform needs of it.
pub trait HcsHost:
    ComputeSystems
    + ServiceProperties
    + AccessGrants
    + HvSockets
    + HostNetwork
    + HostFiles
    + HostProcesses
    + Guids
    + Send
    + Sync
    + 'static
{
    /// The build of the host.
    fn build(&self) -> WindowsBuild;
}

/// Properties of the compute service itself.
pub trait ServiceProperties {
    /// Answers a query for what the host has.
    fn service_properties<'a>(&'a self, query: &'a str) -> BoxFuture<'a, Result<String, HcsError>>;

    /// Changes what the host has, CPU groups for example.
    fn modify_service<'a>(&'a self, settings: &'a str) -> BoxFuture<'a, Result<(), HcsError>>;
}

/// Who may open a file of the host.
pub trait AccessGrants {
    /// Lets one VM open the file.
    fn grant_vm<'a>(&'a self, vm: &'a str, path: &'a WinPath) -> BoxFuture<'a, Result<(), HcsError>>;

    /// Takes that back.
    fn revoke_vm<'a>(&'a self, vm: &'a str, path: &'a WinPath) -> BoxFuture<'a, Result<(), HcsError>>;

    /// Lets every VM open the file. Others may count on it from then on, so it is not taken back.
    fn grant_vm_group<'a>(&'a self, path: &'a WinPath) -> BoxFuture<'a, Result<(), HcsError>>;
}

/// Sockets between the host and a VM.
pub trait HvSockets {
    /// Lets the VM dial the service. Dropping the listener refuses whoever dials later.
    ///
    /// # Errors
    /// The service is taken, or may not be listened on.
    fn listen(&self, vm: Guid, service: Guid) -> Result<Box<dyn PollAccept>, HcsError>;

    /// Dials a service in the VM.
    fn connect(&self, vm: Guid, service: Guid) -> BoxFuture<'_, Result<GuestStream, HcsError>>;
}

/// The host's network service.
pub trait HostNetwork {
    /// The ids of the namespaces that a query names.
    fn namespaces<'a>(&'a self, query: &'a str) -> BoxFuture<'a, Result<Vec<String>, HcsError>>;

    /// The description of one namespace.
    fn namespace<'a>(&'a self, id: Guid, query: &'a str) -> BoxFuture<'a, Result<String, HcsError>>;

    /// A request in the older style, by method, path and body; answers with the object in its reply.
    fn request<'a>(&'a self, method: &'a str, path: &'a str, body: &'a str) -> BoxFuture<'a, Result<String, HcsError>>;
}

/// Processes of the host that belong to VMs.
pub trait HostProcesses {
    /// Looks for the process that holds the memory of the VM with this runtime id.
    fn memory_process(&self, runtime_id: Guid) -> BoxFuture<'_, Result<Arc<dyn MemoryProcess>, HcsError>>;
}

/// The process that holds a VM's memory, open as long as this lives.
pub trait MemoryProcess: Send + Sync {
    /// Its working set, in bytes.
    fn working_set(&self) -> BoxFuture<'_, Result<u64, HcsError>>;
}

/// Where new GUIDs come from.
pub trait Guids {
    /// A new random GUID (version 4).
    ///
    /// # Errors
    /// The host has no randomness.
    fn new_guid(&self) -> io::Result<Guid>;
}
