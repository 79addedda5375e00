//! Devices of a running VM: how one that another process serves is plugged in, and how any is removed.

use std::os::fd::{AsFd, OwnedFd};

use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use uvm_platform::PlatformError;

use crate::command::HOT_PLUG_BUS;
use crate::qmp::CallError;
use crate::slots::{NoSlot, Slot};
use crate::vm::Vm;

/// Why a device has no slot.
pub(crate) enum NoneTaken {
    NoSlot(NoSlot),
    Failed(PlatformError),
}

impl From<NoneTaken> for PlatformError {
    fn from(none: NoneTaken) -> Self {
        match none {
            NoneTaken::NoSlot(e) => Self::host("plug in a device", e),
            NoneTaken::Failed(e) => e,
        }
    }
}

impl Vm {
    /// Takes a slot for a device of that name.
    pub(crate) async fn take_slot(&self, name: &str) -> Result<Slot<'_>, NoneTaken> {
        let taken = self.step("a slot for a device to have been free for long enough", self.slots.take(name)).await;
        taken.map_err(NoneTaken::Failed)?.map_err(NoneTaken::NoSlot)
    }

    /// Plugs in a device that is served at the other end of a connection, under one name for both. QEMU is told of the
    /// device last, so a refusal leaves nothing. Our copy of the end is closed by then: else QEMU's death would not be seen
    /// at the other.
    pub(crate) async fn plug_served(
        &self,
        slot: Slot<'_>,
        end: OwnedFd,
        mut device: Value,
    ) -> Result<(), PlatformError> {
        let name = slot.name().to_owned();
        device["id"] = name.as_str().into();
        device["chardev"] = name.as_str().into();
        device["bus"] = HOT_PLUG_BUS.into();
        device["addr"] = format!("{:#x}", slot.plug()).into();
        let plugged = self.plug_served_as(&name, end, device).await;
        // What went unanswered may be there, until it is taken out.
        if matches!(plugged, Err(PlatformError::Host { .. } | PlatformError::NotAllowed { .. })) {
            self.slots.give_back(&name);
        }
        plugged
    }

    async fn plug_served_as(&self, name: &str, end: OwnedFd, device: Value) -> Result<(), PlatformError> {
        // What QEMU does not answer in time it may do late: that is [undone](Self::undo_served).
        self.call_with("getfd", json!({ "fdname": name }), Some(end.as_fd())).await?;
        drop(end);
        let address = json!({ "type": "fd", "data": { "str": name } });
        let backend = json!({ "type": "socket", "data": { "addr": address, "server": false } });
        if let Err(e) = self.call("chardev-add", json!({ "id": name, "backend": backend })).await {
            // Else the descriptor stays open in QEMU.
            return Err(self.undone("closefd", json!({ "fdname": name }), e).await);
        }
        if let Err(e) = self.call("device_add", device).await {
            return Err(self.undone("chardev-remove", json!({ "id": name }), e).await);
        }
        Ok(())
    }

    /// Undoes a step, and gives why; or that it is not known whether that was done: then something may be left.
    async fn undone(&self, command: &'static str, arguments: Value, why: PlatformError) -> PlatformError {
        match self.call(command, arguments).await {
            Err(late @ PlatformError::Timeout { .. }) => late,
            Ok(_) | Err(_) => why,
        }
    }

    /// Gives up what is left of such a device once it is [removed](Self::remove_device): its slot, and its connection. The
    /// device goes first: a guest whose device is dead would not let go of it any more.
    pub(crate) async fn give_up_served(&self, name: &str) {
        self.slots.give_back(name);
        // A connection that QEMU does not give up costs a descriptor there.
        match self.qmp.call("chardev-remove", json!({ "id": name })).await {
            Ok(_) => {}
            // An earlier attempt came this far.
            Err(CallError::Refused(e)) if e.desc.contains("not found") => {}
            Err(e) => {
                tracing::warn!(vm = %self.id, error = %e, "the connection of a device that is gone stays in QEMU");
            }
        }
    }

    /// Takes out what plugging in such a device may have left, wherever that went unanswered: the device, its connection, and
    /// the descriptor of one that was not made.
    pub(crate) async fn undo_served(&self, name: &str) -> Result<(), PlatformError> {
        self.remove_device(name).await?;
        self.give_up_served(name).await;
        match self.qmp.call("closefd", json!({ "fdname": name })).await {
            // Refused: there is none.
            Ok(_) | Err(CallError::Refused(_)) => Ok(()),
            Err(e) => Err(self.call_error("closefd", e).await),
        }
    }

    /// Has the guest let go of a device, and QEMU remove it.
    pub(crate) async fn remove_device(&self, id: &str) -> Result<(), PlatformError> {
        let mut events = self.qmp.events();
        match self.qmp.call("device_del", json!({ "id": id })).await {
            Ok(_) => {}
            // An earlier removal that was not waited for to the end has come through.
            Err(CallError::Refused(e)) if e.class == "DeviceNotFound" => return Ok(()),
            // Or is still under way; its end is waited for now.
            Err(CallError::Refused(e)) if e.desc.contains("unplug") => {
                tracing::debug!(vm = %self.id, error = %e, "a device is being removed already");
            }
            Err(e) => return Err(self.call_error("device_del", e).await),
        }
        let gone = async {
            loop {
                match events.recv().await {
                    Ok(event)
                        if event.name == "DEVICE_DELETED" && event.data.get("device") == Some(&Value::from(id)) =>
                    {
                        return;
                    }
                    // What was missed may have been it: another command tells.
                    Err(RecvError::Lagged(_)) if self.is_removed(id).await => return,
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        let intent = "remove a device";
        let what = format!("the guest to let go of the device {id}");
        tokio::select! {
            seen = self.step(&what, gone) => seen,
            () = self.qmp.closed() => Err(self.end_or(intent, PlatformError::host(intent, "QEMU is gone")).await),
        }
    }

    async fn is_removed(&self, id: &str) -> bool {
        let path = json!({ "path": format!("/machine/peripheral/{id}") });
        matches!(self.qmp.call("qom-list", path).await, Err(CallError::Refused(_)))
    }
}
