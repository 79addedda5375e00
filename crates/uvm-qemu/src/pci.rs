//! PCI devices of the host, plugged into the ports that the VM has for them since boot.
//!
//! QEMU opens the device by itself: of all it is given, this alone does not come as a descriptor, because QEMU before 8.2 takes
//! none. So its user has to be let at the node of the device's group, and it needs to lock all of the guest's memory.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Resource, Rlimit};
use serde_json::{Value, json};
use uvm_platform::requests::PciAssignment;
use uvm_platform::{Feature, PlatformError};

use crate::command::{pci_port, pci_port_address};
use crate::file_key::FileKey;
use crate::file_users;
use crate::process_info;
use crate::qmp::CallError;
use crate::slots::Freed;
use crate::vfio::{Group, PciAddress, Vfio};
use crate::vm::{Vm, not_here};

/// What a device may lock beyond the guest's memory: its own regions, and QEMU's.
const LOCKED_BEYOND: u64 = 1 << 30;

/// The devices of one VM.
pub(crate) struct PciDevices {
    ports: u32,
    memory_bytes: u64,
    vfio: Vfio,
    slots: Mutex<Vec<PortSlot>>,
}

/// The one slot behind a port.
#[derive(Clone, Debug)]
enum PortSlot {
    Free(Freed),
    /// QEMU's name of what is in it, or may be.
    Taken(String),
}

impl PciDevices {
    pub(crate) fn new(ports: u32, memory_mib: u64, vfio: Vfio) -> Self {
        let slots = Mutex::new(vec![PortSlot::Free(Freed::default()); ports as usize]);
        Self { ports, memory_bytes: memory_mib << 20, vfio, slots }
    }

    /// The guest's addresses of the ports.
    pub(crate) fn addresses(&self) -> Vec<String> {
        (0..self.ports).map(pci_port_address).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<PortSlot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since when a port is free; `None` if it is not.
    fn freed(&self, port: u32) -> Option<Freed> {
        match self.lock().get(port as usize) {
            Some(PortSlot::Free(freed)) => Some(*freed),
            _ => None,
        }
    }

    fn is_of(&self, port: u32, name: &str) -> bool {
        matches!(self.lock().get(port as usize), Some(PortSlot::Taken(there)) if there == name)
    }

    fn take(&self, port: u32, name: &str) {
        self.set(port, PortSlot::Taken(name.to_owned()));
    }

    /// The device is gone.
    fn give_back(&self, port: u32) {
        self.set(port, PortSlot::Free(Freed::now()));
    }

    fn set(&self, port: u32, slot: PortSlot) {
        if let Some(there) = self.lock().get_mut(port as usize) {
            *there = slot;
        }
    }
}

impl Vm {
    /// Plugs a device in. If that fails, nothing is left of it; what went unanswered is taken back by
    /// [`remove_pci`](Self::remove_pci).
    pub(crate) async fn add_pci(&self, assignment: &PciAssignment) -> Result<(), PlatformError> {
        if let Some(why) = self.pci.vfio.obstacle() {
            return Err(not_here(Feature::PciDevices, &why));
        }
        let bad = |why: String| PlatformError::BadInput { what: "PCI device", value: assignment.device.clone(), why };
        let address = PciAddress::parse(&assignment.device)
            .ok_or_else(|| bad("a PCI address is needed, as lspci -D shows it: 0000:01:00.0".into()))?;
        if assignment.virtual_function != 0 {
            return Err(bad("a virtual function has an address of its own: give that".into()));
        }
        let port = assignment.port.filter(|port| *port < self.pci.ports);
        let port = port.ok_or_else(|| bad("it is to be plugged into no port of the VM".into()))?;
        let (vfio, checked, pid) = (self.pci.vfio.clone(), address.clone(), self.child.id());
        let intent = format!("look at PCI device {address}");
        let unknown = PlatformError::host(intent.clone(), format!("QEMU (pid {pid}) does not show whom it runs as"));
        let look = move || Ok(vfio.check(&checked, &process_info::runs_as(pid).ok_or(unknown)?));
        let group = self.blocking_step(intent, look).await?.map_err(bad)?;
        if self.pci.vfio.stand_in.is_none() {
            self.let_it_lock().map_err(bad)?;
        }
        let name = format!("pci-{}", assignment.channel);
        let Some(freed) = self.pci.freed(port) else {
            return Err(PlatformError::host(format!("assign {address}"), format!("port {port} has a device")));
        };
        // Nobody takes it meanwhile: what is done to one port is done in turns.
        self.step(&format!("PCI port {port} to have been free for long enough"), freed.for_long_enough()).await?;
        self.pci.take(port, &name);
        let mut device =
            json!({ "driver": "vfio-pci", "id": name, "bus": pci_port(port), "host": address.to_string() });
        if let Some(driver) = &self.pci.vfio.stand_in {
            device = json!({ "driver": driver, "id": name, "bus": pci_port(port) });
        }
        match self.qmp.call("device_add", device).await {
            Ok(_) => Ok(()),
            Err(CallError::Refused(e)) => {
                self.pci.set(port, PortSlot::Free(freed));
                let why = if e.desc.contains("busy") { self.used_by(group, &e.desc).await } else { e.desc };
                Err(PlatformError::host(format!("assign {address}"), why))
            }
            Err(e) => Err(self.call_error("device_add", e).await),
        }
    }

