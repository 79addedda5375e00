//! The guest's half of a change: what its agent is told, through whoever holds the connection to it.
//!
//! A function that gives `None` has nothing to tell.

use serde::Deserialize;
use uvm_platform::requests::{NetworkAdapter, PciAssignment, Plan9Export, ScsiAttachment, VpmemDevice};
use uvm_wire::modify::{
    HvSocketAddresses, IpConfig, MappedDirectory, MappedVirtualDisk, Modification, NetworkAdapter as GuestAdapter,
    RequestType, Resource, Route, VpciDevice, VpmemDevice as GuestVpmemDevice, WindowsMappedDirectory,
    WindowsMappedVirtualDisk, WindowsNetworkAdapter, WindowsResource,
};
use uvm_wire::ports::WINDOWS_PARENT_ADDRESS;
use uvm_wire::{Guid, RawJson};

use super::DocumentError;
use crate::windows_build::WindowsBuild;

/// Which of a thing's two ends is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was plugged in.
    Add,
    /// It will be unplugged.
    Remove,
}

impl End {
    fn of(self, resource: Resource) -> Modification {
        match self {
            Self::Add => Modification::add(resource),
            Self::Remove => Modification::remove(resource),
        }
    }
}

/// A SCSI disk of a Linux guest, mounted at `mount_path` unless that is empty. A disk that goes is always told, so that
/// the guest can let go of it.
pub fn linux_disk(end: End, disk: &ScsiAttachment, mount_path: &str) -> Option<Modification> {
    if mount_path.is_empty() && end == End::Add {
        return None;
    }
    Some(end.of(Resource::MappedVirtualDisk(MappedVirtualDisk {
        mount_path: mount_path.to_owned(),
        lun: disk.slot.lun,
        controller: disk.slot.controller,
        read_only: end == End::Add && disk.read_only,
        ..MappedVirtualDisk::default()
    })))
}

/// A SCSI disk of a Windows guest, mounted at `mount_path`. Without one there is nothing to tell.
pub fn windows_disk(end: End, disk: &ScsiAttachment, mount_path: &str) -> Option<Modification> {
    if mount_path.is_empty() {
        return None;
    }
    Some(end.of(Resource::Windows(WindowsResource::MappedVirtualDisk(WindowsMappedVirtualDisk {
        container_path: mount_path.to_owned(),
        lun: disk.slot.lun.into(),
    }))))
}

/// Where a Linux guest mounts a memory-backed disk.
pub fn vpmem_mount_path(slot: u32) -> String {
    format!("/run/layers/p{slot}")
}

/// A memory-backed disk of a Linux guest.
pub fn vpmem(end: End, device: &VpmemDevice) -> Modification {
    end.of(Resource::VpmemDevice(GuestVpmemDevice {
        device_number: device.slot,
        mount_path: vpmem_mount_path(device.slot),
        ..GuestVpmemDevice::default()
    }))
}

/// A 9P share, mounted at `mount_path`.
pub fn plan9(end: End, share: &Plan9Export, mount_path: &str) -> Modification {
    end.of(Resource::MappedDirectory(MappedDirectory {
        mount_path: mount_path.to_owned(),
        port: share.port.0.cast_signed(),
        share_name: share.name.clone(),
        read_only: end == End::Add && share.read_only,
    }))
}

/// A directory of a share, to be seen at `path` in a Windows guest.
pub fn windows_directory(share_path: &str, path: &str, read_only: bool) -> Modification {
    Modification::add(Resource::Windows(WindowsResource::MappedDirectory(WindowsMappedDirectory {
        host_path: share_path.to_owned(),
        container_path: path.to_owned(),
        read_only,
    })))
}

/// A PCI device of a Linux guest, which only learns of it when it comes.
pub fn pci(device: &PciAssignment) -> Modification {
    Modification::add(Resource::VpciDevice(VpciDevice { vmbus_guid: device.channel.clone() }))
}

/// The Hyper-V socket addresses that a Windows guest is told after negotiation.
pub fn hv_socket_addresses(runtime_id: Guid) -> Modification {
    Modification::update(Resource::Windows(WindowsResource::HvSocket(HvSocketAddresses {
        local_address: Some(runtime_id),
        parent_address: Some(WINDOWS_PARENT_ADDRESS),
    })))
}

