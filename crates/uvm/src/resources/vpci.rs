//! PCI devices of the host, given to a VM.

use uvm_platform::requests::{Device, PciAssignment};
use uvm_wire::modify::{Modification, Resource, VpciDevice as GuestDevice};
use uvm_wire::negotiate::GuestOs;

use super::{Held, Limits, Plan, Wanted};
use crate::error::UvmError;
use crate::vm::UtilityVm;

/// A device to give, and the channel it gets if it is not there yet.
#[derive(Clone, Debug)]
pub(crate) struct Assignment {
    pub(crate) device: String,
    pub(crate) channel: String,
}

pub(super) fn plan(assignment: &Assignment, limits: &Limits) -> Plan {
    let Assignment { device, channel } = assignment.clone();
    // A Linux guest waits for the device; it is not told when that goes.
    let guest_add = (limits.os == GuestOs::Linux)
        .then(|| Modification::add(Resource::VpciDevice(GuestDevice { vmbus_guid: channel.clone() })));
    let device = Device::Pci(PciAssignment { channel, device, virtual_function: 0 });
    Plan { device: Some(device), guest_add, ..Plan::default() }
}

/// The class of channels of virtual PCI devices.
const CHANNEL_CLASS: &str = "{44c4f61d-4444-4400-9d52-802e27ede19f}";

/// A PCI device of the host that the VM has. Dropping it gives it back in the background; the last one takes it from the VM.
#[derive(Debug)]
pub struct VpciDevice {
    held: Held,
}

impl VpciDevice {
    /// The GUID of the channel it appears on in the guest.
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

    /// Gives it back; the last one takes it from the VM. Cancel-safe: it goes on.
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
    /// # Errors
    /// [`UvmError::Resource`]: the host or the guest refused, and nothing is left. [`UvmError::Refused`],
    /// [`UvmError::Exited`].
    pub async fn assign_device(&self, device: &str) -> Result<VpciDevice, UvmError> {
        let channel = self.inner.vm.new_guid().unwrap_or_else(crate::vm::random_guid).map_err(UvmError::Host)?;
        let assignment = Assignment { device: device.to_owned(), channel };
        Ok(VpciDevice { held: self.attach(format!("PCI device {device}"), Wanted::Pci(assignment)).await? })
    }
}
