//! Where a VM's tasks run: on a thread of its own, or on a runtime that the program says outlives its VMs.

use std::io;
use std::sync::{Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use uvm_platform::VmThread;

/// Where a VM's tasks run. Dropping it ends them.
pub(crate) struct Home {
    runtime: Handle,
    /// The tasks to end with it.
    tasks: Mutex<Vec<AbortHandle>>,
    /// The VM's own thread.
    _thread: Option<VmThread>,
}

impl Home {
    /// A thread of its own for the VM `id`, with a runtime that depends on no other.
    pub(crate) fn thread(id: &str) -> io::Result<Self> {
        let thread = VmThread::start(id)?;
        Ok(Self { runtime: thread.handle().clone(), tasks: Mutex::default(), _thread: Some(thread) })
    }

    /// The runtime of this handle.
    pub(crate) fn on(runtime: Handle) -> Self {
        Self { runtime, tasks: Mutex::default(), _thread: None }
    }

    /// Runs `task` until it ends or this is dropped.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        // Not under the lock: a runtime that has ended drops the task at once, and what that held may spawn in turn.
        let task = self.runtime.spawn(task).abort_handle();
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        // What has ended is let go.
        tasks.retain(|task| !task.is_finished());
        tasks.push(task);
    }

    /// Runs `future` there. Whoever gives the receiver up does not stop it.
    ///
    /// The receiver fails if it panicked, or this was dropped.
    pub(crate) fn begin<F>(&self, future: F) -> oneshot::Receiver<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        self.spawn(async move {
            // A caller that gave up does not want the answer.
            let _ = reply.send(future.await);
        });
        answer
    }

    /// The same, and waits for it, on any runtime or none. `None` where the receiver fails.
    pub(crate) async fn run<F>(&self, future: F) -> Option<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.begin(future).await.ok()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let tasks = self.tasks.get_mut().unwrap_or_else(PoisonError::into_inner);
        tasks.drain(..).for_each(|task| task.abort());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::runtime::Builder;

    use super::*;

    #[test]
    fn a_thread_serves_callers_without_a_runtime_of_their_own() {
        let home = Home::thread("vm").expect("a thread");
        let (guard, ended) = std::sync::mpsc::channel::<()>();
        home.spawn(async move {
            let _guard = guard;
            std::future::pending::<()>().await;
        });
        // No timer here: the thread's own is used.
        let bare = Builder::new_current_thread().build().expect("a runtime");
        let slept = bare.block_on(home.run(async { tokio::time::sleep(std::time::Duration::from_millis(1)).await }));
        assert_eq!(slept, Some(()));
        drop(home);
        let dropped = ended.recv_timeout(std::time::Duration::from_secs(30));
        assert_eq!(dropped, Err(std::sync::mpsc::RecvTimeoutError::Disconnected));
    }

    #[tokio::test]
    async fn tasks_on_another_runtime_end_with_their_vm() {
        let home = Home::on(Handle::current());
        assert_eq!(home.run(async { 1 }).await, Some(1));
        assert_eq!(home.run(async { panic!("a bug") }).await, None::<()>);
        let (guard, ended) = oneshot::channel::<()>();
        home.spawn(async move {
            let _guard = guard;
            std::future::pending::<()>().await;
        });
        drop(home);
        ended.await.expect_err("it was dropped");
    }

    #[test]
    fn what_a_task_holds_may_spawn_when_its_runtime_has_ended() {
        struct Spawns(Option<Arc<Home>>);
        impl Drop for Spawns {
            fn drop(&mut self) {
                if let Some(home) = self.0.take() {
                    home.spawn(async {});
                }
            }
        }
        let runtime = Builder::new_current_thread().build().expect("a runtime");
        let home = Arc::new(Home::on(runtime.handle().clone()));
        drop(runtime);
        let spawns = Spawns(Some(Arc::clone(&home)));
        home.spawn(async move { drop(spawns) });
    }
}