/// An endpoint, as the host's network service describes it, as far as guests are told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[non_exhaustive]
pub struct Endpoint {
    /// Its id.
    #[serde(rename = "ID")]
    pub id: String,
    /// The namespace it is in.
    pub namespace: EndpointNamespace,
    /// Its MAC address.
    pub mac_address: String,
    /// Its address.
    #[serde(rename = "IPAddress")]
    pub ip_address: String,
    /// The length of its network prefix.
    pub prefix_length: u8,
    /// The default gateway.
    pub gateway_address: String,
    /// Its IPv6 address.
    #[serde(rename = "IPv6Address")]
    pub ipv6_address: String,
    /// The length of its IPv6 prefix.
    #[serde(rename = "IPv6PrefixLength")]
    pub ipv6_prefix_length: u8,
    /// The default IPv6 gateway.
    #[serde(rename = "GatewayAddressV6")]
    pub ipv6_gateway: String,
    /// The DNS search list.
    #[serde(rename = "DNSSuffix")]
    pub dns_suffix: String,
    /// The DNS servers.
    #[serde(rename = "DNSServerList")]
    pub dns_server_list: String,
    /// Give its routes a low metric.
    pub enable_low_metric: bool,
    /// Bytes that encapsulation takes off the MTU.
    pub encap_overhead: u16,
}

/// The namespace of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct EndpointNamespace {
    /// Its id.
    #[serde(rename = "ID")]
    pub id: String,
}

impl Endpoint {
    /// Reads a description.
    ///
    /// # Errors
    /// It is none, or there is no id in it.
    pub fn read(description: &RawJson) -> Result<Self, DocumentError> {
        let bad = |why| DocumentError::bad("network endpoint", &description.get(), why);
        let endpoint: Self =
            serde_json::from_str(description.get()).map_err(|_| bad("it is no description of an endpoint"))?;
        if endpoint.id.is_empty() { Err(bad("it has no id")) } else { Ok(endpoint) }
    }
}

/// What a Linux guest understands of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestAddresses {
    /// One address, as agents of January 2021.
    One,
    /// Any number of addresses and routes too.
    Many,
}

/// A network adapter of a Linux guest that comes.
///
/// # Errors
/// The endpoint is in no namespace: a guest knows adapters by theirs.
pub fn linux_adapter_added(
    adapter: &NetworkAdapter,
    endpoint: &Endpoint,
    addresses: GuestAddresses,
) -> Result<Modification, DocumentError> {
    if endpoint.namespace.id.is_empty() {
        return Err(DocumentError::bad("network endpoint", &endpoint.id, "it must be in a network namespace"));
    }
    let (mut ip_configs, mut routes) = (Vec::new(), Vec::new());
    if addresses == GuestAddresses::Many {
        for (ip, prefix_length, gateway, all) in [
            (&endpoint.ip_address, endpoint.prefix_length, &endpoint.gateway_address, "0.0.0.0/0"),
            (&endpoint.ipv6_address, endpoint.ipv6_prefix_length, &endpoint.ipv6_gateway, "::/0"),
        ] {
            if !ip.is_empty() {
                ip_configs.push(IpConfig { ip_address: ip.clone(), prefix_length });
            }
            if !gateway.is_empty() {
                routes.push(Route { next_hop: gateway.clone(), destination_prefix: all.to_owned(), metric: 0 });
            }
        }
    }
    Ok(Modification::add(Resource::Network(GuestAdapter {
        namespace_id: endpoint.namespace.id.clone(),
        id: adapter.adapter_id.clone(),
        mac_address: endpoint.mac_address.clone(),
        ip_address: endpoint.ip_address.clone(),
        prefix_length: endpoint.prefix_length,
        gateway_address: endpoint.gateway_address.clone(),
        ip_configs,
        routes,
        dns_suffix: endpoint.dns_suffix.clone(),
        dns_server_list: endpoint.dns_server_list.clone(),
        enable_low_metric: endpoint.enable_low_metric,
        encap_overhead: endpoint.encap_overhead,
        ..GuestAdapter::default()
    })))
}

/// A network adapter of a Linux guest that goes, by its own GUID.
pub fn linux_adapter_removed(adapter: &NetworkAdapter, namespace_id: &str) -> Modification {
    Modification::remove(Resource::Network(GuestAdapter {
        namespace_id: namespace_id.to_owned(),
        id: adapter.adapter_id.clone(),
        ..GuestAdapter::default()
    }))
}

/// What a Windows guest is told of a network adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WindowsAdapterStep {
    /// It will come, with this endpoint as the host's network service describes it.
    PreAdd(RawJson),
    /// It has come.
    Add,
    /// It will go, or will not come after all.
    Remove,
}

/// A network adapter of a Windows guest on a host of this build.
pub fn windows_adapter(step: WindowsAdapterStep, adapter: &NetworkAdapter, build: WindowsBuild) -> Modification {
    let (end, request_type, settings) = match step {
        WindowsAdapterStep::PreAdd(endpoint) => (End::Add, RequestType::PreAdd, Some(endpoint)),
        WindowsAdapterStep::Add => (End::Add, RequestType::Add, None),
        WindowsAdapterStep::Remove => (End::Remove, RequestType::Remove, None),
    };
    let id = adapter.adapter_id.clone();
    let (adapter_id, adapter_instance_id) =
        if build >= WindowsBuild::RS5 { (id, String::new()) } else { (String::new(), id) };
    let adapter = WindowsNetworkAdapter { adapter_id, adapter_instance_id, request_type: Some(request_type), settings };
    end.of(Resource::Windows(WindowsResource::Network(adapter)))
}

