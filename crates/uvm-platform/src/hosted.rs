//! Containers and processes by way of a host's service that holds the guest connection.
//!
//! Settings, parameters and queries are JSON in the words of the guest, as in
//! [`PlatformVm::pass_on`](crate::PlatformVm::pass_on); what becomes of them is typed. Every call that waits for the guest
//! does so within [`Deadlines::rpc`](crate::Deadlines::rpc), fails with [`PlatformError::Ended`] once the VM has ended, and
//! with [`PlatformError::InGuest`] where the service refuses. A caller that gives up does not call a request back.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::BoxFuture;
use crate::error::PlatformError;
use crate::vm::ExitStatus;

/// A guest whose connection the host's service holds. What is made here belongs to the VM: it is let go of, at the latest,
/// when the VM is closed or dropped.
pub trait HostedGuest: Send + Sync {
    /// Makes a container and, if that is wanted, starts it.
    ///
    /// Cancel-safe: a container that nobody waits for, or that cannot be started, is ended and closed, whenever it comes to
    /// exist.
    ///
    /// # Errors
    /// Nothing of the container is left; [`GuestFault::AlreadyExists`]: the host has a system of this id.
    fn create_container<'a>(
        &'a self,
        container: NewContainer<'a>,
    ) -> BoxFuture<'a, Result<Arc<dyn PlatformContainer>, PlatformError>>;

    /// Another handle of a container that was made here. Nobody is asked: one that is not there shows by
    /// [`GuestFault::NotFound`] when something is asked of it.
    fn open_container(&self, id: &str) -> Arc<dyn PlatformContainer>;

    /// Starts a process in the VM, outside any container.
    ///
    /// Cancel-safe: a process that nobody waits for is killed, whenever it comes to exist.
    ///
    /// # Errors
    /// Nothing of the process is left.
    fn create_process<'a>(&'a self, parameters: &'a str) -> NewProcess<'a>;
}

/// A process on its way.
pub type NewProcess<'a> = BoxFuture<'a, Result<Arc<dyn PlatformProcess>, PlatformError>>;

/// A container to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewContainer<'a> {
    /// Its id, which no other system of the host has.
    pub id: &'a str,
    /// What it is made of.
    pub settings: &'a str,
    /// Start it, too.
    pub start: bool,
}

/// A handle of a container. Dropping it does not end the container; once the container has ended and nobody has a handle
/// of it any more, its id is free.
pub trait PlatformContainer: Send + Sync + 'static {
    /// Its id.
    fn id(&self) -> &str;

    /// Has the service take it to another state. To end what has ended, or is not there, is success; the end itself is told
    /// by [`ended`](Self::ended).
    ///
    /// # Errors
    /// The service refuses.
    fn command(&self, command: ContainerCommand) -> BoxFuture<'_, Result<(), PlatformError>>;

    /// Changes one of its resources.
    ///
    /// # Errors
    /// The service refuses.
    fn modify<'a>(&'a self, request: &'a str) -> BoxFuture<'a, Result<(), PlatformError>>;

    /// Answers a query for its properties, by JSON. Cancel-safe.
    ///
    /// # Errors
    /// The service refuses.
    fn properties<'a>(&'a self, query: &'a str) -> BoxFuture<'a, Result<String, PlatformError>>;

    /// Starts a process in it: see [`HostedGuest::create_process`].
    ///
    /// # Errors
    /// As there.
    fn create_process<'a>(&'a self, parameters: &'a str) -> NewProcess<'a>;

    /// Waits until it has ended, or this handle is closed. Without limit, since it may run for ever. Cancel-safe.
    fn ended(&self) -> BoxFuture<'_, ContainerExit>;

    /// Closes this handle: whoever waits by it is told so. The container goes on.
    fn close(&self);
}

/// What a container is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerCommand {
    /// Start, once.
    Start,
    /// Let its processes stand still.
    Pause,
    /// Let them go on.
    Resume,
    /// End by itself.
    Shutdown,
    /// End at once.
    Terminate,
}

/// How a container ended for whoever waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerExit {
    /// It has ended so.
    Exited(ExitStatus),
    /// The VM has ended, or the service is gone, and the container with it. Also if there is no such container.
    Lost,
    /// The handle was closed.
    Closed,
}

/// A process. Dropping the handle, and its streams, leaves the process running.
pub trait PlatformProcess: Send + Sync + 'static {
    /// Its number in the guest.
    fn id(&self) -> u32;

    /// The streams that its parameters asked for. The second time there are none.
    fn take_stdio(&self) -> ProcessStdio;

    /// Waits for its end, and tells its exit code. Without limit, since it may run for ever. Cancel-safe; may be called
    /// again.
    ///
    /// # Errors
    /// Its end, or its exit code, cannot be learnt any more.
    fn wait(&self) -> BoxFuture<'_, Result<u32, PlatformError>>;

    /// Its exit code, if it has ended: what [`wait`](Self::wait) would tell at once.
    fn exit_code(&self) -> Option<u32>;

    /// Sends a signal. `false`: it has ended.
    ///
    /// # Errors
    /// The service refuses.
    fn signal<'a>(&'a self, options: &'a str) -> BoxFuture<'a, Result<bool, PlatformError>>;

    /// Ends it at once. `false`: it has ended.
    ///
    /// # Errors
    /// The service refuses.
    fn kill(&self) -> BoxFuture<'_, Result<bool, PlatformError>>;

    /// Tells it the size of its terminal, in characters. Success if it has ended.
    ///
    /// # Errors
    /// The service refuses.
    fn resize(&self, rows: u16, columns: u16) -> BoxFuture<'_, Result<(), PlatformError>>;
}

/// Streams of a process; absent where they were not asked for.
#[derive(Default)]
pub struct ProcessStdio {
    /// What it reads. Shutting it down, or dropping it, ends the input; what was written before arrives. To shut it down
    /// takes until the service has read all of that, or the process has ended; whoever gives up does not call it back.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Sync + Unpin>>,
    /// What it writes.
    pub stdout: Option<Box<dyn AsyncRead + Send + Sync + Unpin>>,
    /// What it complains.
    pub stderr: Option<Box<dyn AsyncRead + Send + Sync + Unpin>>,
}

/// What kind of failure it is that a host's service tells of a container or a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GuestFault {
    /// A program, a container or a process is not there.
    NotFound,
    /// The id is taken.
    AlreadyExists,
    /// It may not be used so.
    PermissionDenied,
    /// It has ended, or is in another state than this needs.
    WrongState,
    /// This guest, or this host, cannot do it.
    Unsupported,
    /// Another.
    Other,
}
