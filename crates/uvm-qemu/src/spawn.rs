//! Starting processes that die with their owner.
//!
//! One named thread per program forks every child and never ends: the parent-death signal follows the *thread* that
//! forked, so a child forked on a pool's thread would die when that thread idles out. In the child, in this order:
//! cgroups, own session, groups, gid, uid, parent-death signal (changing the uid clears it), a check that the owner still
//! lives, exec. Each child has a thread that waits for it, so its end is noticed with or without an async runtime.

#![expect(
    unsafe_code,
    reason = "code between fork and exec cannot be expressed safely; each block says why it is sound"
)]

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;

use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::sync::watch;

/// The user a child runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RunAs {
    /// User id.
    pub(crate) uid: u32,
    /// Group id.
    pub(crate) gid: u32,
    /// Further groups; the child is in no other.
    pub(crate) groups: Vec<u32>,
}

/// A process to start.
#[derive(Debug)]
pub(crate) struct ChildSpec {
    pub(crate) program: PathBuf,
    /// What it is called in lists of processes, if not by its path.
    pub(crate) called: Option<OsString>,
    pub(crate) arguments: Vec<OsString>,
    /// Inherited under the numbers they have here; every other descriptor is closed at exec.
    pub(crate) inherit: Vec<OwnedFd>,
    /// Standard output and error both go here.
    pub(crate) output: OwnedFd,
    pub(crate) run_as: Option<RunAs>,
    /// Open `cgroup.procs` files the child writes itself into.
    pub(crate) cgroups: Vec<OwnedFd>,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChildExit {
    Code(i32),
    Signal(i32),
}

/// A running or ended child. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct ChildProcess {
    pid: Pid,
    pidfd: Arc<OwnedFd>,
    exit: watch::Receiver<Option<ChildExit>>,
}

impl ChildProcess {
    /// Starts `spec`; `at_exit` runs on the waiting thread once the child is reaped, before anyone learns of it.
    pub(crate) async fn spawn(spec: ChildSpec, at_exit: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        let order = Order { spec, reply };
        spawner()?.send(order).map_err(|_| io::Error::other("the spawner thread is gone"))?;
        let child = answer.await.map_err(|_| io::Error::other("the spawner thread dropped the order"))??;
        Self::watch(child, at_exit)
    }

    fn watch(mut child: Child, at_exit: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let pid = Pid::from_child(&child);
        // Not reaped yet, so the number cannot have been given to another process.
        let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Arc::new(pidfd),
            Err(e) => {
                child.kill()?;
                child.wait()?;
                return Err(e.into());
            }
        };
        let (sender, exit) = watch::channel(None);
        thread::Builder::new().name(format!("uvm-wait-{}", child.id())).stack_size(WAITER_STACK).spawn(move || {
            let status = child.wait();
            at_exit();
            let exit = match status {
                Ok(status) => match (status.code(), status.signal()) {
                    (Some(code), _) => ChildExit::Code(code),
                    (None, signal) => ChildExit::Signal(signal.unwrap_or(0)),
                },
                // Only if something else in this program reaps our children.
                Err(_) => ChildExit::Code(-1),
            };
            // Nobody may be listening any more.
            let _ = sender.send(Some(exit));
        })?;
        Ok(Self { pid, pidfd, exit })
    }

    pub(crate) fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Kills it at once. Success if it has already ended.
    pub(crate) fn kill(&self) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(self.pidfd.as_fd(), Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// How it ended, if it does within `deadline`.
    pub(crate) async fn wait(&self, deadline: std::time::Duration) -> Option<ChildExit> {
        let mut exit = self.exit();
        let ended = exit.wait_for(Option::is_some);
        tokio::time::timeout(deadline, ended).await.ok()?.ok().and_then(|exit| *exit)
    }

    /// Follows the exit: `None` while it runs.
    pub(crate) fn exit(&self) -> watch::Receiver<Option<ChildExit>> {
        self.exit.clone()
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        // Failing means that it has ended or never ran; the waiting thread reaps it in either case.
        let _ = self.kill();
    }
}

/// What a waiting thread needs: it only waits and sends.
const WAITER_STACK: usize = 64 * 1024;

struct Order {
    spec: ChildSpec,
    reply: tokio::sync::oneshot::Sender<io::Result<Child>>,
}

/// The way to the one thread that forks.
fn spawner() -> io::Result<&'static mpsc::Sender<Order>> {
    static SPAWNER: OnceLock<io::Result<mpsc::Sender<Order>>> = OnceLock::new();
    let started = SPAWNER.get_or_init(|| {
        let (sender, orders) = mpsc::channel::<Order>();
        thread::Builder::new().name("uvm-spawner".into()).spawn(move || {
            for order in orders {
                // A caller that gave up gets no child: dropping one that runs would leave it unwatched.
                if let Err(Ok(mut child)) = order.reply.send(start(order.spec)) {
                    let _ = child.kill();
                    let _ = child.wait();
                }
            }
        })?;
        Ok(sender)
    });
    started.as_ref().map_err(|e| io::Error::new(e.kind(), e.to_string()))
}

