//! What a VM has on the host besides descriptors, and who removes it when.
//!
//! It may go only when QEMU is gone, and it must go when nobody owns the VM any more; the two come in either order and are
//! noticed on different threads. Whoever comes second removes.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::state::{HostObject, StateDir};

/// A VM's state directory and everything that is written down in it. Clones share it; dropping the last one removes it.
#[derive(Clone, Debug)]
pub(crate) struct Residue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// `None` once it has been removed. Locked during removal, which may take seconds.
    dir: Mutex<Option<StateDir>>,
}

#[derive(Debug)]
struct State {
    process: Process,
    owned: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Process {
    None,
    Lives,
}

impl Residue {
    pub(crate) fn new(dir: StateDir) -> Self {
        let state = Mutex::new(State { process: Process::None, owned: true });
        Self(Arc::new(Shared { state, dir: Mutex::new(Some(dir)) }))
    }

    /// The directory; whatever is in it goes with it.
    pub(crate) fn dir(&self) -> io::Result<PathBuf> {
        match &*lock(&self.0.dir) {
            Some(dir) => Ok(dir.path().to_owned()),
            None => Err(removed()),
        }
    }

    /// Writes `object` down; to be called before it is made.
    pub(crate) fn register(&self, object: &HostObject) -> io::Result<()> {
        match &*lock(&self.0.dir) {
            Some(dir) => dir.register(object),
            None => Err(removed()),
        }
    }

    /// From now on it must stay until what is returned is dropped: when QEMU has been reaped, or has never run.
    pub(crate) fn process_starts(&self) -> ProcessGone {
        lock(&self.0.state).process = Process::Lives;
        ProcessGone(self.clone())
    }

    fn process_gone(&self) {
        let mut state = lock(&self.0.state);
        state.process = Process::None;
        let owned = state.owned;
        drop(state);
        if !owned {
            self.remove_or_warn();
        }
    }

    /// Nobody owns the VM any more: remove it now, or as soon as QEMU is gone.
    pub(crate) fn abandon(&self) {
        let mut state = lock(&self.0.state);
        state.owned = false;
        let gone = state.process == Process::None;
        drop(state);
        if gone {
            self.remove_or_warn();
        }
    }

    /// Removes it now; QEMU must be gone. Idempotent; after an error it may be tried again. Blocking: may take seconds where
    /// a control group has to be emptied.
    fn remove_now(&self) -> io::Result<()> {
        remove(&mut lock(&self.0.dir))
    }

    /// Removes it now, away from the VM's thread, so that deadlines run on; QEMU must be gone. Idempotent; after an error it
    /// may be tried again. A caller that gives up does not stop it.
    pub(crate) async fn remove(&self) -> io::Result<()> {
        let residue = self.clone();
        match tokio::task::spawn_blocking(move || residue.remove_now()).await {
            Ok(result) => result,
            Err(e) => Err(io::Error::other(e)),
        }
    }

    fn remove_or_warn(&self) {
        // Whoever drops a VM must not wait for a removal under way; if that fails, the last clone tries again.
        if let Ok(mut dir) = self.0.dir.try_lock() {
            warn(remove(&mut dir));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Dropping it tells the [`Residue`] that QEMU is gone.
#[derive(Debug)]
pub(crate) struct ProcessGone(Residue);

impl Drop for ProcessGone {
    fn drop(&mut self) {
        self.0.process_gone();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // A living process holds a clone, by its `ProcessGone`: none is left.
        warn(remove(self.dir.get_mut().unwrap_or_else(PoisonError::into_inner)));
    }
}

/// Removes the directory, which stays for another attempt if that fails.
fn remove(dir: &mut Option<StateDir>) -> io::Result<()> {
    if let Some(there) = dir {
        there.remove()?;
        *dir = None;
    }
    Ok(())
}

fn warn(result: io::Result<()>) {
    if let Err(e) = result {
        tracing::warn!(error = %e, "something of a VM is left on the host; the next start, or gc, tries again");
    }
}

fn removed() -> io::Error {
    io::Error::other("the VM's state directory has been removed")
}

#[cfg(test)]
pub(crate) fn test_residue(dir: &std::path::Path) -> Residue {
    let root = crate::state::StateRoot::open(dir.join("state")).expect("a root");
    Residue::new(StateDir::claim(&root, &uvm_platform::UvmId::new("vm-1").expect("valid")).expect("free"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_when_process_and_owner_are_gone_in_either_order() {
        for owner_first in [true, false] {
            let dir = tempfile::tempdir().expect("a directory");
            let residue = test_residue(dir.path());
            let path = dir.path().join("state/vm-1");
            let gone = residue.process_starts();
            if owner_first {
                residue.abandon();
                assert!(path.exists());
                drop(gone);
            } else {
                drop(gone);
                assert!(path.exists());
                residue.abandon();
            }
            assert!(!path.exists(), "owner first: {owner_first}");
            residue.remove_now().expect("idempotent");
        }
    }

    #[test]
    fn dropping_the_last_one_removes_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state/vm-1");
        drop(test_residue(dir.path()));
        assert!(!path.exists());
        let residue = test_residue(dir.path());
        let gone = residue.process_starts();
        drop(residue);
        assert!(path.exists());
        drop(gone);
        assert!(!path.exists());
    }

    /// A file object that cannot be unlinked, because it is a directory.
    fn stubborn(residue: &Residue, dir: &std::path::Path) -> PathBuf {
        let path = dir.join("stubborn");
        std::fs::create_dir(&path).expect("made");
        residue.register(&HostObject::File { path: path.clone() }).expect("registered");
        path
    }

    #[tokio::test]
    async fn a_removal_that_failed_fails_again_until_it_succeeds() {
        let dir = tempfile::tempdir().expect("a directory");
        let residue = test_residue(dir.path());
        let obstacle = stubborn(&residue, dir.path());
        for _ in 0..2 {
            residue.remove().await.expect_err("the obstacle is there");
        }
        assert!(dir.path().join("state/vm-1").exists());
        std::fs::remove_dir(obstacle).expect("gone");
        residue.remove().await.expect("removed");
        residue.remove().await.expect("idempotent");
        assert!(!dir.path().join("state/vm-1").exists());
    }

    #[expect(clippy::await_holding_lock, reason = "it plays the thread that removes")]
    #[tokio::test]
    async fn deadlines_run_while_something_is_removed_and_dropping_does_not_wait() {
        let dir = tempfile::tempdir().expect("a directory");
        let residue = test_residue(dir.path());
        // As a removal that takes its time holds it.
        let busy = Arc::clone(&residue.0);
        let held = lock(&busy.dir);
        let patience = std::time::Duration::from_millis(20);
        let waited = tokio::time::timeout(patience, residue.remove()).await;
        waited.expect_err("this runtime, of one thread, goes on");
        residue.abandon();
        drop(held);
    }
}
