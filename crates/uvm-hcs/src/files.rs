//! Where guests boot from on a Windows host.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uvm_platform::{BoxFuture, FileKind, PlatformFiles};

use crate::host::HcsHost;
use crate::win_path::WinPath;

/// The files of a Windows host, as far as one program goes.
pub(crate) struct HcsFiles {
    host: Arc<dyn HcsHost>,
    executable: Option<WinPath>,
    program_files: Option<WinPath>,
}

impl HcsFiles {
    pub(crate) fn new(host: Arc<dyn HcsHost>, executable: Option<WinPath>, program_files: Option<WinPath>) -> Self {
        Self { host, executable, program_files }
    }

    /// For the program that runs.
    pub(crate) fn of_this_program(host: Arc<dyn HcsHost>) -> Self {
        let executable = std::env::current_exe().ok().and_then(|path| WinPath::from_std(&path));
        let program_files = std::env::var("ProgramFiles").ok().map(WinPath::new);
        Self::new(host, executable, program_files)
    }
}

impl PlatformFiles for HcsFiles {
    fn program_name(&self) -> String {
        self.executable.as_ref().and_then(WinPath::file_name).unwrap_or_default().to_owned()
    }

    /// `LinuxBootFiles` beside the program if it is there, else `Linux Containers` among the system's programs.
    fn boot_files<'a>(&'a self, named: Option<&'a Path>) -> BoxFuture<'a, io::Result<Option<PathBuf>>> {
        Box::pin(async move {
            if let Some(named) = named {
                return Ok(Some(named.to_owned()));
            }
            if let Some(beside) = self.executable.as_ref().and_then(WinPath::parent) {
                let beside = beside.join("LinuxBootFiles");
                if self.host.stat(&beside).await?.is_some() {
                    return Ok(Some(PathBuf::from(beside.as_str())));
                }
            }
            let programs = self.program_files.as_ref();
            let programs = programs.ok_or_else(|| io::Error::other("the variable ProgramFiles is not set"))?;
            Ok(Some(PathBuf::from(programs.join("Linux Containers").as_str())))
        })
    }

    fn join(&self, directory: &Path, name: &Path) -> PathBuf {
        match (WinPath::from_std(directory), name.to_str()) {
            (Some(directory), Some(name)) => PathBuf::from(directory.join(name).as_str()),
            // What is not Unicode is refused when it is looked at.
            _ => directory.join(name),
        }
    }

    fn kind<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<Option<FileKind>>> {
        Box::pin(async move {
            let not_unicode = || io::Error::new(io::ErrorKind::InvalidInput, "the path is not Unicode");
            let path = WinPath::from_std(path).ok_or_else(not_unicode)?;
            Ok(self.host.stat(&path).await?.map(|stat| stat.kind))
        })
    }
}