fn start(spec: ChildSpec) -> io::Result<Child> {
    let stderr = spec.output.try_clone()?;
    let mut command = Command::new(&spec.program);
    command.args(&spec.arguments).env_clear().stdin(Stdio::null()).stdout(spec.output).stderr(stderr).current_dir("/");
    if let Some(called) = &spec.called {
        command.arg0(called);
    }
    let in_child = InChild {
        inherit: spec.inherit.iter().map(AsRawFd::as_raw_fd).collect(),
        cgroups: spec.cgroups.iter().map(AsRawFd::as_raw_fd).collect(),
        run_as: spec.run_as,
        owner: rustix::process::getpid(),
    };
    // SAFETY: the closure runs in the forked child, where only async-signal-safe calls are allowed: it makes system calls
    // on values computed before the fork, and neither allocates nor locks.
    unsafe {
        command.pre_exec(move || in_child.prepare());
    }
    let child = command.spawn();
    // The descriptors of the spec must live until the fork has happened.
    drop(spec.inherit);
    drop(spec.cgroups);
    child
}

/// What the child does between fork and exec; plain numbers, ready before the fork.
struct InChild {
    inherit: Vec<RawFd>,
    cgroups: Vec<RawFd>,
    run_as: Option<RunAs>,
    owner: Pid,
}

impl InChild {
    fn prepare(&self) -> io::Result<()> {
        for &cgroup in &self.cgroups {
            // SAFETY: writes one byte from a static to a descriptor that the parent opened and keeps open over the fork.
            check(unsafe { libc::write(cgroup, b"0".as_ptr().cast(), 1) })?;
        }
        // A terminal's interrupt goes to its foreground process group: the VM must not be in it.
        // SAFETY: setsid takes no argument and touches no memory.
        check(unsafe { libc::setsid() } as isize)?;
        // Descriptors that the owner itself inherited carry no close-on-exec flag: the VM must not get them.
        // SAFETY: close_range only sets flags on descriptor numbers.
        check(unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) } as isize)?;
        for &fd in &self.inherit {
            // SAFETY: clears a flag of a descriptor that the parent opened and keeps open over the fork.
            check(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } as isize)?;
        }
        if let Some(RunAs { uid, gid, groups }) = &self.run_as {
            // SAFETY: the raw system calls change the credentials of this single-threaded child only; the list of groups
            // was allocated before the fork and is read by the kernel only.
            unsafe {
                check(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) as isize)?;
                check(libc::syscall(libc::SYS_setresgid, *gid, *gid, *gid) as isize)?;
                check(libc::syscall(libc::SYS_setresuid, *uid, *uid, *uid) as isize)?;
            }
        }
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // If the owner died before the line above, the signal will never come.
        if rustix::process::getppid() != Some(self.owner) {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    }
}

fn check(result: isize) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn child(script: &str) -> (ChildSpec, std::fs::File) {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
        let spec = ChildSpec {
            program: "/bin/sh".into(),
            called: None,
            arguments: vec!["-c".into(), script.into()],
            inherit: vec![],
            output: write,
            run_as: None,
            cgroups: vec![],
        };
        (spec, read.into())
    }

    async fn ended(child: &ChildProcess) -> ChildExit {
        child.exit().wait_for(Option::is_some).await.expect("it ends").expect("it has ended")
    }

    #[tokio::test]
    async fn exit_codes_and_signals_are_told_apart() {
        let (spec, _out) = child("exit 7");
        assert_eq!(ended(&ChildProcess::spawn(spec, || ()).await.expect("sh")).await, ChildExit::Code(7));
        let (spec, _out) = child("kill -9 $$");
        assert_eq!(ended(&ChildProcess::spawn(spec, || ()).await.expect("sh")).await, ChildExit::Signal(9));
    }

    #[tokio::test]
    async fn a_missing_program_is_an_error_of_spawn() {
        let (mut spec, _out) = child("");
        spec.program = "/nonexistent/qemu".into();
        let error = ChildProcess::spawn(spec, || ()).await.expect_err("there is no such program");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn the_child_gets_only_the_descriptors_it_is_given() {
        let (spec, mut out) = child("ls /proc/self/fd");
        // Without close-on-exec, as a careless library leaves them.
        let stray = std::fs::File::open("/dev/null").expect("/dev/null");
        rustix::io::fcntl_setfd(&stray, rustix::io::FdFlags::empty()).expect("a flag");
        let (given, _other) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let number = given.as_raw_fd().to_string();
        let spec = ChildSpec { inherit: vec![given.into()], ..spec };
        let child = ChildProcess::spawn(spec, || ()).await.expect("sh");
        assert_eq!(ended(&child).await, ChildExit::Code(0));
        let mut listed = String::new();
        out.read_to_string(&mut listed).expect("text");
        assert!(listed.lines().any(|fd| fd == number), "{listed}");
        assert!(!listed.lines().any(|fd| fd == stray.as_raw_fd().to_string()), "{listed}");
    }

    #[tokio::test]
    async fn a_dropped_child_is_killed_and_its_exit_hook_runs() {
        let (spec, _out) = child("exec sleep 1000");
        let (sender, receiver) = mpsc::channel();
        let child = ChildProcess::spawn(spec, move || sender.send(()).expect("a listener")).await.expect("sh");
        let mut exit = child.exit();
        drop(child);
        let status = *exit.wait_for(Option::is_some).await.expect("it ends");
        assert_eq!(status, Some(ChildExit::Signal(9)));
        receiver.try_recv().expect("the hook ran before the exit was told");
    }

    #[tokio::test]
    async fn a_child_runs_in_its_own_session_with_a_death_signal_check() {
        let (spec, mut out) = child("cut -d' ' -f6 /proc/self/stat; echo $PPID");
        let child = ChildProcess::spawn(spec, || ()).await.expect("sh");
        let id = child.id();
        ended(&child).await;
        let mut text = String::new();
        out.read_to_string(&mut text).expect("text");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines, [id.to_string(), std::process::id().to_string()]);
    }
}
