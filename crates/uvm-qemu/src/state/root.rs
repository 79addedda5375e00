//! The directory that holds one state directory a VM.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use uvm_platform::UvmId;

use super::dir::{self, Holder};

/// The directory that holds one state directory a VM. One user's VMs share it. Whatever else is in it is left alone.
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
    /// It cannot be made or written, or another user owns it or may write it: they could lead us to remove files.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        DirBuilder::new().mode(0o700).recursive(true).create(&path)?;
        // Neither a link somebody else made, nor what it leads to.
        let link = fs::symlink_metadata(&path)?.uid();
        let path = path.canonicalize()?;
        let found = fs::metadata(&path)?;
        let own = rustix::process::geteuid().as_raw();
        let denied = |why: String| {
            let why = format!("{why}; allowed is a directory that only user {own} may write: set UVM_STATE_DIR to one");
            Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
        };
        if let Some(owner) = [link, found.uid()].into_iter().find(|&owner| owner != own) {
            return denied(format!("{} belongs to user {owner}, not to {own}", path.display()));
        }
        let mode = found.mode() & 0o7777;
        if mode & dir::OTHERS_WRITE != 0 {
            return denied(format!("{} has mode {mode:04o}: others than its owner may write it", path.display()));
        }
        rustix::fs::access(&path, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)?;
        Ok(Self(path))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The VMs whose owner lives, without asking them. Writes nothing; a state directory that cannot be read is logged.
    ///
    /// # Errors
    /// The root cannot be read or locked.
    pub fn live(&self) -> io::Result<Vec<LiveVm>> {
        let mut live = Vec::new();
        for id in self.entries()?.vms {
            let turn = self.turn()?;
            let holder = Holder::of(&self.0.join(&id));
            drop(turn);
            match holder {
                Ok(Holder::Lives { owner_pid }) => live.push(LiveVm { id, owner_pid }),
                Ok(Holder::Nobody(_) | Holder::NoVm) => {}
                Err(e) => tracing::warn!(vm = id, error = %e, "a state directory cannot be used"),
            }
        }
        Ok(live)
    }

    /// The directories in it that may be VMs', by their names; sorted.
    pub(super) fn entries(&self) -> io::Result<Entries> {
        let mut entries = Entries::default();
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            // An entry that is just going is none.
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if UvmId::new(name.as_str()).is_ok() {
                entries.vms.push(name);
            } else if let Some(id) = dir::id_of_part(&name) {
                let id = id.to_owned();
                entries.parts.push((name, id));
            }
        }
        entries.vms.sort();
        entries.parts.sort();
        Ok(entries)
    }

    /// Held while a state directory is made or looked at: closes the gap between a directory's making and its lock. Held for
    /// microseconds, so a long wait means a stopped process.
    pub(super) fn turn(&self) -> io::Result<File> {
        let dir = File::open(&self.0)?;
        lock_within(&dir, FlockOperation::NonBlockingLockExclusive, TURN_DEADLINE)?;
        Ok(dir)
    }
}

/// What may be VMs' in a root.
#[derive(Debug, Default)]
pub(super) struct Entries {
    /// Names that are ids.
    pub(super) vms: Vec<String>,
    /// Names of directories in the making or in removal, each with its VM's id.
    pub(super) parts: Vec<(String, String)>,
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_root_that_others_may_write_is_refused_with_path_and_mode() {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("root");
        StateRoot::open(&path).expect("made");
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o7777, 0o700);
        for (mode, allowed) in [(0o777, false), (0o1777, false), (0o770, false), (0o755, true)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
            match StateRoot::open(&path) {
                Ok(_) => assert!(allowed, "{mode:o}"),
                Err(e) => {
                    let text = e.to_string();
                    assert!(!allowed && text.contains(&format!("{mode:04o}")) && text.contains("root"), "{text}");
                }
            }
        }
    }

    #[test]
    fn a_root_of_somebody_else_is_refused_also_behind_a_link() {
        if !rustix::process::geteuid().is_root() {
            // Only root can give a directory away.
            return;
        }
        let place = tempfile::tempdir().expect("a directory");
        let (path, link) = (place.path().join("root"), place.path().join("link"));
        fs::create_dir(&path).expect("made");
        std::os::unix::fs::chown(&path, Some(65_534), None).expect("given away");
        std::os::unix::fs::symlink(&path, &link).expect("made");
        for path in [path, link] {
            let error = StateRoot::open(path).expect_err("not ours").to_string();
            assert!(error.contains("belongs to user 65534"), "{error}");
        }
    }
}
