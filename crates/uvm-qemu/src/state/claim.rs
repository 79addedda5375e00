//! One VM's state directory: claimed by a lock, which ends with its owner however that ends.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use uvm_platform::UvmId;

use super::dir::{self, Holder};
use super::journal::{HostObject, Journal};
use super::{StateRoot, gc, journal};
use crate::kill_point::kill_point;

/// A state directory this process owns. [`remove`](Self::remove) it when nothing it lists is left.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    dir: OwnedFd,
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

impl StateDir {
    /// Claims the directory for `id`. What an earlier owner left there is removed first, which may take seconds.
    pub(crate) fn claim(root: &StateRoot, id: &UvmId) -> Result<Self, ClaimError> {
        let path = root.path().join(id.as_str());
        let io = |source| ClaimError::Io { path: path.clone(), source };
        kill_point("before:state-dir");
        let began = Instant::now();
        let turn = loop {
            let turn = root.turn().map_err(io)?;
            match Holder::of(&path).map_err(io)? {
                Holder::NoVm => break turn,
                Holder::Lives { owner_pid } if lives(owner_pid) || began.elapsed() > RECLAIM_DEADLINE => {
                    return Err(ClaimError::Taken { owner_pid });
                }
                // Its owner is dead: another process is removing what it left.
                Holder::Lives { .. } => {
                    drop(turn);
                    std::thread::sleep(Duration::from_millis(5));
                }
                Holder::Nobody(orphan) => {
                    // Its lock is held: nobody else needs to wait.
                    drop(turn);
                    gc::reclaim(&path, orphan).map_err(io)?;
                }
            }
        };
        if path.symlink_metadata().is_ok() {
            return Err(io(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "it is there, and not a VM's state directory",
            )));
        }
        let claimed = Self::make(&path).map_err(io)?;
        drop(turn);
        kill_point("after:state-dir");
        Ok(claimed)
    }

    /// Makes it under another name: at its own it has its lock and its journal, or does not exist.
    fn make(path: &Path) -> io::Result<Self> {
        let (part, dir) = dir::make_part(path)?;
        kill_point("half:state-dir");
        let filled = Self::fill(dir.as_fd()).and_then(|filled| Ok(dir::rename(&part, path).map(|()| filled)?));
        match filled {
            Ok((lock, journal)) => Ok(Self { path: path.to_owned(), dir, journal, _lock: lock }),
            Err(e) => {
                // The first error is the one to tell.
                let _ = dir::discard(&part, dir.as_fd());
                Err(e)
            }
        }
    }

    fn fill(dir: BorrowedFd<'_>) -> io::Result<(File, Journal)> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
        let lock = File::from(rustix::fs::openat(dir, dir::LOCK, flags, Mode::RUSR | Mode::WUSR)?);
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        let journal = Journal::create(dir)?;
        journal.append(&HostObject::Owner { pid: std::process::id() })?;
        Ok((lock, journal))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes `object` down; to be called before it is made.
    pub(crate) fn register(&self, object: &HostObject) -> io::Result<()> {
        self.journal.append(object)
    }

    /// Removes everything that is written down, then the directory. After an error it may be tried again.
    pub(crate) fn remove(&mut self) -> io::Result<()> {
        // No journal: an earlier attempt came as far as that.
        gc::remove_objects(&journal::read(self.dir.as_fd())?.unwrap_or_default())?;
        dir::remove(&mut self.path, self.dir.as_fd())
    }
}

/// How long another process may take to remove what a dead owner left.
const RECLAIM_DEADLINE: Duration = Duration::from_secs(10);

