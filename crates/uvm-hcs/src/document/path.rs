//! What a change names: the path of a resource in the service's model of a VM.

use uvm_platform::requests::ScsiSlot;

/// The size of the memory.
pub const MEMORY: &str = "VirtualMachine/ComputeTopology/Memory/SizeInMB";
/// The CPU group.
pub const CPU_GROUP: &str = "VirtualMachine/ComputeTopology/Processor/CpuGroup";
/// The limits of processor time.
pub const CPU_LIMITS: &str = "VirtualMachine/ComputeTopology/Processor/Limits";
/// All 9P shares.
pub const PLAN9_SHARES: &str = "VirtualMachine/Devices/Plan9/Shares";
/// All shares of a Windows guest.
pub const VSMB_SHARES: &str = "VirtualMachine/Devices/VirtualSmb/Shares";

/// A SCSI disk.
pub fn scsi(slot: ScsiSlot) -> String {
    format!("VirtualMachine/Devices/Scsi/{}/Attachments/{}", slot.controller, slot.lun)
}

/// A memory-backed device.
pub fn vpmem(slot: u32) -> String {
    format!("VirtualMachine/Devices/VirtualPMem/Devices/{slot}")
}

/// A network adapter, by its GUID.
pub fn network_adapter(id: &str) -> String {
    format!("VirtualMachine/Devices/NetworkAdapters/{id}")
}

/// A named pipe of the host, its backslashes as they are.
pub fn mapped_pipe(host_path: &str) -> String {
    format!("VirtualMachine/Devices/MappedPipes/{host_path}")
}

/// A PCI device, by the GUID of its channel.
pub fn pci_device(channel: &str) -> String {
    format!("VirtualMachine/Devices/VirtualPci/{channel}")
}

/// A virtual socket service, by its GUID.
pub fn hv_socket_service(id: &str) -> String {
    format!("VirtualMachine/Devices/HvSocket/HvSocketConfig/ServiceTable/{id}")
}
