//! The processes that were started through the bridge: who runs, how those ended that nobody has asked about yet.
//!
//! Children are reaped in one place, under the lock of the table, so that a signal never goes to a number that belongs to
//! somebody else by then. They are started without it: a program on a share of the host may take long to open, and what
//! answers for that share must go on. So a process may end before it is entered; while one is being started, the ends of
//! those that nobody knows are kept.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use rustix::termios::Winsize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::sys;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(u32),
    /// By this signal.
    Signal(u32),
}

impl Exit {
    fn of(status: WaitStatus) -> Self {
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Self::Code(code.unsigned_abs()),
            (None, signal) => Self::Signal(signal.unwrap_or_default().unsigned_abs()),
        }
    }
}

/// Which children this process reaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reap {
    /// All: it is PID 1, and every orphan becomes its child.
    All,
    /// Only those in the table: it is a guest of another program.
    Known,
}

/// Why something cannot be done to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProcessError {
    #[error("no process has this id")]
    Unknown,
    #[error("it has ended")]
    Ended,
    #[error("it has no terminal")]
    NoTerminal,
    #[error("{0}")]
    Os(Errno),
}

/// The table. Clones share it.
#[derive(Clone)]
pub struct Processes {
    shared: Arc<Mutex<Table>>,
    reap: Reap,
}

#[derive(Default)]
struct Table {
    entries: HashMap<u32, Entry>,
    /// How many are being started.
    starting: usize,
    /// Who has ended meanwhile and was not known.
    early: HashMap<u32, Exit>,
}

impl Table {
    /// A process is being started no more. How it has ended already, if it has.
    fn started(&mut self, pid: Option<Pid>) -> Option<Exit> {
        self.starting -= 1;
        let early = pid.and_then(|pid| {
            let exit = self.early.remove(&number(pid))?;
            // Else it was that of an earlier one with the same number, and this one is still to be reaped.
            (rustix::process::test_kill_process(pid) == Err(Errno::SRCH)).then_some(exit)
        });
        if self.starting == 0 {
            self.early = HashMap::new();
        }
        early
    }
}

fn number(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().unsigned_abs()
}

struct Entry {
    pid: Pid,
    terminal: Option<Arc<OwnedFd>>,
    /// What must be over before the end is told: the relays of a terminal.
    drained: watch::Receiver<bool>,
    exit: watch::Sender<Option<Exit>>,
}

impl Entry {
    /// It has ended so. What is known stays: its number may be another's by now.
    fn ended(&self, exit: Exit) {
        self.exit.send_if_modified(|known| {
            let news = known.is_none();
            known.get_or_insert(exit);
            news
        });
    }
}

