//! Devices of a running VM: how one is removed.

use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use uvm_platform::PlatformError;

use crate::qmp::CallError;
use crate::vm::Vm;

impl Vm {
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
        let (intent, limit) = ("remove a device", self.deadlines.host_call);
        tokio::select! {
            seen = tokio::time::timeout(limit, gone) => match seen {
                Ok(()) => Ok(()),
                Err(_) => Err(self.timeout(&format!("the guest to let go of the device {id}"), limit)),
            },
            () = self.qmp.closed() => Err(self.end_or(intent, PlatformError::host(intent, "QEMU is gone")).await),
        }
    }

    async fn is_removed(&self, id: &str) -> bool {
        let path = json!({ "path": format!("/machine/peripheral/{id}") });
        matches!(self.qmp.call("qom-list", path).await, Err(CallError::Refused(_)))
    }
}
