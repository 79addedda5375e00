//! Open regular files.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, fchmod, fdatasync, fstat, fsync, ftruncate};
use rustix::io::{Errno, pread, pwrite, retry_on_intr};
use rustix::thread::{CapabilitySet, capabilities};

use super::descriptors::Permit;
use super::plain_mode;

/// An open regular file. All I/O is at offsets of its own, so that any number of requests run at once.
#[derive(Debug)]
pub struct File {
    fd: OwnedFd,
    set_id: SetId,
    _permit: Permit,
}

/// Who takes set-user-id and set-group-id from a file that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SetId {
    /// The kernel, with each write.
    Kernel,
    /// This server: the kernel leaves them to a process that may set them (`CAP_FSETID`), as root's may.
    Server,
}

impl SetId {
    pub(super) fn of_process() -> Result<Self, Errno> {
        let may_set = capabilities(None)?.effective.contains(CapabilitySet::FSETID);
        Ok(if may_set { Self::Server } else { Self::Kernel })
    }
}

impl File {
    pub(super) fn new(fd: OwnedFd, set_id: SetId, permit: Permit) -> Self {
        Self { fd, set_id, _permit: permit }
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
    /// fewer when something went wrong after these. Set-user-id and set-group-id are taken from the file.
    pub fn write_at(&self, data: &[u8], offset: u64) -> Result<usize, Errno> {
        if self.set_id == SetId::Server && !data.is_empty() {
            // With each write: the host may have set them since the file was opened.
            self.drop_set_id()?;
        }
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

    fn drop_set_id(&self) -> Result<(), Errno> {
        let mode = fstat(&self.fd)?.st_mode;
        if mode & (Mode::SUID | Mode::SGID).as_raw_mode() == 0 { Ok(()) } else { fchmod(&self.fd, plain_mode(mode)) }
    }

    /// Waits until the data are on the disk, and the attributes unless `data_only`.
    pub fn sync(&self, data_only: bool) -> Result<(), Errno> {
        if data_only { fdatasync(&self.fd) } else { fsync(&self.fd) }
    }

    pub(super) fn set_len(&self, size: u64) -> Result<(), Errno> {
        retry_on_intr(|| ftruncate(&self.fd, size))
    }
}