impl Processes {
    /// An empty table.
    pub fn new(reap: Reap) -> Self {
        Self { shared: Arc::default(), reap }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a process by `spawn`, which may block, and enters it. Its end is told once `drained` says true.
    pub(crate) fn start(
        &self,
        terminal: Option<Arc<OwnedFd>>,
        drained: watch::Receiver<bool>,
        spawn: impl FnOnce() -> io::Result<Pid>,
    ) -> io::Result<u32> {
        self.lock().starting += 1;
        let spawned = spawn();
        let mut table = self.lock();
        let exit = table.started(spawned.as_ref().ok().copied());
        let pid = spawned?;
        let id = number(pid);
        // An old entry of the same number has ended and was never asked about; the number now means another process.
        table.entries.insert(id, Entry { pid, terminal, drained, exit: watch::Sender::new(exit) });
        drop(table);
        if self.reap == Reap::Known {
            // The signal of its end may have come before there was somebody to look for.
            self.reap();
        }
        Ok(id)
    }

    /// As [`start`](Self::start), on a thread of its own.
    pub(crate) async fn start_apart(
        &self,
        terminal: Option<Arc<OwnedFd>>,
        drained: watch::Receiver<bool>,
        spawn: impl FnOnce() -> io::Result<Pid> + Send + 'static,
    ) -> io::Result<u32> {
        let processes = self.clone();
        let started = tokio::task::spawn_blocking(move || processes.start(terminal, drained, spawn)).await;
        started.unwrap_or_else(|e| Err(io::Error::other(e)))
    }

    /// Waits for the end. The first who learns of it takes the process off the table; whoever waits at the same time
    /// learns of it too. `None`: it did not end in time, and in no time at all never does, as the protocol has it.
    pub(crate) async fn wait(&self, id: u32, timeout: Option<Duration>) -> Result<Option<Exit>, ProcessError> {
        let (mut exit, mut drained) = {
            let table = self.lock();
            let entry = table.entries.get(&id).ok_or(ProcessError::Unknown)?;
            (entry.exit.subscribe(), entry.drained.clone())
        };
        if timeout == Some(Duration::ZERO) {
            return Ok(None);
        }
        let ended = async {
            let status = exit.wait_for(Option::is_some).await.ok().and_then(|exit| *exit);
            // Whoever reports it may be gone: then there is nothing left to drain.
            let _ = drained.wait_for(|drained| *drained).await;
            status
        };
        let status = match timeout {
            None => ended.await,
            Some(timeout) => match tokio::time::timeout(timeout, ended).await {
                Ok(status) => status,
                Err(_) => return Ok(None),
            },
        };
        let status = status.ok_or(ProcessError::Unknown)?;
        let mut table = self.lock();
        // Another process may have the number by now.
        if table.entries.get(&id).is_some_and(|entry| *entry.exit.borrow() == Some(status)) {
            table.entries.remove(&id);
        }
        Ok(Some(status))
    }

    /// Follows the end of a process that was just started.
    pub(crate) fn follow(&self, id: u32) -> Option<watch::Receiver<Option<Exit>>> {
        self.lock().entries.get(&id).map(|entry| entry.exit.subscribe())
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, id: u32, signal: i32) -> Result<(), ProcessError> {
        let table = self.lock();
        let entry = table.entries.get(&id).ok_or(ProcessError::Unknown)?;
        if entry.exit.borrow().is_some() {
            return Err(ProcessError::Ended);
        }
        // Not reaped, since that happens under this lock: the number is still its own.
        match sys::signal(entry.pid, signal) {
            Ok(()) => Ok(()),
            Err(Errno::SRCH) => Err(ProcessError::Ended),
            Err(e) => Err(ProcessError::Os(e)),
        }
    }

    /// Signals everything there is to end: as PID 1 every process of the VM, else the group of each that runs.
    pub(crate) fn signal_all(&self, signal: Signal) {
        match self.reap {
            // The "group" of PID 1 is -1 to the system call: all but this process and the kernel's. There may be none.
            Reap::All => drop(rustix::process::kill_process_group(Pid::INIT, signal)),
            Reap::Known => {
                let table = self.lock();
                // Each leads a session of its own, and its number is its own while it is not reaped, under this lock.
                for entry in table.entries.values().filter(|entry| entry.exit.borrow().is_none()) {
                    // It may end just now.
                    let _ = rustix::process::kill_process_group(entry.pid, signal);
                }
            }
        }
    }

    /// Tells a process the size of its terminal. Success if it has ended and nobody has asked about it yet.
    pub(crate) fn resize(&self, id: u32, rows: u16, columns: u16) -> Result<(), ProcessError> {
        let table = self.lock();
        let entry = table.entries.get(&id).ok_or(ProcessError::Unknown)?;
        let terminal = entry.terminal.as_ref().ok_or(ProcessError::NoTerminal)?;
        if entry.exit.borrow().is_some() {
            return Ok(());
        }
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(terminal, size).map_err(ProcessError::Os)
    }

    /// Reaps whenever a child ends, from now on. To be called on the runtime.
    ///
    /// # Errors
    /// Signals cannot be watched.
    pub fn reap_on_signals(&self) -> io::Result<()> {
        let mut children = signal(SignalKind::child())?;
        let processes = self.clone();
        tokio::spawn(async move {
            while children.recv().await.is_some() {
                processes.reap();
            }
        });
        Ok(())
    }

    /// Takes note of every child that has ended.
    fn reap(&self) {
        let mut table = self.lock();
        match self.reap {
            Reap::All => {
                while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
                    let exit = Exit::of(status);
                    match table.entries.get(&number(pid)) {
                        Some(entry) => entry.ended(exit),
                        None if table.starting > 0 => drop(table.early.insert(number(pid), exit)),
                        // An orphan that nobody waits for.
                        None => {}
                    }
                }
            }
            Reap::Known => {
                for entry in table.entries.values().filter(|entry| entry.exit.borrow().is_none()) {
                    if let Ok(Some((_, status))) = rustix::process::waitpid(Some(entry.pid), WaitOptions::NOHANG) {
                        entry.ended(Exit::of(status));
                    }
                }
            }
        }
    }

