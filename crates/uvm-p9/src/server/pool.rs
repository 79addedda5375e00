//! Threads for calls that block: a few for each client, so that one client's slow disk is no other's.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use tokio::sync::mpsc;

/// Jobs, and the threads that do them, first come, first served.
#[derive(Debug)]
pub(super) struct Pool<J> {
    state: Mutex<State<J>>,
    work: Condvar,
    most: usize,
}

#[derive(Debug)]
struct State<J> {
    jobs: VecDeque<J>,
    threads: usize,
    idle: usize,
    /// Cloned for each thread, which drops it last of all. `None`: closed.
    alive: Option<mpsc::Sender<()>>,
}

/// Ends when all threads of a closed pool have.
pub(super) type Gone = mpsc::Receiver<()>;

/// A thread without work ends after so long.
const IDLE: Duration = Duration::from_secs(10);

impl<J: Send + 'static> Pool<J> {
    /// At most `most` threads, none yet.
    pub(super) fn new(most: usize) -> (Self, Gone) {
        let (alive, gone) = mpsc::channel(1);
        let state = State { jobs: VecDeque::new(), threads: 0, idle: 0, alive: Some(alive) };
        (Self { state: Mutex::new(state), work: Condvar::new(), most }, gone)
    }

    /// Has a thread do the job. `run` is what a new thread does with each job, and `of` leads it back to this pool.
    ///
    /// # Errors
    /// No thread could be started, and there is none.
    pub(super) fn submit<O>(owner: &Arc<O>, of: fn(&O) -> &Self, job: J, run: fn(&Arc<O>, J)) -> io::Result<()>
    where
        O: Send + Sync + 'static,
    {
        let pool = of(owner);
        let mut state = pool.state();
        let Some(alive) = state.alive.clone() else { return Ok(()) };
        state.jobs.push_back(job);
        if state.idle >= state.jobs.len() || state.threads == pool.most {
            pool.work.notify_one();
            return Ok(());
        }
        match start(owner, of, alive, run) {
            Ok(()) => state.threads += 1,
            // Those there are will do it.
            Err(error) if state.threads > 0 => {
                tracing::warn!(%error, threads = state.threads, "cannot start a further thread for a 9P client");
                pool.work.notify_one();
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn work(&self, run: impl Fn(J)) {
        let mut state = self.state();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                run(job);
                state = self.state();
            } else if state.alive.is_none() {
                break;
            } else {
                state.idle += 1;
                let (again, timeout) = self.work.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
                state = again;
                state.idle -= 1;
                if timeout.timed_out() && state.jobs.is_empty() {
                    break;
                }
            }
        }
        state.threads -= 1;
    }

    /// Drops the jobs that wait, but has a thread do the `last` one. Threads end once they have done what they do.
    ///
    /// # Errors
    /// The last job: there is no thread, and none could be started.
    pub(super) fn close<O>(owner: &Arc<O>, of: fn(&O) -> &Self, last: Option<J>, run: fn(&Arc<O>, J)) -> Result<(), J>
    where
        O: Send + Sync + 'static,
    {
        let pool = of(owner);
        let mut state = pool.state();
        let Some(alive) = state.alive.take() else { return last.map_or(Ok(()), Err) };
        let dropped = std::mem::take(&mut state.jobs);
        state.jobs.extend(last);
        if !state.jobs.is_empty() && state.idle == 0 && state.threads < pool.most {
            match start(owner, of, alive, run) {
                Ok(()) => state.threads += 1,
                // Those there are will do it.
                Err(_) if state.threads > 0 => {}
                Err(_) => return state.jobs.pop_front().map_or(Ok(()), Err),
            }
        }
        drop(state);
        pool.work.notify_all();
        drop(dropped);
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts a thread that does jobs.
fn start<J, O>(owner: &Arc<O>, of: fn(&O) -> &Pool<J>, alive: mpsc::Sender<()>, run: fn(&Arc<O>, J)) -> io::Result<()>
where
    J: Send + 'static,
    O: Send + Sync + 'static,
{
    let shared = Arc::clone(owner);
    let thread = thread::Builder::new().name("uvm-p9".into()).spawn(move || {
        block_file_size_signal();
        of(&shared).work(|job| run(&shared, job));
        drop(shared);
        drop(alive);
    });
    thread.map(drop)
}

/// Has a write beyond the process's limit of a file's size fail (`EFBIG`), and nothing else. Unblocked, the signal that the
/// kernel then sends to the thread ends the process, and a client says where it writes.
fn block_file_size_signal() {
    if let Err(error) = SigSet::from(Signal::SIGXFSZ).thread_block() {
        tracing::warn!(%error, "a write of a 9P client beyond the limit of a file's size may end this process");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Whom a job tells that it has begun, and what it waits for then.
    struct Job(Sender<thread::ThreadId>, Option<Receiver<()>>);

    struct Owner(Pool<Job>);

    fn pool(most: usize) -> (Arc<Owner>, Gone) {
        let (pool, gone) = Pool::new(most);
        (Arc::new(Owner(pool)), gone)
    }

    fn of(owner: &Owner) -> &Pool<Job> {
        &owner.0
    }

    fn run(_: &Arc<Owner>, Job(begun, wait): Job) {
        begun.send(thread::current().id()).unwrap();
        // Whoever would let it go on may have gone.
        let _ = wait.map(|wait| wait.recv());
    }

    #[test]
    fn the_last_job_is_done_by_a_thread_even_if_there_is_none_so_far() {
        let (owner, mut gone) = pool(1);
        let (last, is_last) = channel();
        assert!(Pool::close(&owner, of, Some(Job(last, None)), run).is_ok());
        assert_ne!(is_last.recv().unwrap(), thread::current().id());
        assert_eq!(gone.blocking_recv(), None, "it has ended");
    }

    #[test]
    fn the_last_job_waits_for_a_thread_and_those_before_it_are_dropped() {
        let (owner, mut gone) = pool(1);
        let ((first, is_first), (waits, never), (last, is_last), (go, wait)) =
            (channel(), channel(), channel(), channel());
        Pool::submit(&owner, of, Job(first, Some(wait)), run).unwrap();
        let thread = is_first.recv().unwrap();
        Pool::submit(&owner, of, Job(waits, None), run).unwrap();
        assert!(Pool::close(&owner, of, Some(Job(last, None)), run).is_ok());
        assert!(is_last.try_recv().is_err(), "the only thread is taken");
        go.send(()).unwrap();
        assert_eq!(is_last.recv(), Ok(thread));
        assert!(never.recv().is_err());
        assert_eq!(gone.blocking_recv(), None);
    }
}