/// A network namespace of a Windows guest, as the host's network service describes it.
pub fn windows_namespace(end: End, description: RawJson) -> Modification {
    end.of(Resource::Other { resource_type: "NetworkNamespace".to_owned(), settings: Some(description) })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json, to_value};
    use uvm_platform::requests::{ScsiKind, ScsiSlot};

    use super::*;

    fn disk() -> ScsiAttachment {
        let slot = ScsiSlot { controller: 0, lun: 3 };
        ScsiAttachment { slot, path: r"C:\d.vhdx".into(), kind: ScsiKind::VirtualDisk, read_only: true }
    }

    fn adapter() -> NetworkAdapter {
        NetworkAdapter { adapter_id: "nic".into(), endpoint_id: "endpoint".into(), mac_address: String::new() }
    }

    fn json_of(modification: &Modification) -> Value {
        to_value(modification).expect("JSON")
    }

    fn endpoint(description: &Value) -> Endpoint {
        Endpoint::read(&RawJson::of(description).expect("JSON")).expect("an endpoint")
    }

    #[test]
    fn d39_a_windows_guest_hears_nothing_of_a_disk_it_never_mounted() {
        assert_eq!(windows_disk(End::Remove, &disk(), ""), None);
        let linux = linux_disk(End::Remove, &disk(), "").expect("it unplugs the disk");
        assert_eq!(json_of(&linux)["Settings"], json!({"Lun": 3}));
    }

    #[test]
    fn d9_a_windows_adapter_that_goes_is_a_network_resource() {
        let removed = windows_adapter(WindowsAdapterStep::Remove, &adapter(), WindowsBuild(17762));
        assert_eq!(
            json_of(&removed),
            json!({"RequestType": "Remove", "ResourceType": "Network",
                   "Settings": {"AdapterInstanceId": "nic", "RequestType": "Remove"}})
        );
    }

    #[test]
    fn d10_a_linux_adapter_that_goes_is_named_by_its_own_guid() {
        let removed = json_of(&linux_adapter_removed(&adapter(), "ns"));
        assert_eq!(removed["Settings"], json!({"NamespaceID": "ns", "ID": "nic"}));
    }

    #[test]
    fn d57_an_address_that_is_not_there_is_left_out_and_a_namespace_is_needed() {
        let in_namespace = endpoint(&json!({"ID": "e", "Namespace": {"ID": "ns"}}));
        let added = linux_adapter_added(&adapter(), &in_namespace, GuestAddresses::Many).expect("it is in one");
        assert_eq!(json_of(&added)["Settings"], json!({"NamespaceID": "ns", "ID": "nic"}));
        for bare in [json!({"ID": "bare"}), json!({"ID": "bare", "Namespace": {"ID": ""}})] {
            let error =
                linux_adapter_added(&adapter(), &endpoint(&bare), GuestAddresses::One).expect_err("no namespace");
            assert!(error.to_string().contains("\"bare\""), "{error}");
        }
        assert!(Endpoint::read(&RawJson::parse(r#"{"Name":"x"}"#).expect("JSON")).is_err());
    }

    #[test]
    fn d58_a_guest_that_understands_them_gets_all_addresses() {
        let both = endpoint(&json!({"ID": "e", "Namespace": {"ID": "ns"}, "IPAddress": "10.0.0.2", "PrefixLength": 8,
            "GatewayAddress": "10.0.0.1", "IPv6Address": "fd00::4", "IPv6PrefixLength": 64,
            "GatewayAddressV6": "fd00::1"}));
        let added = linux_adapter_added(&adapter(), &both, GuestAddresses::Many).expect("it is in a namespace");
        let settings = &json_of(&added)["Settings"];
        assert_eq!(
            settings["IPConfigs"],
            json!([{"IPAddress": "10.0.0.2", "PrefixLength": 8}, {"IPAddress": "fd00::4", "PrefixLength": 64}])
        );
        assert_eq!(settings["Routes"][1], json!({"NextHop": "fd00::1", "DestinationPrefix": "::/0"}));
        assert_eq!(settings["IPAddress"], "10.0.0.2");
        let added = linux_adapter_added(&adapter(), &both, GuestAddresses::One).expect("it is in a namespace");
        assert_eq!(json_of(&added)["Settings"].get("IPConfigs"), None);
    }
}
