//! The device for virtual sockets: there at boot, or plugged into the running VM; and who may use which port of it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use uvm_platform::hvsocket::HvSocketGate;
use uvm_platform::{GuestListener, GuestStream, PlatformError, Port};
use uvm_vsock::Vsock;

use crate::command::{HOT_PLUG_BUS, VSOCK_DEVICE};
use crate::qmp::CallError;
use crate::transport;
use crate::vm::{Life, Vm};

/// The device, if it is there, and its services.
pub(crate) struct Sockets {
    device: Mutex<Option<Vsock>>,
    pub(crate) gate: HvSocketGate,
    /// One plugs at a time; whoever comes meanwhile finds it done.
    turn: tokio::sync::Mutex<()>,
}

impl Sockets {
    /// With the device that is there at boot.
    pub(crate) fn new(device: Option<Vsock>) -> Self {
        Self { device: Mutex::new(device), gate: HvSocketGate::default(), turn: tokio::sync::Mutex::default() }
    }

    fn slot(&self) -> MutexGuard<'_, Option<Vsock>> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn device(&self) -> Result<Vsock, PlatformError> {
        self.slot().clone().ok_or_else(|| PlatformError::no_virtual_sockets("qemu"))
    }

    pub(crate) fn listen(&self, port: Port) -> Result<GuestListener, PlatformError> {
        let device = self.device()?;
        self.gate.listen(port, || transport::listen(&device, port))
    }

    pub(crate) async fn dial(&self, port: Port) -> Result<GuestStream, PlatformError> {
        let device = self.device()?;
        self.gate.require_dial(port)?;
        transport::dial(&device, port).await
    }
}

impl Vm {
    /// Plugs the device in, if it is not there. In a running VM, waits for the guest's driver.
    pub(crate) async fn add_sockets(&self) -> Result<(), PlatformError> {
        let _turn = self.sockets.turn.lock().await;
        if self.sockets.slot().is_some() {
            return Ok(());
        }
        let intent = "plug in virtual sockets";
        let dir = self.residue.dir().map_err(|e| PlatformError::host(intent, e))?;
        let (device, end) = transport::device(&dir)?;
        if let Err(e) = self.plug(&end).await {
            device.close();
            return Err(e);
        }
        *self.sockets.slot() = Some(device.clone());
        if self.life() != Life::Running {
            return Ok(());
        }
        let limit = self.deadlines.rpc;
        match tokio::time::timeout(limit, device.up()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) => Err(self.end_or(intent, PlatformError::host(intent, e)).await),
            Err(_) => {
                let error = self.timeout("the guest's driver for virtual sockets", limit);
                // A guest that does not take it may not let go of it either: then it stays, and can be removed later.
                if let Err(e) = self.unplug().await {
                    tracing::warn!(vm = %self.id, error = %e, "virtual sockets stay plugged in");
                }
                Err(error)
            }
        }
    }

    /// Takes the device out, if it is there.
    pub(crate) async fn remove_sockets(&self) -> Result<(), PlatformError> {
        let _turn = self.sockets.turn.lock().await;
        if self.transport.get().needs_shared_ram() {
            return Err(PlatformError::NotAllowed {
                intent: "removing the virtual sockets".into(),
                why: "the guest's agent itself uses them".into(),
            });
        }
        if self.sockets.slot().is_none() {
            return Ok(());
        }
        match self.life() {
            Life::Running => self.unplug().await,
            life => Err(PlatformError::WrongState { intent: "remove the virtual sockets", state: life.name() }),
        }
    }

    async fn plug(&self, end: &OwnedFd) -> Result<(), PlatformError> {
        let fdname = VSOCK_DEVICE;
        self.call_with("getfd", json!({ "fdname": fdname }), Some(end.as_fd())).await?;
        let address = json!({ "type": "fd", "data": { "str": fdname } });
        let backend = json!({ "type": "socket", "data": { "addr": address, "server": false } });
        if let Err(e) = self.call("chardev-add", json!({ "id": VSOCK_DEVICE, "backend": backend })).await {
            // Else the descriptor stays open in QEMU.
            let _ = self.call("closefd", json!({ "fdname": fdname })).await;
            return Err(e);
        }
        let device = json!({
            "driver": "vhost-user-vsock-pci", "id": VSOCK_DEVICE, "chardev": VSOCK_DEVICE, "bus": HOT_PLUG_BUS,
        });
        if let Err(e) = self.call("device_add", device).await {
            let _ = self.call("chardev-remove", json!({ "id": VSOCK_DEVICE })).await;
            return Err(e);
        }
        Ok(())
    }

    /// The device goes first: a guest whose device is dead would not let go of it any more.
    async fn unplug(&self) -> Result<(), PlatformError> {
        self.remove_device(VSOCK_DEVICE).await?;
        self.call("chardev-remove", json!({ "id": VSOCK_DEVICE })).await?;
        if let Some(device) = self.sockets.slot().take() {
            device.close();
        }
        Ok(())
    }

    /// Has the guest let go of a device, and QEMU remove it.
    async fn remove_device(&self, id: &'static str) -> Result<(), PlatformError> {
        let mut events = self.qmp.events();
        match self.qmp.call("device_del", json!({ "id": id })).await {
            Ok(_) => {}
            // An earlier removal that was not waited for to the end has come through.
            Err(CallError::Refused(e)) if e.class == "DeviceNotFound" => return Ok(()),
            Err(e) => return Err(self.call_error("device_del", e).await),
        }
        let gone = async {
            loop {
                match events.recv().await {
                    Ok(event)
                        if event.name == "DEVICE_DELETED" && event.data.get("device") == Some(&Value::from(id)) =>
                    {
                        return true;
                    }
                    Ok(_) => {}
                    // What was missed may have been it.
                    Err(RecvError::Lagged(_)) => return false,
                    Err(RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        let limit = self.deadlines.host_call;
        tokio::select! {
            seen = tokio::time::timeout(limit, gone) => match seen {
                Ok(true) => Ok(()),
                _ => self.is_removed(id, limit).await,
            },
            () = self.qmp.closed() => Err(self.end_or("remove a device", PlatformError::host("remove a device", "QEMU is gone")).await),
        }
    }

    /// The last look: nothing was heard of the device's end.
    async fn is_removed(&self, id: &'static str, waited: std::time::Duration) -> Result<(), PlatformError> {
        match self.qmp.call("device_del", json!({ "id": id })).await {
            Err(CallError::Refused(e)) if e.class == "DeviceNotFound" => Ok(()),
            _ => Err(self.timeout(&format!("the guest to let go of the device {id}"), waited)),
        }
    }
}
