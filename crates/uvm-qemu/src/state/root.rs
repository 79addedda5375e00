//! The directory that holds one state directory a VM.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

use super::claim;

/// The directory that holds one state directory a VM. One user's VMs share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateRoot(PathBuf);

/// A VM with a living owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveVm {
    /// Its id.
    pub id: String,
    /// The process that owns it, as it wrote itself down; 0 if it has not yet.
    pub owner_pid: u32,
}

impl StateRoot {
    /// `$UVM_STATE_DIR`; else `/run/uvm` for root; else `$XDG_RUNTIME_DIR/uvm`; else `/tmp/uvm-UID`.
    pub fn default_path() -> PathBuf {
        if let Some(path) = std::env::var_os("UVM_STATE_DIR").filter(|p| !p.is_empty()) {
            return path.into();
        }
        let uid = rustix::process::geteuid();
        if uid.is_root() {
            return "/run/uvm".into();
        }
        match std::env::var_os("XDG_RUNTIME_DIR").filter(|p| !p.is_empty()) {
            Some(runtime) => PathBuf::from(runtime).join("uvm"),
            None => format!("/tmp/uvm-{}", uid.as_raw()).into(),
        }
    }

    /// Opens the directory, making it (mode 0700) if it is missing.
    ///
    /// # Errors
    /// It cannot be made or written, or belongs to another user: then whoever owns it could lead us to remove files.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        DirBuilder::new().mode(0o700).recursive(true).create(&path)?;
        let owner = fs::symlink_metadata(&path)?.uid();
        let own = rustix::process::geteuid().as_raw();
        if owner != own {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("it belongs to user {owner}, not to {own}; set UVM_STATE_DIR to a directory of your own"),
            ));
        }
        rustix::fs::access(&path, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)?;
        Ok(Self(path.canonicalize()?))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The VMs whose owner lives, without asking them.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn live(&self) -> io::Result<Vec<LiveVm>> {
        let mut live = Vec::new();
        for name in self.names()? {
            let _turn = self.turn()?;
            if let claim::Holder::Lives { owner_pid } = claim::holder(&self.0.join(&name))? {
                live.push(LiveVm { id: name, owner_pid });
            }
        }
        Ok(live)
    }

    /// The names of all state directories, sorted.
    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            if entry.file_type()?.is_dir()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Held while a state directory is made, looked at or taken over: closes the gap between a directory's making and its
    /// lock. Held for microseconds, so a long wait means a stopped process.
    pub(super) fn turn(&self) -> io::Result<File> {
        let dir = File::open(&self.0)?;
        lock_within(&dir, FlockOperation::NonBlockingLockExclusive, TURN_DEADLINE)?;
        Ok(dir)
    }
}

/// How long another process may hold the turn.
const TURN_DEADLINE: Duration = Duration::from_secs(10);

/// Takes a lock with a deadline: `flock` itself knows none.
fn lock_within(file: &File, operation: FlockOperation, deadline: Duration) -> io::Result<()> {
    let began = Instant::now();
    loop {
        match rustix::fs::flock(file, operation) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK) if began.elapsed() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("another process has held its lock for {deadline:?}"),
                ));
            }
            Err(e) => return Err(e.into()),
        }
    }
}
