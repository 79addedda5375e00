//! Shares, by name.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::server::Session;
use crate::tree::{Tree, TreeError, TreeOptions};

/// A tree under a name.
///
/// Locks are between all clients of this process that lock the same file, by this share or by another one. They are not
/// between them and the host's own programs: a client could hold one for good, and so stop a program of the host that asks
/// for the same lock. `/proc/locks` shows nothing of them.
#[derive(Debug)]
pub struct Share {
    name: Vec<u8>,
    pub(crate) tree: Tree,
    clients: Mutex<Clients>,
}

#[derive(Debug, Default)]
struct Clients {
    closed: bool,
    sessions: Vec<Weak<Session>>,
}

impl Share {
    /// Opens the tree.
    ///
    /// # Errors
    /// Those of [`Tree::open`].
    pub fn open(name: impl Into<Vec<u8>>, tree: TreeOptions) -> Result<Arc<Self>, TreeError> {
        let tree = Tree::open(tree)?;
        Ok(Arc::new(Self { name: name.into(), tree, clients: Mutex::default() }))
    }

    /// Its name.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// Ends the session of each client that has attached to it, and lets none attach from now on. Returns at once: what a
    /// client held is released when its [`serve`](crate::serve) returns. Idempotent.
    pub fn close(&self) {
        let sessions = {
            let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
            clients.closed = true;
            std::mem::take(&mut clients.sessions)
        };
        for session in sessions.iter().filter_map(Weak::upgrade) {
            session.share_closed();
        }
    }

    /// Takes note of a session, so that closing ends it. `false`: closed already.
    pub(crate) fn register(&self, session: &Arc<Session>) -> bool {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.closed {
            return false;
        }
        let session = Arc::downgrade(session);
        clients.sessions.retain(|known| known.strong_count() > 0 && !known.ptr_eq(&session));
        clients.sessions.push(session);
        true
    }
}

/// What a client may attach to.
pub trait Exports: Send + Sync {
    /// The share of this name, or none. It may be asked for any bytes, as many as 255.
    fn find(&self, name: &[u8]) -> Option<Arc<Share>>;
}

/// One share: by its name, by no name, and by `/`.
impl Exports for Arc<Share> {
    fn find(&self, name: &[u8]) -> Option<Arc<Share>> {
        (name.is_empty() || name == b"/" || name == self.name()).then(|| Arc::clone(self))
    }
}

/// Several shares behind one port, each by its name. They come and go while clients are served.
#[derive(Debug, Default)]
pub struct Shares {
    shares: Mutex<BTreeMap<Vec<u8>, Arc<Share>>>,
}

impl Shares {
    /// Adds a share. Returns it when its name is taken already.
    ///
    /// # Errors
    /// The share, which was not added.
    pub fn add(&self, share: Arc<Share>) -> Result<(), Arc<Share>> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if shares.contains_key(share.name()) {
            return Err(share);
        }
        shares.insert(share.name().to_owned(), share);
        Ok(())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Removes a share and [closes](Share::close) it. `false`: there was none.
    pub fn remove(&self, name: &[u8]) -> bool {
        let removed = self.shares.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        removed.inspect(|share| share.close()).is_some()
    }
}

impl Exports for Shares {
    fn find(&self, name: &[u8]) -> Option<Arc<Share>> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}
