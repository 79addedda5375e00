//! System calls that no safe library has: starting a process (`spawn.rs`), who is told of the ends of children, signals without
//! names, crediting entropy, watching a descriptor, connecting a virtual socket, growing a file system, zeros on a disk.

#![expect(unsafe_code, reason = "C interfaces; each block says why it is sound")]

mod spawn;

use std::ffi::{c_int, c_ulong};
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

pub(crate) use spawn::{Spawn, Stdio, spawn};

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

/// These functions give an error number instead of setting `errno`.
fn check(error: c_int) -> io::Result<()> {
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
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
