//! Starting a process.
//!
//! As `posix_spawn` does it, with the parent's memory until the program runs (`CLONE_VM` and `CLONE_VFORK`), so that no page
//! tables are copied, and an error of the start is known at once. But C libraries hold a lock of the whole process meanwhile, and
//! a program on a share of the host may take for ever to open: nothing else could be started then.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::process::Pid;

use super::check;

/// A process to start.
pub(crate) struct Spawn<'a> {
    /// The path of the program; no search.
    pub(crate) program: &'a CStr,
    pub(crate) arguments: &'a [CString],
    /// `NAME=VALUE`, the whole environment.
    pub(crate) environment: &'a [CString],
    pub(crate) directory: &'a CStr,
    pub(crate) stdio: Stdio<'a>,
}

/// What the process has as descriptors 0 to 2.
pub(crate) enum Stdio<'a> {
    /// These; `None` is closed.
    Descriptors([Option<BorrowedFd<'a>>; 3]),
    /// This terminal, as all three and as the controlling one.
    Terminal(&'a CStr),
}

/// Signals have numbers up to this one.
const LAST_SIGNAL: c_int = 64;

/// For a few calls, one within the other.
#[repr(C, align(16))]
struct Stack([u8; 64 * 1024]);

/// What the child works on, in its parent's memory.
struct Child<'a> {
    spawn: &'a Spawn<'a>,
    arguments: Vec<*const c_char>,
    environment: Vec<*const c_char>,
    /// Of the call that failed.
    error: AtomicI32,
}

/// Starts a process in a session of its own, with default signal actions and no signal blocked. Waits until it runs the program:
/// as long as that takes to open.
pub(crate) fn spawn(spawn: &Spawn<'_>) -> io::Result<Pid> {
    let (arguments, environment) = (pointers(spawn.arguments), pointers(spawn.environment));
    let child = Child { spawn, arguments, environment, error: AtomicI32::new(0) };
    let mut stack = Box::<Stack>::new_uninit();
    let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: the sets are initialised before they are used. The thread waits for the child to run another program or to end
    // (`CLONE_VFORK`), so the stack and what `child` borrows outlive what the child does with them; the stack grows down from
    // its end, which is aligned as it has to be, and nothing else uses it. No signal's handler runs in the child, since all are
    // blocked when it begins.
    let (pid, failed) = unsafe {
        libc::sigfillset(all.as_mut_ptr());
        check(libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()))?;
        let top = stack.as_mut_ptr().add(1).cast::<c_void>();
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        let pid = libc::clone(run, top, flags, (&raw const child).cast_mut().cast());
        let failed = io::Error::last_os_error();
        check(libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()))?;
        (pid, failed)
    };
    let pid = Pid::from_raw(pid).filter(|_| pid > 0).ok_or(failed)?;
    match child.error.load(Ordering::Acquire) {
        0 => Ok(pid),
        error => {
            // Whoever takes note of all children may have done so first.
            let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
            Err(io::Error::from_raw_os_error(error))
        }
    }
}

/// The child's beginning.
extern "C" fn run(child: *mut c_void) -> c_int {
    // SAFETY: it is the `Child` of the thread that waits in `spawn`, which nothing changes meanwhile but for its atomic.
    let child = unsafe { &*child.cast::<Child<'_>>() };
    child.error.store(child.execute(), Ordering::Release);
    127
}

impl Child<'_> {
    /// Runs the program; the error's number if that fails. It is in the child, with the memory and the locks of the parent's
    /// threads as they are: so nothing but system calls, no allocation and no panic.
    fn execute(&self) -> c_int {
        let Spawn { program, directory, .. } = self.spawn;
        // SAFETY: signal sets and actions are made of numbers, for which zero is a value, and outlive their calls; strings are C
        // strings, and lists end with a null pointer; all of them outlive the parent's wait.
        unsafe {
            // A handler must not run here, with the parent's memory, and what is ignored would stay so in the program. Of the
            // few that cannot be set the default is the only action, or they are the C library's own.
            let action: libc::sigaction = mem::zeroed();
            for signal in 1..=LAST_SIGNAL {
                libc::sigaction(signal, &raw const action, ptr::null_mut());
            }
            if libc::setsid() < 0 || !self.take_stdio() {
                return last_error();
            }
            // The program gets none of them. Until it runs, one may be an end of what another process that is being started writes
            // to, whose reader waits for the last. Kernels before 5.9 do not know the call: the reader does wait there.
            libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0);
            if libc::chdir(directory.as_ptr()) < 0 {
                return last_error();
            }
            let mut none = MaybeUninit::uninit();
            libc::sigemptyset(none.as_mut_ptr());
            libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut());
            libc::execve(program.as_ptr(), self.arguments.as_ptr(), self.environment.as_ptr());
        }
        last_error()
    }

    /// Descriptors 0 to 2.
    fn take_stdio(&self) -> bool {
        match self.spawn.stdio {
            Stdio::Descriptors(given) => {
                // One of them may have the number that another is to get.
                let Some(given) = all(given.map(|fd| fd.map(|fd| above(fd.as_raw_fd())))) else { return false };
                (0..).zip(given).all(|(target, fd)| {
                    if let Some(fd) = fd {
                        // SAFETY: both are numbers of descriptors of the child's own table.
                        unsafe { libc::dup2(fd, target) >= 0 }
                    } else {
                        // SAFETY: as above. It may be closed already.
                        unsafe { libc::close(target) };
                        true
                    }
                })
            }
            Stdio::Terminal(path) => {
                // SAFETY: the path is a C string. The first terminal that a session leader opens becomes its controlling one.
                let terminal = above(unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) });
                // SAFETY: numbers of descriptors of the child's own table.
                terminal >= 0 && (0..3).all(|target| unsafe { libc::dup2(terminal, target) } >= 0)
            }
        }
    }
}

