//! Files of this machine.

use std::fs;
use std::io;
use std::os::windows::ffi::OsStrExt;
use std::os::windows::fs::OpenOptionsExt;
use std::os::windows::io::AsRawHandle;
use std::path::PathBuf;
use std::thread;

use tokio::sync::oneshot;
use uvm_platform::BoxFuture;
use windows_sys::Win32::Storage::FileSystem::{
    CopyFileW, FILE_FLAG_BACKUP_SEMANTICS, FILE_ID_INFO, FILE_SHARE_DELETE, FILE_SHARE_READ, FILE_SHARE_WRITE,
    FileIdInfo, GetFileInformationByHandleEx,
};

use super::ComputeCore;
use crate::host::{FileKind, FileStat, HostFiles};
use crate::win_path::WinPath;

/// Does `work` with the path on a thread of its own.
fn at<'a, T: Send + 'static>(
    path: &WinPath,
    work: impl FnOnce(PathBuf) -> io::Result<T> + Send + 'static,
) -> BoxFuture<'a, io::Result<T>> {
    let path = PathBuf::from(path.as_str());
    Box::pin(async move {
        let (reply, answer) = oneshot::channel();
        let work = move || {
            // A caller that gave up does not want the answer.
            let _ = reply.send(work(path));
        };
        thread::Builder::new().name("uvm-hcs-files".into()).spawn(work)?;
        answer.await.unwrap_or_else(|_| Err(io::Error::other("an internal error (panic)")))
    })
}

impl HostFiles for ComputeCore {
    fn stat<'a>(&'a self, path: &'a WinPath) -> BoxFuture<'a, io::Result<Option<FileStat>>> {
        at(path, |path| match fs::metadata(path) {
            Ok(found) if found.is_file() => Ok(Some(FileStat { kind: FileKind::File, size: found.len() })),
            Ok(found) if found.is_dir() => Ok(Some(FileStat { kind: FileKind::Directory, size: 0 })),
            Ok(_) => Ok(Some(FileStat { kind: FileKind::Other, size: 0 })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        })
    }

    fn create_directory<'a>(&'a self, path: &'a WinPath) -> BoxFuture<'a, io::Result<()>> {
        at(path, fs::create_dir)
    }

    fn copy_new<'a>(&'a self, from: &'a WinPath, to: &'a WinPath) -> BoxFuture<'a, io::Result<()>> {
        let from = PathBuf::from(from.as_str());
        at(to, move |to| {
            let wide = |path: &PathBuf| path.as_os_str().encode_wide().chain([0]).collect::<Vec<u16>>();
            let (from, to) = (wide(&from), wide(&to));
            // SAFETY: both are terminated texts. The system removes a copy that it cannot finish.
            let copied = unsafe { CopyFileW(from.as_ptr(), to.as_ptr(), 1) };
            if copied == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
        })
    }

    fn remove_file<'a>(&'a self, path: &'a WinPath) -> BoxFuture<'a, io::Result<()>> {
        at(path, fs::remove_file)
    }

    fn remove_directory<'a>(&'a self, path: &'a WinPath) -> BoxFuture<'a, io::Result<()>> {
        at(path, fs::remove_dir)
    }

    fn has_file_ids<'a>(&'a self, directory: &'a WinPath) -> BoxFuture<'a, io::Result<bool>> {
        at(directory, |directory| {
            let directory = fs::OpenOptions::new()
                .access_mode(0)
                .share_mode(FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE)
                .custom_flags(FILE_FLAG_BACKUP_SEMANTICS)
                .open(directory)?;
            let mut id = FILE_ID_INFO::default();
            // SAFETY: the directory is open, and the information is valid for a write of its own size.
            let told = unsafe {
                GetFileInformationByHandleEx(
                    directory.as_raw_handle(),
                    FileIdInfo,
                    (&raw mut id).cast(),
                    size_of::<FILE_ID_INFO>() as u32,
                )
            };
            // Whatever the reason, its files cannot be mapped.
            Ok(told != 0)
        })
    }
}
