//! virtio-fs shares: directories of the host as devices, each served by a process of its own.
//!
//! ```text
//! take a slot -> open the directory -> start the helper -> chardev, device     the guest mounts
//! the guest has unmounted -> device, chardev -> the helper ends                nothing of the directory is open any more
//! the helper ends by itself -> device_del at once; another one answers the guest with errors until the device is gone
//! the helper leaves QEMU without an answer -> it is ended
//! ```
//!
//! The last two lines are what keeps a guest usable: one that has asked a helper that is gone would wait for ever, and with it
//! the kernel's thread that plugs devices; and QEMU stands still, with all of the guest, while it waits for an answer.

pub(crate) mod helper;
mod relay;
mod table;
mod vhost_user;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use uvm_platform::requests::VirtioFsExport;
use uvm_platform::{Feature, PlatformError};

use self::helper::{Directory, Helper, Place, Role};
use self::relay::Server;
pub(crate) use self::table::VirtioFs;
use self::table::{Device, Share, Successors};
use crate::devices::NoneTaken;
use crate::kill_point::kill_point;
use crate::slots::Slot;
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

/// In this part of the time for a call, who serves a share has to answer QEMU: other calls wait with it.
const ANSWERS_OF_CALL: u32 = 2;

fn server(helper: &Arc<Helper>, connection: UnixStream) -> Server {
    let helper = Arc::clone(helper);
    Server { connection, end: Box::new(move || helper.end_stalled()) }
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
        self.take_back_what_is_left();
        let name = self.virtio_fs.next_name();
        let Served { slot, directory, helper, connection } = within(limit, self.serve_directory(export, &name)).await?;
        let helper = Arc::new(helper);
        let (end, successors) = relay::start(server(&helper, connection), limit / ANSWERS_OF_CALL)
            .map_err(|e| PlatformError::host(format!("share {}", export.path.display()), e))?;
        let share = Share {
            name,
            path: export.path.clone(),
            helper,
            directory: Arc::new(directory),
            export: export.clone(),
            successors: Successors::new(successors),
            successor: None,
            changing: true,
            unfollowed: false,
            device: Device::Coming,
            lost: None,
        };
        if let Err(why) = self.virtio_fs.enter(&export.tag, &share) {
            return Err(PlatformError::host(format!("share {}", export.path.display()), why));
        }
        tokio::spawn(Arc::clone(&self).follow_helper(export.tag.clone(), share.clone()));
        let device = json!({ "driver": "vhost-user-fs-pci", "tag": export.tag, "queue-size": QUEUE_SIZE });
        let Err(error) = within(limit, self.plug_served(slot, end, device)).await else {
            // One that is gone by now is seen to here, and later by who follows it.
            let is_gone = self.virtio_fs.with(&export.tag, &share, |share| {
                let is_gone = share.helper.is_gone();
                if !is_gone {
                    (share.changing, share.device) = (false, Device::Plugged);
                }
                is_gone
            });
            if is_gone != Some(true) {
                return Ok(());
            }
            let how = share.helper.describe_end();
            self.take_back(&export.tag, &share).await?;
            return Err(PlatformError::host(format!("share {}", share.path.display()), how));
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
            let _turn = self.step("the socket of another share's helper to be made", shares.turn.lock()).await?;
            self.residue.dir().and_then(|dir| transport::connection(&dir, SOCKET)).map_err(failed)?
        };
        let cgroups = shares.cgroups.iter().map(OwnedFd::try_clone).collect::<Result<_, _>>().map_err(failed)?;
        let place = Place { program, vm: self.id.as_str(), token: &shares.token, cgroups };
        kill_point("before:helper");
        // One that comes too late is ended by whoever forks.
        let starting = Helper::start(place, export, directory, listener.into(), role);
        let helper = self.step("the helper of a share to be started", starting).await??;
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
        if tokio::time::timeout(SETTLE, share.helper.gone()).await.is_err() {
            return error;
        }
        PlatformError::host(format!("share {}", share.path.display()), share.helper.describe_end())
    }

    /// Removes what an addition that failed has left. A helper that has stalled holds up QEMU: it goes before QEMU is
    /// asked again. A device that stays in QEMU keeps its tag, until a removal gets through.
    async fn take_back(&self, tag: &str, share: &Share) -> Result<(), PlatformError> {
        share.successors.close();
        let _ = share.helper.process.kill();
        share.helper.process.wait(self.deadlines.terminate).await;
        if self.life() == Life::Running
            && let Err(error) = within(self.deadlines.host_call, self.undo_served(&share.name)).await
        {
            tracing::warn!(vm = %self.id, share = %share.path.display(), %error, "a device stays in QEMU");
            self.virtio_fs.with(tag, share, |share| (share.changing, share.device) = (false, Device::Left));
            return Err(error);
        }
        self.virtio_fs.leave(tag, share);
        Ok(())
    }

    /// Removes what earlier additions have left in a QEMU that did not answer: who asked for one has no handle, and no tag is
    /// used twice. The addition at hand does not wait for that: a guest may never let go.
    fn take_back_what_is_left(self: &Arc<Self>) {
        let vm = Arc::clone(self);
        tokio::spawn(async move {
            // Another addition has it done otherwise.
            let Ok(_turn) = vm.virtio_fs.taking_back.try_lock() else { return };
            for (tag, share) in vm.virtio_fs.left() {
                // What stays is told, and tried again.
                let _ = vm.take_back(&tag, &share).await;
            }
        });
    }

    /// Takes a share out, which the guest has unmounted, and waits for the end of its helper. One that is not there has
    /// been taken out. That its helper ended before its time is told once; the share is gone for all that.
    pub(crate) async fn remove_virtio_fs(self: &Arc<Self>, export: &VirtioFsExport) -> Result<(), PlatformError> {
        let intent = || format!("serve share {} to its end", export.path.display());
        self.take_out(export).await?.map_or(Ok(()), |how| Err(PlatformError::host(intent(), how)))
    }

    /// Takes a share out, and tells how its helper was lost, if it was.
    async fn take_out(self: &Arc<Self>, export: &VirtioFsExport) -> Result<Option<String>, PlatformError> {
        let there = self.virtio_fs.find(&export.tag);
        let Some(share) = there else { return Ok(None) };
        match self.life() {
            Life::Running => {}
            Life::Ended(_) => return Ok(None),
            life => return Err(PlatformError::WrongState { intent: "remove a share", state: life.name() }),
        }
        if share.device == Device::Left {
            // It never was a share, and QEMU may have no more than a descriptor of it.
            return self.take_back(&export.tag, &share).await.map(|()| None);
        }
        self.virtio_fs.with(&export.tag, &share, |share| share.changing = true);
        let removed = self.remove_device_and_helper(&export.tag, &share).await;
        if removed.is_err() {
            let unfollowed = self.virtio_fs.with(&export.tag, &share, |share| {
                share.changing = false;
                std::mem::take(&mut share.unfollowed)
            });
            if unfollowed == Some(true) && self.virtio_fs.wants_successor(&export.tag, &share) {
                tokio::spawn(Arc::clone(self).follow_helper(export.tag.clone(), share.clone()));
            }
        }
        removed?;
        // It may have been lost meanwhile.
        let lost = self.virtio_fs.with(&export.tag, &share, |share| share.lost.take()).flatten();
        self.virtio_fs.leave(&export.tag, &share);
        Ok(lost)
    }

    async fn remove_device_and_helper(self: &Arc<Self>, tag: &str, share: &Share) -> Result<(), PlatformError> {
        match self.unplug_answered(tag, share).await {
            Err(error @ PlatformError::Timeout { .. }) => {
                // QEMU has been told, so the helper may go: if it has stalled, QEMU waits for it, or the guest does. Another
                // one answers them.
                tracing::warn!(vm = %self.id, share = %share.path.display(), %error, "its helper is ended");
                share.helper.end_stalled();
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
        share.helper.gone().await;
        let how = share.helper.describe_end();
        let is_lost = self.virtio_fs.with(&tag, &share, |share| {
            if share.changing {
                share.unfollowed = true;
                // Whoever changes it sees to it. QEMU may wait for an answer: an addition ends then.
                if share.device == Device::Coming {
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
            share.helper.gone().await;
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
            self.give_up_served(&share.name).await;
            Ok(())
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
            share.successors.send(server(&helper, connection));
            let (successors, name) = (share.successors, share.name);
            tokio::spawn(async move {
                helper.gone().await;
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
