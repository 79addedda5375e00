//! Files read and written by way of mappings. The only unsafe code here.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ptr::null_mut;

use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};

/// Offsets of mappings are multiples of this: a page on x86-64.
const PAGE: usize = 4096;

/// Reads the bytes through a shared mapping.
pub(crate) fn read(file: &File, at: usize, bytes: &mut [u8]) -> io::Result<()> {
    with(file, at, bytes.len(), ProtFlags::READ, |mapped| {
        // SAFETY: `mapped` is `bytes.len()` bytes of a mapping that is there until this returns, and `bytes` is not in it.
        unsafe { std::ptr::copy_nonoverlapping(mapped, bytes.as_mut_ptr(), bytes.len()) };
    })
}

/// Writes the bytes through a shared mapping, and waits until they are with whoever serves the file.
pub(crate) fn write(file: &File, at: usize, bytes: &[u8]) -> io::Result<()> {
    with(file, at, bytes.len(), ProtFlags::READ | ProtFlags::WRITE, |mapped| {
        // SAFETY: as above, and the mapping may be written.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), mapped, bytes.len()) };
    })
}

/// Maps a range of a file for the time of `work`. The range lies within the file, and nobody else cuts the file: the kernel
/// would end this program (`SIGBUS`), and with it the test.
fn with(file: &File, at: usize, length: usize, access: ProtFlags, work: impl FnOnce(*mut u8)) -> io::Result<()> {
    let within = at % PAGE;
    let whole = within + length;
    // SAFETY: a new mapping at an address that the kernel chooses: nothing refers to it yet.
    let start = unsafe { mmap(null_mut(), whole, access, MapFlags::SHARED, file, (at - within) as u64) }?;
    // SAFETY: `within` is less than `whole`, the length of the mapping (or both are 0 bytes apart).
    work(unsafe { start.cast::<u8>().add(within) });
    // SAFETY: the mapping made above, in its whole length; nothing refers to it after this.
    let synced = unsafe { msync(start, whole, MsyncFlags::SYNC) };
    // SAFETY: as above.
    unsafe { munmap(start, whole) }?;
    Ok(synced?)
}
