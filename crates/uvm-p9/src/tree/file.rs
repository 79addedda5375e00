//! Open regular files.

use std::os::fd::OwnedFd;

use rustix::fs::{fdatasync, fsync, ftruncate};
use rustix::io::{Errno, pread, pwrite, retry_on_intr};

use super::descriptors::Permit;

/// An open regular file. All I/O is at offsets of its own, so that any number of requests run at once.
#[derive(Debug)]
pub struct File {
    fd: OwnedFd,
    _permit: Permit,
}

impl File {
    pub(super) fn new(fd: OwnedFd, permit: Permit) -> Self {
        Self { fd, _permit: permit }
    }

    /// Fills `buffer` from `offset` on, as far as the file goes. Returns how many bytes there were.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
        let mut done = 0;
        while done < buffer.len() {
            let at = offset.checked_add(done as u64).ok_or(Errno::INVAL)?;
            match retry_on_intr(|| pread(&self.fd, &mut buffer[done..], at)) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Writes `data` from `offset` on, or to the end of a file that is opened so. Returns how many bytes were written:
    /// fewer when something went wrong after these.
    pub fn write_at(&self, data: &[u8], offset: u64) -> Result<usize, Errno> {
        let mut done = 0;
        while done < data.len() {
            let at = offset.checked_add(done as u64).ok_or(Errno::FBIG)?;
            match retry_on_intr(|| pwrite(&self.fd, &data[done..], at)) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Waits until the data are on the disk, and the attributes unless `data_only`.
    pub fn sync(&self, data_only: bool) -> Result<(), Errno> {
        if data_only { fdatasync(&self.fd) } else { fsync(&self.fd) }
    }

    pub(super) fn set_len(&self, size: u64) -> Result<(), Errno> {
        retry_on_intr(|| ftruncate(&self.fd, size))
    }
}
