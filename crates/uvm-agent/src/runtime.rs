//! The runtime of a program that is the agent: it serves until the end, and does not hold up the end.

use std::time::Duration;

use crate::failure::Fatal;

/// How long work on threads may still take once nobody waits for its answer, such as the mounting of a disk.
const LAST_WORK: Duration = Duration::from_secs(1);

/// Runs the agent's life to its end. Threads that wait for a kernel or a host that does not answer are left behind: a
/// runtime that is dropped would wait for them without limit, and the VM would not power off.
///
/// # Errors
/// There is no runtime, or the life's own.
pub(crate) fn run<T>(life: impl Future<Output = Result<T, Fatal>>) -> Result<T, Fatal> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Fatal::new("cannot make a runtime", e))?;
    let outcome = runtime.block_on(life);
    runtime.shutdown_timeout(LAST_WORK);
    outcome
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_thread_that_is_stuck_does_not_hold_up_the_end() {
        let (release, stuck) = mpsc::channel::<()>();
        let (done, is_done) = mpsc::channel();
        let ended = run(async move {
            let (started, has_started) = tokio::sync::oneshot::channel();
            tokio::task::spawn_blocking(move || {
                let _ = started.send(());
                // Much longer than the runtime waits, and not for ever: a test that fails is to end too.
                let _ = stuck.recv_timeout(Duration::from_secs(30));
                let _ = done.send(());
            });
            let _ = has_started.await;
            Ok(7)
        });
        assert!(matches!(ended, Ok(7)));
        assert_eq!(is_done.try_recv(), Err(mpsc::TryRecvError::Empty), "the end waited for the thread");
        drop(release);
    }
}
