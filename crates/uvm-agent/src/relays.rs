//! The relays that run: where, and how many, so that a shutdown can wait for what is still on its way out.
//!
//! They have a thread of their own. A read or write of a pipe never waits for data here, but it does wait for the pipe's
//! lock, and that is held while a process splices a file into its pipe, for as long as the file's reading takes. If the
//! file is on a share of the host, its bytes come by way of this process: nothing that carries them, nor the bridge, may
//! wait for a pipe. The relays have the one thread among them, so while a pipe's lock is held because a share stalls, the
//! other relays wait too, until the share answers.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::{oneshot, watch};

use crate::flags::Level;
use crate::log::Log;

/// The relays that run, and their thread. Clones share them.
#[derive(Clone)]
pub(crate) struct Relays {
    running: Arc<watch::Sender<usize>>,
    log: Log,
    runtime: Handle,
    /// The thread ends with the last of these.
    _thread: Arc<oneshot::Sender<()>>,
}

impl Relays {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread, or no descriptors, to give.
    pub(crate) fn new(log: Log) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        thread::Builder::new().name("relays".into()).spawn(move || {
            // A sender that is gone is the sign.
            let _ = runtime.block_on(stopped);
        })?;
        let running = Arc::new(watch::Sender::new(0));
        Ok(Self { running, log, runtime: handle, _thread: Arc::new(stop) })
    }

    /// Runs a relay. One that breaks says so in the log: it is its stream's end, not the agent's.
    pub(crate) fn spawn(
        &self,
        name: impl fmt::Display + Send + 'static,
        relay: impl Future<Output = io::Result<()>> + Send + 'static,
    ) {
        self.running.send_modify(|count| *count += 1);
        let running = Running(Arc::clone(&self.running));
        let log = self.log.clone();
        self.runtime.spawn(async move {
            let _running = running;
            if let Err(e) = relay.await {
                log.add(Level::Debug, format_args!("{name} relay ended early"), &[("error", &e)]);
            }
        });
    }

    /// How many run.
    pub(crate) fn count(&self) -> usize {
        *self.running.borrow()
    }

    /// Waits until none runs.
    pub(crate) async fn idle(&self) {
        // The sender is alive: `self` holds it.
        let _ = self.running.subscribe().wait_for(|count| *count == 0).await;
    }
}

/// Counts down even if the relay panics or its runtime ends.
struct Running(Arc<watch::Sender<usize>>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}
