//! System calls that no safe library has: starting a process, who is told of the ends of children, signals without names,
//! crediting entropy, watching a descriptor, connecting a virtual socket, growing a file system, zeros on a disk.

#![expect(unsafe_code, reason = "C interfaces; each block says why it is sound")]

use std::ffi::{CStr, CString, c_char, c_int, c_short, c_ulong};
use std::fs::File;
use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// `EXT4_IOC_RESIZE_FS`, `_IOW('f', 16, __u64)`.
const EXT4_IOC_RESIZE_FS: c_ulong = 0x4008_6610;
/// `XFS_IOC_FSGROWFSDATA`, `_IOW('X', 110, struct xfs_growfs_data)`.
const XFS_IOC_FSGROWFSDATA: c_ulong = 0x4010_586e;

/// `BLKZEROOUT`, `_IO(0x12, 127)`.
const BLKZEROOUT: c_ulong = 0x127f;

/// Has a block device write zeros, in its own way where it has one.
pub(crate) fn zero_out(device: &File, at: u64, length: u64) -> io::Result<()> {
    let range = [at, length];
    // SAFETY: the descriptor is open; the call reads two numbers of 64 bits at the address, which are those of `range`.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), BLKZEROOUT as _, &raw const range) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has the mounted ext4 that `directory` is in grow to so many of its blocks.
pub(crate) fn grow_ext4(directory: BorrowedFd<'_>, blocks: u64) -> io::Result<()> {
    // SAFETY: the descriptor is open; the call reads 8 bytes at the address, which are those of `blocks`.
    let result = unsafe { libc::ioctl(directory.as_raw_fd(), EXT4_IOC_RESIZE_FS as _, &raw const blocks) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has the mounted XFS that `directory` is in grow to so many of its blocks, of which so many in a hundred may be inodes.
pub(crate) fn grow_xfs(directory: BorrowedFd<'_>, blocks: u64, inode_percent: u8) -> io::Result<()> {
    /// `struct xfs_growfs_data`.
    #[repr(C)]
    struct GrowData {
        blocks: u64,
        inode_percent: u32,
    }
    let data = GrowData { blocks, inode_percent: inode_percent.into() };
    // SAFETY: the descriptor is open; the call reads a `struct xfs_growfs_data` at the address, of the same layout as `data`.
    let result = unsafe { libc::ioctl(directory.as_raw_fd(), XFS_IOC_FSGROWFSDATA as _, &raw const data) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

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

/// POSIX 2024; musl and glibc have it.
const POSIX_SPAWN_SETSID: c_short = 0x80;

unsafe extern "C" {
    /// Not in the libc crate for every C library that has it.
    fn posix_spawn_file_actions_addchdir_np(
        actions: *mut libc::posix_spawn_file_actions_t,
        path: *const c_char,
    ) -> c_int;
}

/// Starts a process in a session of its own, with default signal actions and no signal blocked.
///
/// Uses `posix_spawn`, which in musl borrows the parent's memory (`CLONE_VM | CLONE_VFORK`): no page tables are copied, and
/// an error of the program's start is known when it returns.
pub(crate) fn spawn(spawn: &Spawn<'_>) -> io::Result<Pid> {
    let mut actions = Actions::new()?;
    let mut attributes = Attributes::new()?;
    // SAFETY: both objects are initialised and live; the strings are C strings that outlive the call of posix_spawn, and
    // so does every descriptor, which is borrowed.
    let pid = unsafe {
        check(posix_spawn_file_actions_addchdir_np(actions.as_mut(), spawn.directory.as_ptr()))?;
        match spawn.stdio {
            Stdio::Descriptors(descriptors) => {
                for (target, descriptor) in (0..).zip(descriptors) {
                    check(match descriptor {
                        Some(fd) => libc::posix_spawn_file_actions_adddup2(actions.as_mut(), fd.as_raw_fd(), target),
                        None => libc::posix_spawn_file_actions_addclose(actions.as_mut(), target),
                    })?;
                }
            }
            // The first terminal that a session leader opens becomes its controlling one.
            Stdio::Terminal(path) => {
                check(libc::posix_spawn_file_actions_addopen(actions.as_mut(), 0, path.as_ptr(), libc::O_RDWR, 0))?;
                check(libc::posix_spawn_file_actions_adddup2(actions.as_mut(), 0, 1))?;
                check(libc::posix_spawn_file_actions_adddup2(actions.as_mut(), 0, 2))?;
            }
        }
        let mut signals = MaybeUninit::uninit();
        libc::sigemptyset(signals.as_mut_ptr());
        check(libc::posix_spawnattr_setsigmask(attributes.as_mut(), signals.as_ptr()))?;
        // Signals with a handler get their default action by exec; an ignored one (Rust ignores SIGPIPE) would stay so.
        libc::sigaddset(signals.as_mut_ptr(), libc::SIGPIPE);
        check(libc::posix_spawnattr_setsigdefault(attributes.as_mut(), signals.as_ptr()))?;
        let flags = POSIX_SPAWN_SETSID | (libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF) as c_short;
        check(libc::posix_spawnattr_setflags(attributes.as_mut(), flags))?;

        let arguments = pointers(spawn.arguments);
        let environment = pointers(spawn.environment);
        let mut pid = 0;
        check(libc::posix_spawn(
            &raw mut pid,
            spawn.program.as_ptr(),
            actions.as_mut(),
            attributes.as_mut(),
            arguments.as_ptr(),
            environment.as_ptr(),
        ))?;
        pid
    };
    Pid::from_raw(pid).ok_or_else(|| io::Error::other("posix_spawn gave no process id"))
}

/// The strings' addresses, and the null pointer at the end of such a list. C declares them mutable and does not change
/// them.
fn pointers(strings: &[CString]) -> Vec<*mut c_char> {
    strings.iter().map(|string| string.as_ptr().cast_mut()).chain([ptr::null_mut()]).collect()
}

/// These functions give an error number instead of setting `errno`.
fn check(error: c_int) -> io::Result<()> {
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

struct Actions(Box<MaybeUninit<libc::posix_spawn_file_actions_t>>);

impl Actions {
    fn new() -> io::Result<Self> {
        let mut actions = Box::new(MaybeUninit::uninit());
        // SAFETY: initialises the object, whose address does not change while it lives.
        check(unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) })?;
        Ok(Self(actions))
    }

    fn as_mut(&mut self) -> *mut libc::posix_spawn_file_actions_t {
        self.0.as_mut_ptr()
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: initialised by `new`.
        unsafe { libc::posix_spawn_file_actions_destroy(self.as_mut()) };
    }
}

struct Attributes(Box<MaybeUninit<libc::posix_spawnattr_t>>);

impl Attributes {
    fn new() -> io::Result<Self> {
        let mut attributes = Box::new(MaybeUninit::uninit());
        // SAFETY: initialises the object, whose address does not change while it lives.
        check(unsafe { libc::posix_spawnattr_init(attributes.as_mut_ptr()) })?;
        Ok(Self(attributes))
    }

    fn as_mut(&mut self) -> *mut libc::posix_spawnattr_t {
        self.0.as_mut_ptr()
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialised by `new`.
        unsafe { libc::posix_spawnattr_destroy(self.as_mut()) };
    }
}

/// Sends a signal of any number, those for real-time use included: of these no safe library has names.
pub(crate) fn signal(process: Pid, signal: c_int) -> Result<(), Errno> {
    // 0 would only ask whether the process is there.
    if signal == 0 {
        return Err(Errno::INVAL);
    }
    // SAFETY: takes two numbers. The process is not this one but a child, which `Pid` cannot make a group of.
    match unsafe { libc::kill(process.as_raw_nonzero().get(), signal) } {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)),
    }
}

/// From now on, the calling thread is not the one that is told of the end of a child; nor are those that it starts.
pub(crate) fn block_child_signals() -> io::Result<()> {
    mask_child_signals(libc::SIG_BLOCK)
}

/// The calling thread may be told of the end of a child.
pub(crate) fn unblock_child_signals() -> io::Result<()> {
    mask_child_signals(libc::SIG_UNBLOCK)
}

fn mask_child_signals(how: c_int) -> io::Result<()> {
    let mut signals = MaybeUninit::uninit();
    // SAFETY: the set is initialised before it is used, and outlives the calls; the old mask is not asked for.
    check(unsafe {
        libc::sigemptyset(signals.as_mut_ptr());
        libc::sigaddset(signals.as_mut_ptr(), libc::SIGCHLD);
        libc::pthread_sigmask(how, signals.as_ptr(), ptr::null_mut())
    })
}

/// Bytes of entropy that one call credits.
const ENTROPY_MAX: usize = 512;

/// `RNDADDENTROPY` of random(4).
const RNDADDENTROPY: libc::Ioctl = 0x4008_5203_u32 as libc::Ioctl;

/// Mixes `bytes` (at most 512) into the kernel's pool and credits all of their bits.
pub(crate) fn add_entropy(random: &File, bytes: &[u8]) -> io::Result<()> {
    #[repr(C)]
    struct PoolInfo {
        bits: c_int,
        bytes: c_int,
        buffer: [u8; ENTROPY_MAX],
    }
    let bytes = &bytes[..bytes.len().min(ENTROPY_MAX)];
    let count = c_int::try_from(bytes.len()).unwrap_or(0);
    let mut info = PoolInfo { bits: 8 * count, bytes: count, buffer: [0; ENTROPY_MAX] };
    info.buffer[..bytes.len()].copy_from_slice(bytes);
    // SAFETY: the request reads a structure of this layout, of which it uses as many bytes of the buffer as it says.
    if unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, &raw const info) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// What owns a descriptor for as long as it lives, and always the same one.
pub(crate) trait Owns: AsRawFd {}

impl Owns for OwnedFd {}
impl Owns for Arc<OwnedFd> {}
impl Owns for File {}

/// Lets the runtime watch a descriptor. To be called on the runtime.
pub(crate) fn watch<T: Owns>(owner: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: the owner keeps its descriptor open and the same until it is dropped, and `AsyncFd` owns the owner.
    unsafe { AsyncFd::register_with_interest(owner, interest) }.map_err(io::Error::from)
}

/// Makes a virtual socket that is on its way to `port` of the host, and does not block.
pub(crate) fn begin_vsock_to_host(port: u32) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::VSOCK, SocketType::STREAM, flags, None)?;
    // SAFETY: the structure is made of numbers, for all of which zero is a value.
    let mut address: libc::sockaddr_vm = unsafe { mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    address.svm_cid = libc::VMADDR_CID_HOST;
    address.svm_port = port;
    let length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address is initialised, outlives the call, and has the length that is given.
    if unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length) } == 0 {
        return Ok(socket);
    }
    match Errno::from_io_error(&io::Error::last_os_error()) {
        Some(Errno::INPROGRESS) => Ok(socket),
        Some(errno) => Err(errno.into()),
        None => Err(io::ErrorKind::Other.into()),
    }
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
