//! Files of the host, as far as VMs are made of them.

use std::io;

use uvm_platform::BoxFuture;
pub use uvm_platform::FileKind;

use crate::win_path::WinPath;

/// Files of the host.
pub trait HostFiles {
    /// What is at the path; `None` if nothing is. Links are followed.
    fn stat<'a>(&'a self, path: &'a WinPath) -> BoxFuture<'a, io::Result<Option<FileStat>>>;

    /// Makes a directory whose parent is there.
    fn create_directory<'a>(&'a self, path: &'a WinPath) -> BoxFuture<'a, io::Result<()>>;

    /// Copies a file to where there is none. A copy that fails leaves nothing there.
    fn copy_new<'a>(&'a self, from: &'a WinPath, to: &'a WinPath) -> BoxFuture<'a, io::Result<()>>;

    /// Removes a file.
    fn remove_file<'a>(&'a self, path: &'a WinPath) -> BoxFuture<'a, io::Result<()>>;

    /// Removes an empty directory.
    fn remove_directory<'a>(&'a self, path: &'a WinPath) -> BoxFuture<'a, io::Result<()>>;

    /// Whether the file system of this directory gives its files ids, which direct mapping needs.
    fn has_file_ids<'a>(&'a self, directory: &'a WinPath) -> BoxFuture<'a, io::Result<bool>>;
}

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStat {
    /// What it is.
    pub kind: FileKind,
    /// Its size in bytes, of a file.
    pub size: u64,
}
