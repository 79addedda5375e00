//! Compute systems, which are VMs and containers, and processes in them.

use std::sync::Arc;

use tokio::sync::mpsc;
use uvm_platform::{BoxFuture, ProcessStdio};

use super::{HcsError, Notification};

/// Where compute systems are made.
pub trait ComputeSystems {
    /// Creates a system from a document. Cancel-safe: a system that nobody waits for is closed, which ends it.
    fn create_system<'a>(&'a self, id: &'a str, document: &'a str) -> BoxFuture<'a, Result<OpenSystem, HcsError>>;
}

/// A system that was created.
pub struct OpenSystem {
    /// The system.
    pub system: Arc<dyn ComputeSystem>,
    /// What the service tells of it, in order.
    pub notifications: mpsc::UnboundedReceiver<Notification>,
}

/// A compute system. Dropping it closes it, without waiting for that, which ends it if it still runs.
///
/// An operation that nobody waits for goes on.
pub trait ComputeSystem: Send + Sync {
    /// Starts it; returns when it runs.
    fn start(&self) -> BoxFuture<'_, Result<(), HcsError>>;

    /// Stops its processors; returns when they stand.
    fn pause(&self) -> BoxFuture<'_, Result<(), HcsError>>;

    /// Lets its processors go on; returns when they do.
    fn resume(&self) -> BoxFuture<'_, Result<(), HcsError>>;

    /// Asks it to shut down; its end is told by a notification.
    fn shutdown(&self) -> BoxFuture<'_, Result<(), HcsError>>;

    /// Has it ended at once; its end is told by a notification.
    fn terminate(&self) -> BoxFuture<'_, Result<(), HcsError>>;

    /// Changes it.
    fn modify<'a>(&'a self, request: &'a str) -> BoxFuture<'a, Result<(), HcsError>>;

    /// Answers a query for its properties.
    fn properties<'a>(&'a self, query: &'a str) -> BoxFuture<'a, Result<String, HcsError>>;

    /// Starts a process in it.
    fn create_process<'a>(&'a self, parameters: &'a str) -> BoxFuture<'a, Result<Arc<dyn ComputeProcess>, HcsError>>;

    /// Closes it, which ends it if it still runs. The second time does nothing.
    fn close(&self) -> BoxFuture<'_, Result<(), HcsError>>;
}

/// A process in a system, made through the service. Dropping it closes it, without waiting for that, and leaves the process
/// running.
pub trait ComputeProcess: Send + Sync {
    /// Its number.
    fn id(&self) -> u32;

    /// The streams that were asked for. The second time there are none.
    fn take_stdio(&self) -> ProcessStdio;

    /// Sends a signal.
    fn signal<'a>(&'a self, options: &'a str) -> BoxFuture<'a, Result<(), HcsError>>;

    /// Ends it at once.
    fn terminate(&self) -> BoxFuture<'_, Result<(), HcsError>>;

    /// Changes it: the size of its console, or which streams are open.
    fn modify<'a>(&'a self, settings: &'a str) -> BoxFuture<'a, Result<(), HcsError>>;

    /// Answers with its properties.
    fn properties(&self) -> BoxFuture<'_, Result<String, HcsError>>;

    /// Waits until it has ended.
    fn wait(&self) -> BoxFuture<'_, Result<Notification, HcsError>>;

    /// Closes it. The second time does nothing.
    fn close(&self) -> BoxFuture<'_, Result<(), HcsError>>;
}
