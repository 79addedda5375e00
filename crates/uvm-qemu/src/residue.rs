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
struct Shared(Mutex<State>);

#[derive(Debug)]
struct State {
    dir: Option<StateDir>,
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
        Self(Arc::new(Shared(Mutex::new(State { dir: Some(dir), process: Process::None, owned: true }))))
    }

    /// The directory; whatever is in it goes with it.
    pub(crate) fn dir(&self) -> io::Result<PathBuf> {
        match &self.lock().dir {
            Some(dir) => Ok(dir.path().to_owned()),
            None => Err(removed()),
        }
    }

    /// Writes `object` down; to be called before it is made.
    pub(crate) fn register(&self, object: &HostObject) -> io::Result<()> {
        match &self.lock().dir {
            Some(dir) => dir.register(object),
            None => Err(removed()),
        }
    }

    /// From now on it must stay until what is returned is dropped: when QEMU has been reaped, or has never run.
    pub(crate) fn process_starts(&self) -> ProcessGone {
        self.lock().process = Process::Lives;
        ProcessGone(self.clone())
    }

    fn process_gone(&self) {
        let mut state = self.lock();
        state.process = Process::None;
        if !state.owned {
            remove_or_warn(&mut state);
        }
    }

    /// Nobody owns the VM any more: remove it now, or as soon as QEMU is gone.
    pub(crate) fn abandon(&self) {
        let mut state = self.lock();
        state.owned = false;
        if state.process == Process::None {
            remove_or_warn(&mut state);
        }
    }

    /// Removes it now; QEMU must be gone. Idempotent. May take seconds where a control group has to be emptied.
    pub(crate) fn remove(&self) -> io::Result<()> {
        self.lock().dir.take().map_or(Ok(()), |mut dir| dir.remove())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
        remove_or_warn(self.0.get_mut().unwrap_or_else(PoisonError::into_inner));
    }
}

fn remove_or_warn(state: &mut State) {
    if let Some(Err(e)) = state.dir.take().map(|mut dir| dir.remove()) {
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
            residue.remove().expect("idempotent");
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
}
