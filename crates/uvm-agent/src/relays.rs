//! The relays that run, so that a shutdown can wait for what is still on its way out.

use std::fmt;
use std::io;
use std::sync::Arc;

use tokio::sync::watch;

use crate::flags::Level;
use crate::log::Log;

/// Counts the relays that run. Clones share it.
#[derive(Clone)]
pub(crate) struct Relays {
    running: Arc<watch::Sender<usize>>,
    log: Log,
}

impl Relays {
    pub(crate) fn new(log: Log) -> Self {
        Self { running: Arc::new(watch::Sender::new(0)), log }
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
        tokio::spawn(async move {
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
