//! virtio-fs shares: directories of the host as devices, each served by a process of its own.
//!
//! ```text
//! take a slot -> open the directory -> start the helper -> chardev, device     the guest mounts
//! the guest has unmounted -> device, chardev -> the helper ends                nothing of the directory is open any more
//! the helper ends by itself -> device_del at once; another one answers the guest with errors until the device is gone
//! ```
//!
//! The last line is what keeps a guest usable: one that has asked a helper that is gone would wait for ever, and with it the
//! kernel's thread that plugs devices.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{OnceCell, watch};
use uvm_platform::requests::VirtioFsExport;
use uvm_platform::{Feature, PlatformError};

use crate::devices::NoneTaken;
use crate::helper_relay;
use crate::kill_point::kill_point;
use crate::share_helper::{Directory, Helper, Place, Role};
use crate::slots::Slot;
use crate::spawn::ChildExit;
use crate::step_limit::within;
use crate::transport;
use crate::vm::{Life, Vm, not_here};

/// The name of a helper's socket while QEMU's end of it is made.
pub(crate) const SOCKET: &str = "share";
/// How long the end of a helper may lie apart from the error it causes.
const SETTLE: Duration = Duration::from_secs(1);
/// Places of a share's queue, the most that QEMU's device has. A request takes one for each page of what is read or written:
/// with QEMU's 128, a read or write of 1 MiB would be three requests.
const QUEUE_SIZE: u32 = 1024;

/// The shares of one VM, and what their helpers are started with.
pub(crate) struct VirtioFs {
    /// The program, or why there is none.
    program: Result<PathBuf, String>,
    /// What gc knows the VM's processes by; it is written down before QEMU is started.
    token: String,
    cgroups: Vec<OwnedFd>,
    table: Mutex<Table>,
    memory_is_shared: OnceCell<bool>,
    /// One makes a socket at a time: all have one name in the state directory.
    turn: tokio::sync::Mutex<()>,
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
struct Share {
    /// What QEMU calls the device and its connection.
    name: String,
    path: PathBuf,
    helper: Arc<Helper>,
    /// What another helper needs.
    directory: Arc<Directory>,
    export: VirtioFsExport,
    successors: Successors,
    /// Who has taken over.
    successor: Option<Arc<Helper>>,
    /// QEMU is being told of it, or to let go of it.
    changing: bool,
    /// QEMU has the device.
    plugged: bool,
    /// How the helper ended before its time, for people to read.
    lost: Option<String>,
}

/// Where connections to those who take over go; `None` when nobody is to take over any more: the end of a helper is the end
/// of the device then. Clones share it.
#[derive(Clone)]
struct Successors(Arc<Mutex<Option<mpsc::Sender<UnixStream>>>>);

impl Successors {
    fn new(relay: mpsc::Sender<UnixStream>) -> Self {
        Self(Arc::new(Mutex::new(Some(relay))))
    }

    fn send(&self, connection: UnixStream) {
        let relay = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody listens where QEMU has let go of the device already.
        let _ = relay.as_ref().map(|relay| relay.send(connection));
    }

