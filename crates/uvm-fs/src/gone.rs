//! A share that is gone: what the guest still asks is answered, with an error.
//!
//! A guest whose share's process has died waits for what it has asked, for ever, and its kernel's thread that plugs devices
//! waits with it. So another process takes the queues over, for as long as it takes to unplug the device.

use std::io;
use std::time::Duration;

use virtiofsd::filesystem::{Context, Entry, FileSystem, OpenOptions, ZeroCopyReader, ZeroCopyWriter};
use virtiofsd::fuse::Attr;
use virtiofsd::read_dir::ReadDir;

/// No file system. What is not answered here is not implemented, which is an error, too.
pub(crate) struct Gone;

fn gone<T>() -> io::Result<T> {
    Err(io::Error::from_raw_os_error(libc::ENOTCONN))
}

impl FileSystem for Gone {
    type Inode = u64;
    type Handle = u64;
    type DirIter = ReadDir<Vec<u8>>;

    fn lookup(&self, _: Context, _: u64, _: &std::ffi::CStr) -> io::Result<Entry> {
        gone()
    }

    fn getattr(&self, _: Context, _: u64, _: Option<u64>) -> io::Result<(Attr, Duration)> {
        gone()
    }

    fn open(&self, _: Context, _: u64, _: bool, _: u32) -> io::Result<(Option<u64>, OpenOptions)> {
        gone()
    }

    fn opendir(&self, _: Context, _: u64, _: u32) -> io::Result<(Option<u64>, OpenOptions)> {
        gone()
    }

    fn read<W: ZeroCopyWriter>(
        &self,
        _: Context,
        _: u64,
        _: u64,
        _: W,
        _: u32,
        _: u64,
        _: Option<u64>,
        _: u32,
    ) -> io::Result<usize> {
        gone()
    }

    fn write<R: ZeroCopyReader>(
        &self,
        _: Context,
        _: u64,
        _: u64,
        _: R,
        _: u32,
        _: u64,
        _: Option<u64>,
        _: bool,
        _: bool,
        _: u32,
    ) -> io::Result<usize> {
        gone()
    }

    fn flush(&self, _: Context, _: u64, _: u64, _: u64) -> io::Result<()> {
        gone()
    }

    fn fsync(&self, _: Context, _: u64, _: bool, _: u64) -> io::Result<()> {
        gone()
    }

    fn statfs(&self, _: Context, _: u64) -> io::Result<libc::statvfs64> {
        gone()
    }

    fn readdir(&self, _: Context, _: u64, _: u64, _: u32, _: u64) -> io::Result<Self::DirIter> {
        gone()
    }
}
