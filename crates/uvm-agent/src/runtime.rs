//! The runtime of a program that is the agent: it serves until the end, and does not hold up the end.
//!
//! One of its threads does nothing but take the signals that tell of the ends of children. The kernel tells the thread that
//! has started the child, if that takes such signals: it is one of those that wait for files, by then perhaps of a host that
//! does not answer. Such a wait is not ended by the signal, and while one thread is about to be told, no other is: nobody
//! would hear of any child's end.

use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::failure::Fatal;
use crate::sys;

/// How long work on threads may still take once nobody waits for its answer, such as the mounting of a disk.
const LAST_WORK: Duration = Duration::from_secs(1);

/// Runs the agent's life to its end. Threads that wait for a kernel or a host that does not answer are left behind: a
/// runtime that is dropped would wait for them without limit, and the VM would not power off.
///
/// # Errors
/// There is no runtime, or the life's own.
pub(crate) fn run<T>(life: impl Future<Output = Result<T, Fatal>>) -> Result<T, Fatal> {
    tell_one_thread_of_children().map_err(|e| Fatal::new("cannot have a thread for signals", e))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Fatal::new("cannot make a runtime", e))?;
    let outcome = runtime.block_on(life);
    runtime.shutdown_timeout(LAST_WORK);
    outcome
}

/// What that thread needs: a signal's handler at a time.
const STACK: usize = 64 * 1024;

/// Starts the thread that is told of the ends of children. This one is not, nor are those that it starts from now on. What
/// they start as programs begins without it: [`spawn`](sys::spawn) sees to that.
fn tell_one_thread_of_children() -> io::Result<()> {
    sys::block_child_signals()?;
    let (ready, is_ready) = mpsc::sync_channel(1);
    let listen = move || {
        // It is waited for.
        let _ = ready.send(sys::unblock_child_signals());
        loop {
            thread::park();
        }
    };
    thread::Builder::new().name("signals".into()).stack_size(STACK).spawn(listen)?;
    is_ready.recv().map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Whether a thread of this process is told of the ends of children, by its directory in /proc.
    fn is_told(thread: &str) -> bool {
        let status = fs::read_to_string(format!("{thread}/status")).expect("it runs");
        let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).expect("a mask");
        let blocked = u64::from_str_radix(blocked.trim(), 16).expect("a number");
        blocked & 1 << (libc::SIGCHLD - 1) == 0
    }

    #[test]
    fn no_thread_that_may_wait_is_told_of_the_ends_of_children() {
        let seen = run(async {
            let waits = tokio::task::spawn_blocking(|| is_told("/proc/thread-self"));
            let later = tokio::task::spawn_blocking(|| thread::spawn(|| is_told("/proc/thread-self")).join());
            Ok((is_told("/proc/thread-self"), waits.await.ok(), later.await.ok().and_then(Result::ok)))
        });
        assert!(matches!(seen, Ok((false, Some(false), Some(false)))), "{:?}", seen.ok());
        // Another test of this process may just be making one.
        let threads =
            fs::read_dir("/proc/self/task").expect("threads").filter_map(Result::ok).map(|entry| entry.path());
        let signals =
            threads.filter(|thread| fs::read_to_string(thread.join("comm")).is_ok_and(|name| name == "signals\n"));
        assert!(signals.filter_map(|thread| thread.to_str().map(is_told)).any(|told| told), "one thread is told");
    }

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
