//! Devices of the host that the guest is given: network adapters, PCI devices.

/// A network adapter and the endpoint of the host's network it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkAdapter {
    /// The adapter's GUID, as text without braces.
    pub adapter_id: String,
    /// The endpoint's id.
    pub endpoint_id: String,
    /// Its MAC address, as the host's network service writes it; empty if it has none.
    pub mac_address: String,
}

/// A PCI device of the host, given to the VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciAssignment {
    /// The GUID of the channel it appears on in the guest, as text without braces.
    pub channel: String,
    /// The device's instance path on the host; on Linux its PCI address.
    pub device: String,
    /// Which virtual function of it; 0 for the device itself.
    pub virtual_function: u16,
    /// Which of the VM's [ports](crate::PlatformVm::pci_ports) it is plugged into; `None` on hosts that have none.
    pub port: Option<u32>,
}