    /// QEMU does not say by whom.
    async fn used_by(&self, group: Group, description: &str) -> String {
        let this = std::process::id();
        let look = move || {
            let key = group.node.metadata().map(|meta| FileKey::of(&meta));
            Ok(key.map(|key| file_users::besides(key, &[this])).unwrap_or_default())
        };
        let users = self.blocking_step("find who uses a PCI device".into(), look).await.unwrap_or_default();
        if users.is_empty() {
            description.to_owned()
        } else {
            format!("{description}: it is in use by {}", users.join(", "))
        }
    }

    /// All of the guest's memory is locked while it has a device.
    fn let_it_lock(&self) -> Result<(), String> {
        let needed = self.pci.memory_bytes + LOCKED_BEYOND;
        // It has begun with what this process has.
        let own = rustix::process::getrlimit(Resource::Memlock).current;
        if own.is_none_or(|own| own >= needed) {
            return Ok(());
        }
        let qemu = Pid::from_raw(self.child.id().cast_signed());
        let limit = Rlimit { current: Some(needed), maximum: Some(needed) };
        let Err(e) = rustix::process::prlimit(qemu, Resource::Memlock, limit) else { return Ok(()) };
        Err(format!(
            "QEMU may lock {} bytes of memory and needs {needed} for a VM with devices ({e}); ulimit -l {} in the owner's \
             shell lets it",
            own.unwrap_or_default(),
            needed.div_ceil(1024)
        ))
    }

    /// Takes a device out: the guest lets go of it, then QEMU. A port without one is free. After a failure it can be called
    /// again, and goes on.
    pub(crate) async fn remove_pci(&self, assignment: &PciAssignment) -> Result<(), PlatformError> {
        let Some(port) = assignment.port else { return Ok(()) };
        let name = format!("pci-{}", assignment.channel);
        if !self.pci.is_of(port, &name) {
            return Ok(());
        }
        self.remove_device(&name).await?;
        self.pci.give_back(port);
        Ok(())
    }

    /// The guest's address of a device: the bus behind its port has the number that the guest gave it.
    pub(crate) async fn pci_address(&self, assignment: &PciAssignment) -> Result<Option<String>, PlatformError> {
        let Some(port) = assignment.port else { return Ok(None) };
        let buses = self.call("query-pci", Value::Null).await?;
        Ok(bus_behind(&buses, &pci_port(port)).map(|bus| format!("0000:{bus:02x}:00.0")))
    }
}

/// The number of the bus behind the bridge of this name.
fn bus_behind(buses: &Value, bridge: &str) -> Option<u8> {
    let devices = buses.as_array()?.iter().filter_map(|bus| bus["devices"].as_array()).flatten();
    let bridge = devices.into_iter().find(|device| device["qdev_id"] == bridge)?;
    u8::try_from(bridge["pci_bridge"]["bus"]["secondary"].as_u64()?).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_port_is_free_for_a_while_before_it_is_taken_again() {
        let pci = PciDevices::new(2, 1024, Vfio::default());
        assert!(pci.freed(2).is_none(), "there are two");
        pci.take(0, "one");
        assert!(pci.freed(0).is_none() && pci.is_of(0, "one") && !pci.is_of(0, "two"));
        let waited = async |port| {
            let began = Instant::now();
            pci.freed(port).expect("free").for_long_enough().await;
            began.elapsed()
        };
        assert_eq!(waited(1).await, Duration::ZERO, "nothing was there");
        pci.give_back(0);
        assert!(!pci.is_of(0, "one"));
        assert!(waited(0).await > Duration::ZERO);
        assert_eq!(waited(0).await, Duration::ZERO, "it was free for long enough");
    }

    #[test]
    fn the_bus_behind_a_port_is_found() {
        let port = |name: &str, bus: u64| json!({ "qdev_id": name, "pci_bridge": { "bus": { "secondary": bus } } });
        let buses = json!([{ "bus": 0, "devices": [{ "qdev_id": "" }, port("rp0", 2), port("rp1", 300)] }]);
        assert_eq!(bus_behind(&buses, "rp0"), Some(2));
        // The guest has written what is no number of a bus.
        assert_eq!((bus_behind(&buses, "rp1"), bus_behind(&buses, "rp2")), (None, None));
        assert_eq!(bus_behind(&Value::Null, "rp0"), None);
    }
}
