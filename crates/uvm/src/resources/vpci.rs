//! PCI devices of the host, given to a VM.

use uvm_platform::requests::{Device, PciAssignment};
use uvm_wire::modify::{Modification, Resource, VpciDevice as GuestDevice};
use uvm_wire::negotiate::GuestOs;

use super::places::Places;
use super::table::Place;
use super::{EntryId, Held, Key, Limits, Plan, ResourceError, Wanted};
use crate::error::UvmError;
use crate::vm::UtilityVm;

/// A device to give, and the channel it gets if it is not there yet.
#[derive(Clone, Debug)]
pub(crate) struct Assignment {
    pub(crate) device: String,
    pub(crate) channel: String,
}

/// What tells devices apart: instance paths and addresses differ in case only by who wrote them down. The domain of a PCI
/// address may be left out where it is 0.
pub(super) fn key(device: &str, limits: &Limits) -> Key {
    let device = device.to_lowercase();
    let is_short = limits.pci_ports.is_some() && device.matches(':').count() == 1;
    Key::Pci(if is_short { format!("0000:{device}") } else { device })
}

pub(super) fn plan(
    assignment: &Assignment,
    places: &Places<EntryId>,
    limits: &Limits,
) -> Result<(Plan, Place), ResourceError> {
    let Assignment { device, channel } = assignment.clone();
    let (port, place, address) = match &limits.pci_ports {
        None => (None, Place::None, String::new()),
        Some(ports) if ports.is_empty() => return Err(ResourceError::NoPciPorts),
        Some(ports) => {
            let count = ports.len();
            // A device in a port that was left just now waits for the guest to forget the one before.
            let port = places.free_longest().ok_or(ResourceError::NoAvailableLocation { what: "PCI ports", count })?;
            let address = ports.get(port as usize).cloned().unwrap_or_default();
            (Some(port), Place::Pci(port), address)
        }
    };
    // A Linux guest waits for the device; it is not told when that goes.
    let guest_add = (limits.os == GuestOs::Linux)
        .then(|| Modification::add(Resource::VpciDevice(GuestDevice { vmbus_guid: channel.clone(), port: address })));
    let device = Device::Pci(PciAssignment { channel, device, virtual_function: 0, port });
    Ok((Plan { device: Some(device), guest_add, ..Plan::default() }, place))
}

/// The class of channels of virtual PCI devices.
const CHANNEL_CLASS: &str = "{44c4f61d-4444-4400-9d52-802e27ede19f}";

/// A PCI device of the host that the VM has. Dropping it gives it back in the background; the last one takes it from the VM.
/// What cannot be given back then is tried again, as with a [`ScsiMount`](crate::ScsiMount).
#[derive(Debug)]
pub struct VpciDevice {
    held: Held,
    guest_address: Option<String>,
}

impl VpciDevice {
    /// Its PCI address in the guest, as `0000:01:00.0`; `None` on Windows hosts, where it is found by its channel.
    pub fn guest_address(&self) -> Option<&str> {
        self.guest_address.as_deref()
    }

    /// The GUID of the channel it appears on in the guest. On QEMU there are no channels, and it is the device's name alone.
    pub fn vmbus_guid(&self) -> &str {
        match &self.held.plan.device {
            Some(Device::Pci(device)) => &device.channel,
            _ => "",
        }
    }

    /// The instance id of that channel, as Windows guests name it.
    pub fn vmbus_instance_id(&self) -> String {
        format!("VMBUS\\{CHANNEL_CLASS}\\{{{}}}", self.vmbus_guid())
    }

    /// Gives it back; the last one takes it from the VM.
    ///
    /// Cancel-safe, as [`ScsiMount::release`](crate::ScsiMount::release).
    ///
    /// # Errors
    /// [`UvmError::Resource`]: the host did not take it; this can be called again.
    pub async fn release(&self) -> Result<(), UvmError> {
        self.held.release().await
    }
}

impl UtilityVm {
    /// Gives the VM a PCI device of the host, by its instance path there, or shares that. A Linux guest has waited for it
    /// when this returns. Cancel-safe.
    ///
    /// On QEMU it is named by its PCI address (`0000:01:00.0`), takes one of [`LcowOptions::pci_ports`](crate::LcowOptions),
    /// and has to be bound to `vfio-pci` with all of its IOMMU group, bridges excepted; errors say what is not and what mends
    /// it. With real devices this has not been run yet: all but the assignment itself is tested with emulated ones.
    ///
    /// # Errors
    /// [`UvmError::Resource`]: no port, the host or the guest refused, and nothing is left. [`UvmError::Refused`],
    /// [`UvmError::Exited`].
    pub async fn assign_device(&self, device: &str) -> Result<VpciDevice, UvmError> {
        let channel = self.inner.vm.new_guid().unwrap_or_else(crate::vm::random_guid).map_err(UvmError::Host)?;
        let assignment = Assignment { device: device.to_owned(), channel };
        let what = format!("PCI device {device}");
        let held = self.attach(what.clone(), Wanted::Pci(assignment)).await?;
        let Some(Device::Pci(assigned)) = held.plan.device.clone() else {
            return Ok(VpciDevice { held, guest_address: None });
        };
        let told =
            self.inner.look("look at a PCI device of", |vm| async move { vm.pci_address(&assigned).await }).await;
        let guest_address = told.map_err(|source| self.inner.resource_error("find", &what, source))?;
        Ok(VpciDevice { held, guest_address })
    }
}
