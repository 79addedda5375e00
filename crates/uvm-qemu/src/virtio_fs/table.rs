//! The shares that QEMU has, or may have, and who serves each.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use tokio::sync::OnceCell;
use uvm_platform::requests::VirtioFsExport;

use super::helper::{Directory, Helper};
use super::relay::Server;

/// The shares of one VM, and what their helpers are started with.
pub(crate) struct VirtioFs {
    /// The program, or why there is none.
    pub(super) program: Result<PathBuf, String>,
    /// What gc knows the VM's processes by; it is written down before QEMU is started.
    pub(super) token: String,
    pub(super) cgroups: Vec<OwnedFd>,
    table: Mutex<Table>,
    pub(super) memory_is_shared: OnceCell<bool>,
    /// One makes a socket at a time: all have one name in the state directory.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// Held by whoever removes what additions have left.
    pub(super) taking_back: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Table {
    /// Every share gets a name of its own: what QEMU says late of an earlier one is not of this one.
    count: u32,
    /// By their tags.
    shares: BTreeMap<String, Share>,
    /// The VM has ended.
    closed: bool,
}

/// A share that QEMU has, or may have.
#[derive(Clone)]
pub(super) struct Share {
    /// What QEMU calls the device and its connection.
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) helper: Arc<Helper>,
    /// What another helper needs.
    pub(super) directory: Arc<Directory>,
    pub(super) export: VirtioFsExport,
    pub(super) successors: Successors,
    /// Who has taken over.
    pub(super) successor: Option<Arc<Helper>>,
    /// QEMU is being told of it, or to let go of it.
    pub(super) changing: bool,
    /// Its helper was gone meanwhile, and nobody has seen to that.
    pub(super) unfollowed: bool,
    pub(super) device: Device,
    /// How the helper ended before its time, for people to read.
    pub(super) lost: Option<String>,
}

/// What QEMU has of a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Device {
    /// It is being told.
    Coming,
    /// All of it.
    Plugged,
    /// Perhaps something, of an addition that failed and could not be undone.
    Left,
}

/// Where those who take over go; `None` when nobody is to take over any more: the end of a helper is the end
/// of the device then. Clones share it.
#[derive(Clone)]
pub(super) struct Successors(Arc<Mutex<Option<mpsc::Sender<Server>>>>);

impl Successors {
    pub(super) fn new(relay: mpsc::Sender<Server>) -> Self {
        Self(Arc::new(Mutex::new(Some(relay))))
    }

    pub(super) fn send(&self, server: Server) {
        let relay = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody listens where QEMU has let go of the device already.
        let _ = relay.as_ref().map(|relay| relay.send(server));
    }

    pub(super) fn close(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    pub(super) fn is_open(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

impl Share {
    pub(super) fn helpers(&self) -> impl Iterator<Item = &Arc<Helper>> {
        std::iter::once(&self.helper).chain(&self.successor)
    }
}

impl VirtioFs {
    pub(crate) fn new(program: Result<PathBuf, String>, token: String, cgroups: Vec<OwnedFd>) -> Self {
        Self {
            program,
            token,
            cgroups,
            table: Mutex::default(),
            memory_is_shared: OnceCell::new(),
            turn: tokio::sync::Mutex::default(),
            taking_back: tokio::sync::Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn next_name(&self) -> String {
        let mut table = self.lock();
        table.count += 1;
        format!("fs-{}", table.count)
    }

    pub(super) fn find(&self, tag: &str) -> Option<Share> {
        self.lock().shares.get(tag).cloned()
    }

    /// What additions that failed have left, by their tags.
    pub(super) fn left(&self) -> Vec<(String, Share)> {
        let table = self.lock();
        table
            .shares
            .iter()
            .filter(|(_, share)| share.device == Device::Left)
            .map(|(tag, share)| (tag.clone(), share.clone()))
            .collect()
    }

    /// Takes the tag, unless the VM has ended.
    pub(super) fn enter(&self, tag: &str, share: &Share) -> Result<(), &'static str> {
        let mut table = self.lock();
        if table.closed {
            return Err("the VM has ended");
        }
        if table.shares.contains_key(tag) {
            return Err("a share has this tag");
        }
        table.shares.insert(tag.to_owned(), share.clone());
        Ok(())
    }

    /// Changes the share of this tag, if it is still this one.
    pub(super) fn with<T>(&self, tag: &str, share: &Share, change: impl FnOnce(&mut Share) -> T) -> Option<T> {
        let mut table = self.lock();
        table.shares.get_mut(tag).filter(|there| there.name == share.name).map(change)
    }

    /// Whether somebody is to take over: the share is there, and nobody has yet who lives.
    pub(super) fn wants_successor(&self, tag: &str, share: &Share) -> bool {
        self.unanswered(tag, share, |_| ()).is_some()
    }

    /// Takes a process that takes over; `false` if none is wanted any more.
    pub(super) fn succeed(&self, tag: &str, share: &Share, helper: &Arc<Helper>) -> bool {
        self.unanswered(tag, share, |share| share.successor = Some(Arc::clone(helper))).is_some()
    }

    fn unanswered<T>(&self, tag: &str, share: &Share, change: impl FnOnce(&mut Share) -> T) -> Option<T> {
        let mut table = self.lock();
        if table.closed {
            return None;
        }
        let there = table.shares.get_mut(tag).filter(|there| there.name == share.name)?;
        let lives = |helper: &Arc<Helper>| !helper.is_gone();
        if there.successor.as_ref().is_some_and(lives) { None } else { Some(change(there)) }
    }

    pub(super) fn leave(&self, tag: &str, share: &Share) {
        let mut table = self.lock();
        if table.shares.get(tag).is_some_and(|there| there.name == share.name) {
            table.shares.remove(tag);
            share.successors.close();
        }
    }

    /// Ends all helpers: the VM has ended.
    pub(crate) fn close(&self) {
        let mut table = self.lock();
        table.closed = true;
        for share in table.shares.values() {
            share.successors.close();
            for helper in share.helpers() {
                // Failing means that it has ended.
                let _ = helper.process.kill();
            }
        }
    }

    /// Waits until all helpers are gone.
    pub(super) async fn ended(&self, limit: Duration) -> bool {
        let helpers: Vec<_> = {
            let table = self.lock();
            table.shares.values().flat_map(Share::helpers).map(|helper| helper.process.exit()).collect()
        };
        let all = async {
            for mut helper in helpers {
                let _ = helper.wait_for(Option::is_some).await;
            }
        };
        tokio::time::timeout(limit, all).await.is_ok()
    }
}
