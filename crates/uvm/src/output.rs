//! What is done with the output of the guest's init: by default it is the agent's log.

mod bounded;
mod log_parser;

use std::fmt;
use std::sync::Arc;

use uvm_platform::{BoxFuture, GuestStream, UvmId};

pub(crate) use bounded::until;
pub use log_parser::{GuestLogEntry, GuestLogParser, LogLevel, NotALog};

/// Takes the output of the guest's init, as one stream, from the moment it connects until it ends: at the latest
/// two seconds after the VM, once all that came has been read.
///
/// The VM counts as ended for [`wait`](crate::UtilityVm::wait) only when the handler is done, too.
#[derive(Clone)]
pub struct OutputHandler(Arc<Handler>);

type Handler = dyn Fn(UvmId, GuestStream) -> BoxFuture<'static, ()> + Send + Sync;

impl OutputHandler {
    /// A handler that runs `handle` with the VM's id and its output.
    pub fn new<F, G>(handle: F) -> Self
    where
        F: Fn(UvmId, GuestStream) -> G + Send + Sync + 'static,
        G: Future<Output = ()> + Send + 'static,
    {
        Self(Arc::new(move |id, stream| Box::pin(handle(id, stream))))
    }

    /// The default: parses the agent's log and hands each entry to [`tracing`], at its level, with the VM's id.
    pub fn tracing() -> Self {
        Self::new(|id, stream| async move { log_parser::to_tracing(&id, stream).await })
    }

    pub(crate) fn handle(&self, id: UvmId, stream: GuestStream) -> BoxFuture<'static, ()> {
        self.0(id, stream)
    }
}

impl Default for OutputHandler {
    fn default() -> Self {
        Self::tracing()
    }
}

impl fmt::Debug for OutputHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OutputHandler")
    }
}