    fn close(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn is_open(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

impl Share {
    fn helpers(&self) -> impl Iterator<Item = &Arc<Helper>> {
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
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_name(&self) -> String {
        let mut table = self.lock();
        table.count += 1;
        format!("fs-{}", table.count)
    }

    /// Takes the tag, unless the VM has ended.
    fn enter(&self, tag: &str, share: &Share) -> Result<(), &'static str> {
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
    fn with<T>(&self, tag: &str, share: &Share, change: impl FnOnce(&mut Share) -> T) -> Option<T> {
        let mut table = self.lock();
        table.shares.get_mut(tag).filter(|there| there.name == share.name).map(change)
    }

    /// Whether somebody is to take over: the share is there, and nobody has yet who lives.
    fn wants_successor(&self, tag: &str, share: &Share) -> bool {
        self.unanswered(tag, share, |_| ()).is_some()
    }

    /// Takes a process that takes over; `false` if none is wanted any more.
    fn succeed(&self, tag: &str, share: &Share, helper: &Arc<Helper>) -> bool {
        self.unanswered(tag, share, |share| share.successor = Some(Arc::clone(helper))).is_some()
    }

    fn unanswered<T>(&self, tag: &str, share: &Share, change: impl FnOnce(&mut Share) -> T) -> Option<T> {
        let mut table = self.lock();
        if table.closed {
            return None;
        }
        let there = table.shares.get_mut(tag).filter(|there| there.name == share.name)?;
        let lives = |helper: &Arc<Helper>| helper.process.exit().borrow().is_none();
        if there.successor.as_ref().is_some_and(lives) { None } else { Some(change(there)) }
    }

    fn leave(&self, tag: &str, share: &Share) {
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
    async fn ended(&self, limit: Duration) -> bool {
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

/// A directory that is served, and a slot for its device.
struct Served<'a> {
    slot: Slot<'a>,
    directory: Directory,
    helper: Helper,
    connection: UnixStream,
}

impl Vm {
    /// Serves a directory as a device. If that fails, nothing is left of it.
    pub(crate) async fn add_virtio_fs(self: Arc<Self>, export: &VirtioFsExport) -> Result<(), PlatformError> {
        let limit = self.deadlines.host_call;
        let name = self.virtio_fs.next_name();
        let Served { slot, directory, helper, connection } = within(limit, self.serve_directory(export, &name)).await?;
        let (end, successors) = helper_relay::start(connection)
            .map_err(|e| PlatformError::host(format!("share {}", export.path.display()), e))?;
        let share = Share {
            name,
            path: export.path.clone(),
            helper: Arc::new(helper),
            directory: Arc::new(directory),
            export: export.clone(),
            successors: Successors::new(successors),
            successor: None,
            changing: true,
            plugged: false,
            lost: None,
        };
        if let Err(why) = self.virtio_fs.enter(&export.tag, &share) {
            return Err(PlatformError::host(format!("share {}", export.path.display()), why));
        }
        tokio::spawn(Arc::clone(&self).follow_helper(export.tag.clone(), share.clone()));
        let device = json!({ "driver": "vhost-user-fs-pci", "tag": export.tag, "queue-size": QUEUE_SIZE });
        let Err(error) = within(limit, self.plug_served(slot, end, device)).await else {
            self.virtio_fs.with(&export.tag, &share, |share| (share.changing, share.plugged) = (false, true));
            // One that ended meanwhile has nobody who follows it.
            let ended = *share.helper.process.exit().borrow();
            return match ended {
                None => Ok(()),
                Some(exit) => {
                    let how = share.helper.describe_end(exit);
                    self.take_back(&export.tag, &share).await?;
                    Err(PlatformError::host(format!("share {}", share.path.display()), how))
                }
            };
        };
        let error = self.why_not_plugged(&share, error).await;
        self.take_back(&export.tag, &share).await?;
        Err(error)
    }

    /// Opens a directory, and starts the helper that serves it, once there is a slot for the device.
    async fn serve_directory(&self, export: &VirtioFsExport, name: &str) -> Result<Served<'_>, PlatformError> {
        self.require_shared_memory().await?;
        let slot = self.take_slot(name).await.map_err(|none| match none {
            NoneTaken::NoSlot(why) => not_here(Feature::VirtioFsShares, &why.to_string()),
            NoneTaken::Failed(error) => error,
        })?;
        let (intent, opened) = (format!("open share {}", export.path.display()), export.clone());
        let directory = self.blocking_step(intent, move || Directory::open(&opened)).await?;
        let (helper, connection) = self.start_helper(export, &directory, Role::Serves).await?;
        Ok(Served { slot, directory, helper, connection })
    }

    /// Starts a helper, and returns the connection to it.
    async fn start_helper(
        &self,
        export: &VirtioFsExport,
        directory: &Directory,
        role: Role,
    ) -> Result<(Helper, UnixStream), PlatformError> {
        let shares = &self.virtio_fs;
        let program = shares.program.as_deref().map_err(|why| not_here(Feature::VirtioFsShares, why))?;
        let failed = |e| PlatformError::host(format!("share {}", export.path.display()), e);
        let (listener, connection) = {
            let _turn = shares.turn.lock().await;
            self.residue.dir().and_then(|dir| transport::connection(&dir, SOCKET)).map_err(failed)?
        };
        let cgroups = shares.cgroups.iter().map(OwnedFd::try_clone).collect::<Result<_, _>>().map_err(failed)?;
        let place = Place { program, vm: self.id.as_str(), token: &shares.token, cgroups };
        kill_point("before:helper");
        let helper = Helper::start(place, export, directory, listener.into(), role).await?;
        kill_point("after:helper");
        Ok((helper, connection.into()))
    }

    /// A helper maps the guest's memory: QEMU would take the device without, and the helper end.
    async fn require_shared_memory(&self) -> Result<(), PlatformError> {
        let ask = async || {
            let property = json!({ "path": "/objects/mem", "property": "share" });
            Ok::<_, PlatformError>(self.call("qom-get", property).await? == Value::Bool(true))
        };
        if *self.virtio_fs.memory_is_shared.get_or_try_init(ask).await? {
            return Ok(());
        }
        Err(not_here(Feature::VirtioFsShares, "the guest's memory is not shared with the host"))
    }

    /// What a refusal comes from: it may be a helper that ended.
    async fn why_not_plugged(&self, share: &Share, error: PlatformError) -> PlatformError {
        if matches!(error, PlatformError::Ended { .. }) {
            return error;
        }
        match share.helper.process.wait(SETTLE).await {
            Some(exit) => {
                PlatformError::host(format!("share {}", share.path.display()), share.helper.describe_end(exit))
            }
            None => error,
        }
    }

    /// Removes what an addition that failed has left. A helper that has stalled holds up QEMU: it goes before QEMU is
    /// asked again. A device that stays in QEMU keeps its tag, until a removal gets through.
    async fn take_back(&self, tag: &str, share: &Share) -> Result<(), PlatformError> {
        share.successors.close();
        let _ = share.helper.process.kill();
        share.helper.process.wait(self.deadlines.terminate).await;
        if self.life() == Life::Running
            && let Err(error) = within(self.deadlines.host_call, self.unplug_served(&share.name)).await
        {
            tracing::warn!(vm = %self.id, share = %share.path.display(), %error, "a device stays in QEMU");
            self.virtio_fs.with(tag, share, |share| (share.changing, share.plugged) = (false, true));
            return Err(error);
        }
        self.virtio_fs.leave(tag, share);
        Ok(())
    }

    /// Takes a share out, which the guest has unmounted, and waits for the end of its helper. One that is not there has
    /// been taken out.
    pub(crate) async fn remove_virtio_fs(self: &Arc<Self>, export: &VirtioFsExport) -> Result<(), PlatformError> {
        let there = self.virtio_fs.lock().shares.get(&export.tag).cloned();
        let Some(share) = there else { return Ok(()) };
        match self.life() {
            Life::Running => {}
            Life::Ended(_) => return Ok(()),
            life => return Err(PlatformError::WrongState { intent: "remove a share", state: life.name() }),
        }
        self.virtio_fs.with(&export.tag, &share, |share| share.changing = true);
        let removed = self.remove_device_and_helper(&export.tag, &share).await;
        if removed.is_err() {
            self.virtio_fs.with(&export.tag, &share, |share| share.changing = false);
            // One that ended meanwhile has nobody who follows it.
            let has_ended = share.helper.process.exit().borrow().is_some();
            if has_ended && self.virtio_fs.wants_successor(&export.tag, &share) {
                tokio::spawn(Arc::clone(self).follow_helper(export.tag.clone(), share.clone()));
            }
            return removed;
        }
        // It may have been lost meanwhile.
        let lost = self.virtio_fs.with(&export.tag, &share, |share| share.lost.take()).flatten();
        self.virtio_fs.leave(&export.tag, &share);
        match lost {
            // Told once; it is gone for all that.
            Some(how) => Err(PlatformError::host(format!("serve share {} to its end", share.path.display()), how)),
            None => Ok(()),
        }
    }

    async fn remove_device_and_helper(self: &Arc<Self>, tag: &str, share: &Share) -> Result<(), PlatformError> {
        match self.unplug_answered(tag, share).await {
            Err(error @ PlatformError::Timeout { .. }) => {
                // QEMU has been told, so the helper may go: if it has stalled, QEMU waits for it, or the guest does. Another
                // one answers them.
                tracing::warn!(vm = %self.id, share = %share.path.display(), %error, "its helper is ended");
                let _ = share.helper.process.kill();
                self.unplug_answered(tag, share).await?;
            }
            unplugged => unplugged?,
        }
        let limit = self.deadlines.terminate;
        let there: Option<Vec<_>> = self.virtio_fs.with(tag, share, |share| share.helpers().cloned().collect());
        for helper in there.unwrap_or_default() {
            if helper.process.wait(limit).await.is_none() {
                helper.process.kill().map_err(|e| PlatformError::host("end the helper of a share", e))?;
                if helper.process.wait(limit).await.is_none() {
                    let what = format!("the end of the helper of share {}", share.path.display());
                    return Err(self.timeout(&what, limit));
                }
            }
        }
        Ok(())
    }

    /// Takes the device of a helper that ended before its time away from the guest, before somebody there asks it.
    async fn follow_helper(self: Arc<Self>, tag: String, share: Share) {
        let mut exit: watch::Receiver<Option<ChildExit>> = share.helper.process.exit();
        let Some(exit) = exit.wait_for(Option::is_some).await.ok().and_then(|exit| *exit) else { return };
        let how = share.helper.describe_end(exit);
        let is_lost = self.virtio_fs.with(&tag, &share, |share| {
            if share.changing {
                // Whoever changes it sees to it. QEMU may wait for an answer: an addition ends then.
                if !share.plugged {
                    share.successors.close();
                }
                return false;
            }
            share.lost = Some(how.clone());
            true
        });
        if is_lost != Some(true) || matches!(self.life(), Life::Ended(_)) {
            return;
        }
        let unplugged = self.unplug_answered(&tag, &share).await;
        // Its end may be QEMU's doing, which has ended.
        if self.await_end(Duration::ZERO).await.is_some() {
            return;
        }
        let path = share.path.display();
        tracing::warn!(vm = %self.id, share = %path, how, "a share is lost: the guest's programs get errors there");
        if let Err(error) = unplugged {
            tracing::warn!(vm = %self.id, share = %path, %error, "the guest has not let go of its device");
        }
    }

    /// Takes the device out, and sees to it that somebody answers meanwhile: until the guest has let go of it, it may ask, and
    /// so may QEMU, which stands still until it is answered.
    async fn unplug_answered(self: &Arc<Self>, tag: &str, share: &Share) -> Result<(), PlatformError> {
        let answer = async {
            let _ = share.helper.process.exit().wait_for(Option::is_some).await;
            // On its own: what is left half way through may be a process that nobody knows.
            let _ = tokio::spawn(Arc::clone(self).take_over(tag.to_owned(), share.clone())).await;
            std::future::pending().await
        };
        let unplug = async {
            // QEMU is told first. Once it has no device any more, the end of the helper is in order.
            tokio::select! {
                biased;
                removed = self.remove_device(&share.name) => removed?,
                never = answer => return never,
            }
            self.unplug_served(&share.name).await
        };
        within(self.deadlines.host_call, unplug).await
    }

    /// Has another helper answer the guest, unless one does. Without one, its end is QEMU's and the guest's, too: neither hears
    /// anything more.
    async fn take_over(self: Arc<Self>, tag: String, share: Share) {
        if !share.successors.is_open() || !self.virtio_fs.wants_successor(&tag, &share) {
            return;
        }
        let (helper, connection) = match self.start_helper(&share.export, &share.directory, Role::TakesOver).await {
            Ok((helper, connection)) => (Arc::new(helper), connection),
            Err(error) => {
                tracing::warn!(vm = %self.id, share = %share.path.display(), %error, "nobody answers the guest any more");
                share.successors.close();
                return;
            }
        };
        // Where nobody wants it any more, it ends here.
        if self.virtio_fs.succeed(&tag, &share, &helper) {
            share.successors.send(connection);
            let mut exit = helper.process.exit();
            let (successors, name) = (share.successors, share.name);
            tokio::spawn(async move {
                let _ = exit.wait_for(Option::is_some).await;
                tracing::debug!(share = name, "who took a share's device over has ended");
                successors.close();
            });
        }
    }

    /// Waits for the helpers of a VM that has ended.
    pub(crate) async fn end_helpers(&self) -> Result<(), PlatformError> {
        self.virtio_fs.close();
        let limit = self.deadlines.terminate;
        if self.virtio_fs.ended(limit).await {
            Ok(())
        } else {
            Err(self.timeout("the end of the helpers of shares", limit))
        }
    }
}
