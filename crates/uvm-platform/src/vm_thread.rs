//! The thread a VM's own I/O runs on: talk with its host, console, transport and whatever the library above adds.
//!
//! A VM does not depend on the runtime of the program that created it: that runtime may end, block or be of another kind
//! while the VM goes on. And what parses a hostile guest's bytes is kept off the program's threads.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// A thread with a runtime of its own, for a host's VM. Dropping this ends it and everything that runs there.
#[derive(Debug)]
pub struct VmThread {
    handle: Handle,
    stop: Mutex<Option<oneshot::Sender<()>>>,
}

impl VmThread {
    /// Starts the thread of the VM `id`. Its runtime has what the program's build of tokio has: timers, and I/O for a host
    /// that uses it.
    ///
    /// # Errors
    /// The system has no thread, or no descriptors, to give.
    pub fn start(id: &str) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        // The kernel keeps 15 bytes of a thread's name; ids, which are ASCII, differ at their ends rather.
        let name = format!("uvm-{}", id.get(id.len().saturating_sub(11)..).unwrap_or(id));
        thread::Builder::new().name(name).stack_size(STACK).spawn(move || {
            // Either a message or a dropped sender: both mean the end.
            let _ = runtime.block_on(stopped);
            // Blocking work still under way (a removal may take seconds) must not hold up whoever drops the VM.
            runtime.shutdown_background();
        })?;
        Ok(Self { handle, stop: Mutex::new(Some(stop)) })
    }

    /// Runs `future` there and waits for it, on any runtime or none. A caller that gives up does not stop it.
    ///
    /// `None` if the thread has ended, or the future panicked.
    pub async fn run<F>(&self, future: F) -> Option<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.handle.spawn(future).await.ok()
    }

    /// Where to spawn what nobody waits for.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for VmThread {
    fn drop(&mut self) {
        let stop = self.stop.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(stop);
    }
}

/// Deep enough for a VM's tasks; only pages that are touched count.
const STACK: usize = 512 * 1024;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_outlives_the_runtime_that_started_it_and_ends_when_dropped() {
        let thread = Builder::new_current_thread().build().expect("a runtime").block_on(async {
            let thread = VmThread::start("vm").expect("a thread");
            assert_eq!(thread.run(async { 1 }).await, Some(1));
            thread
        });
        let other = Builder::new_current_thread().build().expect("another runtime");
        let (guard, ended) = std::sync::mpsc::channel::<()>();
        other.block_on(async {
            // The timer is the thread's own: this runtime has none.
            let pause = async { tokio::time::sleep(Duration::from_millis(1)).await };
            assert_eq!(thread.run(pause).await, Some(()));
            thread.handle().spawn(async move {
                let _guard = guard;
                std::future::pending::<()>().await;
            });
        });
        drop(thread);
        let dropped = ended.recv_timeout(Duration::from_secs(30));
        assert_eq!(dropped, Err(std::sync::mpsc::RecvTimeoutError::Disconnected));
    }
}