/// The same descriptor, above those of standard streams, closed when the program runs; negative if that fails.
fn above(fd: c_int) -> c_int {
    if (0..3).contains(&fd) {
        // SAFETY: asks for a number that nobody in the child's own table has.
        unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) }
    } else {
        fd
    }
}

/// Nothing if one of them could not be had.
fn all(fds: [Option<c_int>; 3]) -> Option<[Option<c_int>; 3]> {
    fds.iter().flatten().all(|fd| *fd >= 0).then_some(fds)
}

fn last_error() -> c_int {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// The strings' addresses, and the null pointer at the end of such a list.
fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;

    use rustix::process::WaitOptions;

    use super::*;

    fn strings(words: &[&str]) -> Vec<CString> {
        words.iter().map(|word| CString::new(*word).expect("no zero")).collect()
    }

    fn run(script: &str, stdio: Stdio<'_>) -> i32 {
        let child = Spawn {
            program: c"/bin/sh",
            arguments: &strings(&["sh", "-c", script]),
            environment: &strings(&["A=b c", "PATH=/usr/bin:/bin"]),
            directory: c"/tmp",
            stdio,
        };
        let pid = spawn(&child).expect("spawned");
        let (_, status) = rustix::process::waitpid(Some(pid), WaitOptions::empty()).expect("waited").expect("ended");
        status.exit_status().unwrap_or(-1)
    }

    #[test]
    fn a_process_gets_what_it_is_given_and_nothing_else() {
        let (mut read, write) = io::pipe().expect("a pipe");
        let script = "pwd; echo $A; ls /proc/self/fd; cut -d' ' -f5,6 /proc/$$/stat; echo $$ $$";
        let code = run(script, Stdio::Descriptors([None, Some(write.as_fd()), None]));
        drop(write);
        let mut text = String::new();
        read.read_to_string(&mut text).expect("text");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((code, &lines[..2]), (0, &["/tmp", "b c"][..]), "{text}");
        // 1, and what ls opened for itself.
        assert_eq!(lines.iter().filter(|line| ["0", "2"].contains(line)).count(), 1, "{text}");
        let [.., group_and_session, pid] = lines[..] else { panic!("{text}") };
        assert_eq!(group_and_session, pid, "a session of its own");
    }

    #[test]
    fn ignored_signals_are_not_inherited() {
        let (mut read, write) = io::pipe().expect("a pipe");
        let code = run("grep SigIgn /proc/self/status", Stdio::Descriptors([None, Some(write.as_fd()), None]));
        drop(write);
        let mut text = String::new();
        read.read_to_string(&mut text).expect("text");
        let ignored = text.trim().strip_prefix("SigIgn:\t").and_then(|mask| u64::from_str_radix(mask, 16).ok());
        let pipe = 1 << (libc::SIGPIPE - 1);
        assert_eq!((code, ignored.map(|mask| mask & pipe)), (0, Some(0)), "{text}");
    }

    #[test]
    fn errors_of_the_start_are_errors_of_spawn() {
        let start = |program: &CStr, directory: &CStr| {
            let stdio = Stdio::Descriptors([None; 3]);
            spawn(&Spawn { program, arguments: &strings(&["x"]), environment: &[], directory, stdio })
                .expect_err("it cannot start")
                .kind()
        };
        assert_eq!(start(c"/nonexistent", c"/"), io::ErrorKind::NotFound);
        assert_eq!(start(c"/etc/passwd", c"/"), io::ErrorKind::PermissionDenied);
        assert_eq!(start(c"/bin/true", c"/nonexistent"), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_terminal_becomes_the_controlling_one() {
        let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
        let master = rustix::pty::openpt(flags).expect("a pty");
        rustix::pty::grantpt(&master).expect("granted");
        rustix::pty::unlockpt(&master).expect("unlocked");
        let path = rustix::pty::ptsname(&master, Vec::new()).expect("a name");
        assert_eq!(run("test -t 0 && test -t 2 && : </dev/tty", Stdio::Terminal(&path)), 0);
    }
}
