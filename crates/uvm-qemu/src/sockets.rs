//! The device for virtual sockets: there at boot, or plugged into the running VM; and who may use which port of it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::json;
use uvm_platform::hvsocket::HvSocketGate;
use uvm_platform::{GuestListener, GuestStream, PlatformError, Port};
use uvm_vsock::Vsock;

use crate::command::VSOCK_DEVICE;
use crate::step_limit::within;
use crate::transport;
use crate::vm::{Life, Vm};

/// The device, if it is there, and its services.
pub(crate) struct Sockets {
    device: Mutex<Option<Plugged>>,
    pub(crate) gate: HvSocketGate,
    /// One plugs at a time; whoever comes meanwhile finds it done.
    turn: tokio::sync::Mutex<()>,
    /// Every device gets a name of its own: what QEMU says late of an earlier one is not of this one.
    count: AtomicU32,
}

/// A device that QEMU has, as far as is known.
#[derive(Clone)]
struct Plugged {
    device: Vsock,
    /// QEMU's name of it, and of its connection.
    name: String,
}

impl Sockets {
    /// With the device that is there at boot.
    pub(crate) fn new(device: Option<Vsock>) -> Self {
        let plugged = device.map(|device| Plugged { device, name: VSOCK_DEVICE.into() });
        Self {
            device: Mutex::new(plugged),
            gate: HvSocketGate::default(),
            turn: tokio::sync::Mutex::default(),
            count: AtomicU32::default(),
        }
    }

    fn slot(&self) -> MutexGuard<'_, Option<Plugged>> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// QEMU's name of the device, if it is there.
    fn name(&self) -> Option<String> {
        self.slot().as_ref().map(|plugged| plugged.name.clone())
    }

    fn device(&self) -> Result<Vsock, PlatformError> {
        let plugged = self.slot().clone().ok_or_else(|| PlatformError::no_virtual_sockets("qemu"))?;
        Ok(plugged.device)
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
        let _turn = self.step("an earlier change of the virtual sockets", self.sockets.turn.lock()).await?;
        let (there, limit) = (self.sockets.slot().clone(), self.deadlines.host_call);
        let device = match there {
            Some(there) if there.device.dead().is_none() || self.agent_uses_sockets() => there.device,
            // Its end is told when QEMU has let go of it, or its driver broke it: neither is of use to anybody.
            Some(there) => {
                self.unplug(&there.name).await?;
                within(limit, self.plug_new()).await?
            }
            None => within(limit, self.plug_new()).await?,
        };
        if self.life() != Life::Running {
            return Ok(());
        }
        let limit = self.deadlines.rpc;
        let intent = "plug in virtual sockets";
        tokio::select! {
            up = tokio::time::timeout(limit, device.up()) => match up {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(e)) => Err(self.end_or(intent, PlatformError::host(intent, e)).await),
                Err(_) => {
                    let error = self.timeout("the guest's driver for virtual sockets", limit);
                    self.unplug_what_nobody_takes().await;
                    Err(error)
                }
            },
            () = self.qmp.closed() => Err(self.end_or(intent, PlatformError::host(intent, "QEMU is gone")).await),
        }
    }

    /// A guest that does not take it may not let go of it either: then it stays, and can be removed later.
    async fn unplug_what_nobody_takes(&self) {
        if let Some(name) = self.sockets.name().filter(|_| !self.agent_uses_sockets())
            && let Err(e) = self.unplug(&name).await
        {
            tracing::warn!(vm = %self.id, error = %e, "virtual sockets stay plugged in");
        }
    }

    /// Takes the device out, if it is there.
    pub(crate) async fn remove_sockets(&self) -> Result<(), PlatformError> {
        let _turn = self.step("an earlier change of the virtual sockets", self.sockets.turn.lock()).await?;
        if self.agent_uses_sockets() {
            return Err(PlatformError::NotAllowed {
                intent: "removing the virtual sockets".into(),
                why: "the guest's agent itself uses them".into(),
            });
        }
        let Some(name) = self.sockets.name() else { return Ok(()) };
        match self.life() {
            Life::Running => self.unplug(&name).await,
            life => Err(PlatformError::WrongState { intent: "remove the virtual sockets", state: life.name() }),
        }
    }

    fn agent_uses_sockets(&self) -> bool {
        self.transport.get().needs_shared_ram()
    }

    async fn plug_new(&self) -> Result<Vsock, PlatformError> {
        let name = format!("{VSOCK_DEVICE}-{}", self.sockets.count.fetch_add(1, Ordering::Relaxed));
        let slot = self.take_slot(&name).await?;
        let dir = self.residue.dir().map_err(|e| PlatformError::host("plug in virtual sockets", e))?;
        let (device, end) = transport::device(&dir)?;
        let plugged = self.plug_served(slot, end, json!({ "driver": "vhost-user-vsock-pci" })).await;
        if plugged.is_err() {
            device.close();
        }
        // What went unanswered may be there yet: a device that is of no use to anybody, until it is taken out.
        if matches!(plugged, Ok(()) | Err(PlatformError::Timeout { .. })) {
            *self.sockets.slot() = Some(Plugged { device: device.clone(), name });
        }
        plugged.map(|()| device)
    }

    async fn unplug(&self, name: &str) -> Result<(), PlatformError> {
        within(self.deadlines.host_call, self.undo_served(name)).await?;
        if let Some(plugged) = self.sockets.slot().take() {
            plugged.device.close();
        }
        Ok(())
    }
}