fn lives(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::state::{Reclaimed, gc};

    fn root() -> (tempfile::TempDir, StateRoot) {
        let dir = tempfile::tempdir().expect("a directory");
        let root = StateRoot::open(dir.path().join("a/b")).expect("a root");
        (dir, root)
    }

    fn id() -> UvmId {
        UvmId::new("vm-1").expect("valid")
    }

    fn ids(root: &StateRoot, dry: bool) -> Vec<String> {
        gc(root, dry).expect("gc").into_iter().map(|reclaimed| reclaimed.id).collect()
    }

    /// Everything below `dir`, with what files hold.
    fn tree(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let mut all = Vec::new();
        for entry in fs::read_dir(dir).expect("readable") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                all.extend(tree(&path));
                all.push((path, Vec::new()));
            } else {
                let held = fs::read(&path).expect("readable");
                all.push((path, held));
            }
        }
        all.sort();
        all
    }

    #[test]
    fn a_second_claim_names_the_owner() {
        let (_dir, root) = root();
        let mut held = StateDir::claim(&root, &id()).expect("free");
        let error = StateDir::claim(&root, &id()).expect_err("taken");
        assert_eq!(error.to_string(), format!("process {} owns it", std::process::id()));
        assert_eq!(root.live().expect("readable").len(), 1);
        held.remove().expect("removed");
        assert_eq!(root.live().expect("readable"), []);
        StateDir::claim(&root, &id()).expect("free again").remove().expect("removed");
        assert_eq!(tree(root.path()), []);
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
        let mut next = StateDir::claim(&root, &id()).expect("reclaimed");
        assert!(!left.exists());
        next.remove().expect("removed");
    }

    #[test]
    fn gc_takes_only_what_nobody_owns_and_a_dry_run_takes_nothing() {
        let (_dir, root) = root();
        let mut live = StateDir::claim(&root, &UvmId::new("live").expect("valid")).expect("free");
        drop(StateDir::claim(&root, &id()).expect("free"));
        // Killed right after mkdir, and right after the lock's making.
        for half in [".uvm-part-half-0", ".uvm-part-half-1"] {
            fs::create_dir(root.path().join(half)).expect("made");
        }
        fs::write(root.path().join(".uvm-part-half-1/lock"), "").expect("made");
        let before = tree(root.path());
        assert_eq!(ids(&root, true), ["vm-1", "half", "half"]);
        assert_eq!(tree(root.path()), before);
        assert_eq!(ids(&root, false), ["vm-1", "half", "half"]);
        assert!(ids(&root, false).is_empty());
        assert!(root.path().join("live").exists());
        live.remove().expect("removed");
        assert_eq!(tree(root.path()), []);
    }

    #[test]
    fn what_is_not_a_vms_is_neither_removed_nor_written_to() {
        let (_dir, root) = root();
        let at = |name: &str| root.path().join(name);
        for dir in ["photos", "vm-1", "empty", "locked", "kept", ".uvm-part-", ".uvm-part-notes", ".new-x"] {
            fs::create_dir(at(dir)).expect("made");
        }
        for file in ["file", "photos/1.jpg", "vm-1/data", "locked/lock", "kept/journal"] {
            fs::write(at(file), "mine").expect("written");
        }
        std::os::unix::fs::symlink(at("photos"), at("link")).expect("made");
        let before = tree(root.path());
        assert_eq!(gc(&root, true).expect("gc"), []);
        assert_eq!(gc(&root, false).expect("gc"), []);
        assert_eq!(root.live().expect("readable"), []);
        let error = StateDir::claim(&root, &id()).expect_err("somebody's");
        let cause = std::error::Error::source(&error).expect("a cause").to_string();
        assert!(error.to_string().contains("vm-1") && cause.contains("not a VM's"), "{error}: {cause}");
        StateDir::claim(&root, &UvmId::new("empty").expect("valid")).expect_err("an empty one is somebody's too");
        assert_eq!(tree(root.path()), before);
    }

    #[test]
    fn a_file_that_no_vm_made_keeps_the_directory_and_is_named() {
        let (_dir, root) = root();
        let mut claimed = StateDir::claim(&root, &id()).expect("free");
        let strange = root.path().join("vm-1/thesis.tex");
        fs::write(&strange, "mine").expect("written");
        let error = claimed.remove().expect_err("not empty").to_string();
        assert!(error.contains("thesis.tex"), "{error}");
        drop(claimed);
        let told = gc(&root, false).expect("gc");
        let [Reclaimed { error: Some(error), .. }] = &told[..] else { panic!("{told:?}") };
        assert!(error.contains("thesis.tex"), "{error}");
        assert_eq!(fs::read(&strange).expect("there"), b"mine");
        fs::remove_file(strange).expect("moved away");
        assert_eq!(gc(&root, false).expect("gc")[0].error, None);
        assert_eq!(tree(root.path()), []);
    }

    #[test]
    fn a_removal_that_failed_can_be_tried_again() {
        let (dir, root) = root();
        // A file object that is a directory cannot be unlinked.
        let stubborn = dir.path().join("stubborn");
        fs::create_dir(&stubborn).expect("made");
        let mut claimed = StateDir::claim(&root, &id()).expect("free");
        claimed.register(&HostObject::File { path: stubborn.clone() }).expect("registered");
        claimed.remove().expect_err("a directory");
        claimed.remove().expect_err("still");
        fs::remove_dir(&stubborn).expect("gone");
        claimed.remove().expect("removed");
        assert_eq!(tree(root.path()), []);
    }

    #[test]
    fn a_bad_state_directory_is_told_of_and_keeps_no_other_from_being_removed() {
        let (_dir, root) = root();
        for name in ["binary", "fifo", "foreign", "open", "symlink", "z-good"] {
            drop(StateDir::claim(&root, &UvmId::new(name).expect("valid")).expect("free"));
        }
        let journal = |name: &str| root.path().join(name).join("journal");
        fs::write(journal("binary"), b"\xff\xfe\n").expect("written");
        fs::remove_file(journal("fifo")).expect("removed");
        rustix::fs::mknodat(rustix::fs::CWD, journal("fifo"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).expect("made");
        fs::remove_file(journal("symlink")).expect("removed");
        std::os::unix::fs::symlink(journal("z-good"), journal("symlink")).expect("made");
        fs::set_permissions(root.path().join("open"), fs::Permissions::from_mode(0o777)).expect("set");
        let mut bad = vec!["binary", "fifo", "open", "symlink"];
        // Only root can give a file away; elsewhere it is as good as any other.
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(journal("foreign"), Some(65_534), None).expect("given away");
            bad.insert(2, "foreign");
        }
        assert_eq!(root.live().expect("readable"), []);
        let told = gc(&root, false).expect("gc");
        let failed: Vec<&str> = told.iter().filter(|vm| vm.error.is_some()).map(|vm| vm.id.as_str()).collect();
        assert_eq!(failed, bad, "{told:?}");
        assert!(bad.iter().all(|name| root.path().join(name).exists()));
        assert!(!root.path().join("z-good").exists());
        StateDir::claim(&root, &UvmId::new("open").expect("valid")).expect_err("others may have written it");
    }

    #[test]
    fn removing_what_is_left_of_one_vm_keeps_nobody_from_the_others() {
        let (_dir, root) = root();
        drop(StateDir::claim(&root, &id()).expect("free"));
        // As one who reclaims it holds it.
        let held = match Holder::of(&root.path().join("vm-1")).expect("readable") {
            Holder::Nobody(orphan) => orphan,
            other => panic!("{other:?}"),
        };
        let mut other = StateDir::claim(&root, &UvmId::new("vm-2").expect("valid")).expect("free");
        assert_eq!(ids(&root, false), [""; 0]);
        other.remove().expect("removed");
        held.remove(&root.path().join("vm-1")).expect("removed");
    }
}
