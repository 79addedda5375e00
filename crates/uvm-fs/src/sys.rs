//! The few calls that no safe wrapper has.

#![expect(unsafe_code, reason = "descriptors by number, and calls of the kernel that no crate here wraps")]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Takes two descriptors that the process was started with, and closes all others but the standard ones.
///
/// # Errors
/// One of them is not open.
pub(crate) fn take_descriptors(wanted: [RawFd; 2]) -> io::Result<[OwnedFd; 2]> {
    for number in wanted {
        // SAFETY: asks about a number and touches no memory.
        if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: called once, first thing in `main`, before anything else has been opened: both were inherited (checked
    // above), and nobody else in this process owns them.
    let taken = wanted.map(|number| unsafe { OwnedFd::from_raw_fd(number) });
    let mut first = 3;
    let mut kept = wanted;
    kept.sort_unstable();
    for next in kept.map(RawFd::cast_unsigned).into_iter().chain([u32::MAX]) {
        if first < next {
            // SAFETY: closes numbers that nothing in this process owns yet, the two taken above left out.
            let closed = unsafe { libc::syscall(libc::SYS_close_range, first, next.saturating_sub(1), 0) };
            if closed < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        first = next.saturating_add(1);
    }
    Ok(taken)
}

/// A write beyond the process's limit for files is an error of that write, and no end of the process.
pub(crate) fn outlive_limit_of_files() -> io::Result<()> {
    // SAFETY: to ignore a signal runs no code when it comes.
    if unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Leaves the namespaces of whoever started the process, for new ones.
pub(crate) fn unshare(namespaces: libc::c_int) -> io::Result<()> {
    // SAFETY: the process has one thread still, and the call touches no memory.
    check(unsafe { libc::unshare(namespaces) }.into())
}

/// Sets attributes (`MOUNT_ATTR_*`) of a mount that nobody else has, and of all below it.
pub(crate) fn set_mount_attributes(mount: BorrowedFd<'_>, attributes: u64) -> io::Result<()> {
    let change = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: the path is a static empty string, and the structure lives over the call and has the size that is told.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const change,
            size_of::<libc::mount_attr>(),
        )
    })
}

/// A call by its number, for tests of what is refused.
#[cfg(test)]
pub(crate) fn call(number: libc::c_long, arguments: [libc::c_long; 3]) -> io::Result<libc::c_long> {
    let [a, b, c] = arguments;
    // SAFETY: the tests pass small numbers alone, none of them an address that is mapped: no memory is touched.
    let result = unsafe { libc::syscall(number, a, b, c, 0, 0, 0) };
    check(result).map(|()| result)
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