    /// Ids of those that run, sorted.
    pub(crate) fn running(&self) -> Vec<u32> {
        let table = self.lock();
        let mut ids: Vec<u32> =
            table.entries.iter().filter(|(_, entry)| entry.exit.borrow().is_none()).map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;

    use super::*;
    use crate::sys::{Spawn, Stdio, spawn};

    fn start(processes: &Processes, script: &str) -> (u32, watch::Sender<bool>) {
        let arguments = ["sh", "-c", script].map(|word| CString::new(word).expect("no zero"));
        let (sender, drained) = watch::channel(true);
        let start = || {
            spawn(&Spawn {
                program: c"/bin/sh",
                arguments: &arguments,
                environment: &[],
                directory: c"/",
                stdio: Stdio::Descriptors([None; 3]),
            })
        };
        (processes.start(None, drained, start).expect("started"), sender)
    }

    /// Stands in for SIGCHLD.
    fn reap_soon(processes: &Processes) {
        let processes = processes.clone();
        tokio::spawn(async move {
            loop {
                processes.reap();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
    }

    #[tokio::test]
    async fn the_first_wait_takes_the_process_off_the_table() {
        let processes = Processes::new(Reap::Known);
        reap_soon(&processes);
        let (id, _drained) = start(&processes, "exec sleep 1000");
        // It ends once both wait: an end that is known already is taken by the first of them alone.
        let end = async { processes.signal(id, 15) };
        let (first, second, signal) = tokio::join!(processes.wait(id, None), processes.wait(id, None), end);
        assert_eq!((first, second), (Ok(Some(Exit::Signal(15))), Ok(Some(Exit::Signal(15)))));
        signal.expect("sent");
        assert_eq!(processes.wait(id, None).await, Err(ProcessError::Unknown));
        assert_eq!(processes.signal(id, 9), Err(ProcessError::Unknown));
    }

    #[tokio::test]
    async fn a_late_wait_still_gets_the_code() {
        let processes = Processes::new(Reap::Known);
        reap_soon(&processes);
        let (id, _drained) = start(&processes, "kill -15 $$");
        processes.follow(id).expect("there").wait_for(Option::is_some).await.expect("ended");
        assert_eq!(processes.signal(id, 9), Err(ProcessError::Ended));
        assert_eq!(processes.resize(id, 1, 1), Err(ProcessError::NoTerminal));
        assert_eq!(processes.running(), [] as [u32; 0]);
        assert_eq!(processes.wait(id, Some(Duration::ZERO)).await, Ok(None), "no time is never enough");
        assert_eq!(processes.wait(id, Some(Duration::from_millis(50))).await, Ok(Some(Exit::Signal(15))));
    }

    #[tokio::test]
    async fn a_timeout_leaves_the_process_as_it_is() {
        let processes = Processes::new(Reap::Known);
        reap_soon(&processes);
        let (id, _drained) = start(&processes, "exec sleep 1000");
        assert_eq!(processes.wait(id, Some(Duration::from_millis(5))).await, Ok(None));
        for signal in [999, -1, 0, 65] {
            assert_eq!(processes.signal(id, signal), Err(ProcessError::Os(Errno::INVAL)), "{signal}");
        }
        assert_eq!(processes.running(), [id]);
        processes.signal(id, 9).expect("sent");
        assert_eq!(processes.wait(id, None).await, Ok(Some(Exit::Signal(9))));
    }

    #[tokio::test]
    async fn the_guest_of_another_init_ends_its_own_processes_and_no_other() {
        let processes = Processes::new(Reap::Known);
        reap_soon(&processes);
        let mut stranger = std::process::Command::new("sleep").arg("1000").spawn().expect("started");
        let both = [start(&processes, "exec sleep 1000"), start(&processes, "sleep 1000; exit 1")];
        processes.signal_all(Signal::TERM);
        for (id, _drained) in &both {
            assert_eq!(processes.wait(*id, None).await, Ok(Some(Exit::Signal(15))));
        }
        assert!(stranger.try_wait().expect("asked").is_none(), "it is not ours");
        stranger.kill().expect("killed");
        stranger.wait().expect("waited");
    }

    #[tokio::test]
    async fn the_end_is_told_only_when_drained() {
        let processes = Processes::new(Reap::Known);
        reap_soon(&processes);
        let (id, drained) = start(&processes, "exit 0");
        drained.send_replace(false);
        assert_eq!(processes.wait(id, Some(Duration::from_millis(50))).await, Ok(None));
        drained.send_replace(true);
        assert_eq!(processes.wait(id, None).await, Ok(Some(Exit::Code(0))));
    }

    #[tokio::test]
    async fn real_time_signals_are_signals() {
        let processes = Processes::new(Reap::Known);
        reap_soon(&processes);
        for signal in [34, 37, 64] {
            let (id, _drained) = start(&processes, "exec sleep 1000");
            processes.signal(id, signal).expect("sent");
            assert_eq!(processes.wait(id, None).await, Ok(Some(Exit::Signal(signal.unsigned_abs()))));
        }
    }
}
