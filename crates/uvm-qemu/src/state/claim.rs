//! One VM's state directory: claimed by a lock, which ends with its owner however that ends.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use uvm_platform::UvmId;

use super::journal::{self, HostObject, Journal};
use super::{StateRoot, gc};
use crate::kill_point::kill_point;

/// A state directory this process owns. [`remove`](Self::remove) it when nothing it lists is left.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    journal: Journal,
    /// Locked. Whether an owner lives is told by this lock, not by a pid.
    _lock: File,
}

/// Why a state directory cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClaimError {
    #[error("process {owner_pid} owns it")]
    Taken { owner_pid: u32 },
    #[error("{path}")]
    Io { path: PathBuf, source: io::Error },
}

pub(super) enum Holder {
    Lives {
        owner_pid: u32,
    },
    /// Nobody; the lock is ours now.
    Nobody(File),
    /// The directory is gone.
    Gone,
}

const LOCK: &str = "lock";

impl StateDir {
    /// Claims the directory for `id`. What an earlier owner left there is removed first.
    pub(crate) fn claim(root: &StateRoot, id: &UvmId) -> Result<Self, ClaimError> {
        let path = root.path().join(id.as_str());
        let io = |source| ClaimError::Io { path: path.clone(), source };
        kill_point("before:state-dir");
        let turn = root.turn().map_err(io)?;
        match holder(&path).map_err(io)? {
            Holder::Lives { owner_pid } => return Err(ClaimError::Taken { owner_pid }),
            Holder::Nobody(lock) => gc::reclaim(&path, lock).map_err(io)?,
            Holder::Gone => {}
        }
        DirBuilder::new().mode(0o700).create(&path).map_err(io)?;
        let claimed = Self::fill(&path);
        drop(turn);
        match claimed {
            Ok(claimed) => {
                kill_point("after:state-dir");
                Ok(claimed)
            }
            Err(e) => {
                // The first error is the one to tell.
                let _ = fs::remove_dir_all(&path);
                Err(io(e))
            }
        }
    }

    fn fill(path: &Path) -> io::Result<Self> {
        let lock = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path.join(LOCK))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        let journal = Journal::create(path)?;
        journal.append(&HostObject::Owner { pid: std::process::id() })?;
        Ok(Self { path: path.to_owned(), journal, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes `object` down; to be called before it is made.
    pub(crate) fn register(&self, object: &HostObject) -> io::Result<()> {
        self.journal.append(object)
    }

    /// Removes everything that is written down, then the directory.
    pub(crate) fn remove(self) -> io::Result<()> {
        gc::remove_objects(&journal::read(&self.path)?)?;
        fs::remove_dir_all(&self.path)
    }
}

/// Who holds the directory at `path`. To be called with the root's turn.
pub(super) fn holder(path: &Path) -> io::Result<Holder> {
    let lock = match OpenOptions::new().write(true).open(path.join(LOCK)) {
        Ok(lock) => lock,
        Err(e) if e.kind() == io::ErrorKind::NotFound && !path.exists() => return Ok(Holder::Gone),
        // Killed between the making of the directory and of its lock: nothing was registered yet.
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(path.join(LOCK))?
        }
        Err(e) => return Err(e),
    };
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Holder::Nobody(lock)),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let owner_pid = journal::read(path)?.into_iter().find_map(|object| match object {
                HostObject::Owner { pid } => Some(pid),
                _ => None,
            });
            Ok(Holder::Lives { owner_pid: owner_pid.unwrap_or(0) })
        }
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> (tempfile::TempDir, StateRoot) {
        let dir = tempfile::tempdir().expect("a directory");
        let root = StateRoot::open(dir.path().join("a/b")).expect("a root");
        (dir, root)
    }

    fn id() -> UvmId {
        UvmId::new("vm-1").expect("valid")
    }

    #[test]
    fn a_second_claim_names_the_owner() {
        let (_dir, root) = root();
        let held = StateDir::claim(&root, &id()).expect("free");
        let error = StateDir::claim(&root, &id()).expect_err("taken");
        assert_eq!(error.to_string(), format!("process {} owns it", std::process::id()));
        assert_eq!(root.live().expect("readable").len(), 1);
        held.remove().expect("removed");
        assert_eq!(root.live().expect("readable"), []);
        StateDir::claim(&root, &id()).expect("free again").remove().expect("removed");
    }

    #[test]
    fn a_dead_owners_leftovers_are_removed_by_the_next_claim() {
        let (dir, root) = root();
        let left = dir.path().join("left.sock");
        let dead = StateDir::claim(&root, &id()).expect("free");
        dead.register(&HostObject::File { path: left.clone() }).expect("registered");
        fs::write(&left, "").expect("made");
        // The lock goes with its descriptor, as it does when a process is killed.
        drop(dead);
        assert_eq!(root.live().expect("readable"), []);
        let next = StateDir::claim(&root, &id()).expect("reclaimed");
        assert!(!left.exists());
        next.remove().expect("removed");
    }

    #[test]
    fn gc_takes_only_what_nobody_owns_and_a_dry_run_takes_nothing() {
        let (_dir, root) = root();
        let live = StateDir::claim(&root, &UvmId::new("live").expect("valid")).expect("free");
        drop(StateDir::claim(&root, &id()).expect("free"));
        // Killed right after mkdir.
        fs::create_dir(root.path().join("half")).expect("made");
        let ids = |dry: bool| -> Vec<String> {
            gc(&root, dry).expect("gc").into_iter().map(|reclaimed| reclaimed.id).collect()
        };
        assert_eq!(ids(true), ["half", "vm-1"]);
        assert_eq!(ids(false), ["half", "vm-1"]);
        assert!(ids(false).is_empty());
        assert!(root.path().join("live").exists());
        live.remove().expect("removed");
    }
}
