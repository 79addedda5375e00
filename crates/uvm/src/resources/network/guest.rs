//! What a guest is told of namespaces and adapters.

use std::net::IpAddr;

use uvm_platform::network::{AdapterName, Endpoint};
use uvm_wire::RawJson;
use uvm_wire::modify::{
    IpConfig, Modification, NetworkAdapter, RequestType, Resource, Route, WindowsNetworkAdapter, WindowsResource,
};
use uvm_wire::negotiate::GuestDefinedCapabilities;

use super::super::ResourceError;

/// What a Linux guest understands of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Addresses {
    /// One, as agents of January 2021.
    One,
    /// Any number, and routes.
    Many,
}

impl Addresses {
    /// Only the agents of January 2021 update containers by a request of its own.
    pub(super) fn understood_by(guest: &GuestDefinedCapabilities) -> Self {
        if guest.update_container { Self::One } else { Self::Many }
    }
}

/// An adapter that a Linux guest gets.
pub(super) fn linux_added(
    id: &str,
    namespace: &str,
    endpoint: &Endpoint,
    addresses: Addresses,
) -> Result<Modification, ResourceError> {
    // A guest knows adapters by their namespace.
    let is_in_one = endpoint.namespace.as_ref().is_some_and(|namespace| !namespace.is_empty());
    if !is_in_one {
        let allowed = "it must be in a network namespace of the host";
        return Err(ResourceError::BadInput { what: "network endpoint", value: endpoint.id.clone(), allowed });
    }
    let (mut ip_configs, mut routes) = (Vec::new(), Vec::new());
    if addresses == Addresses::Many {
        let v6 = (endpoint.ipv6_address.map(IpAddr::V6), endpoint.ipv6_prefix_length, endpoint.ipv6_gateway);
        let both =
            [(endpoint.ip_address, endpoint.prefix_length, endpoint.gateway), (v6.0, v6.1, v6.2.map(IpAddr::V6))];
        for (ip_address, prefix_length, gateway) in both {
            ip_configs.extend(ip_address.map(|ip| IpConfig { ip_address: ip.to_string(), prefix_length }));
            routes.extend(gateway.map(default_route));
        }
    }
    let text = |address: Option<IpAddr>| address.map(|address| address.to_string()).unwrap_or_default();
    Ok(Modification::add(Resource::Network(NetworkAdapter {
        namespace_id: namespace.to_owned(),
        id: id.to_owned(),
        mac_address: endpoint.mac_address.clone(),
        ip_address: text(endpoint.ip_address),
        prefix_length: endpoint.prefix_length,
        gateway_address: text(endpoint.gateway),
        ip_configs,
        routes,
        dns_suffix: endpoint.dns_suffix.clone(),
        dns_server_list: endpoint.dns_servers.clone(),
        enable_low_metric: endpoint.low_metric,
        encap_overhead: endpoint.encap_overhead,
        ..NetworkAdapter::default()
    })))
}

fn default_route(gateway: IpAddr) -> Route {
    let all = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
    Route { next_hop: gateway.to_string(), destination_prefix: all.to_owned(), metric: 0 }
}

/// An adapter that a Linux guest loses: by its own id, not its endpoint's.
pub(super) fn linux_removed(id: &str, namespace: &str) -> Modification {
    Modification::remove(Resource::Network(NetworkAdapter {
        namespace_id: namespace.to_owned(),
        id: id.to_owned(),
        ..NetworkAdapter::default()
    }))
}

/// An adapter of a Windows guest: before it comes, with its endpoint; when it has come; when it goes.
pub(super) fn windows(id: &str, name: AdapterName, kind: RequestType, endpoint: Option<RawJson>) -> Modification {
    let (adapter_id, adapter_instance_id) = match name {
        AdapterName::Id => (id.to_owned(), String::new()),
        AdapterName::InstanceId => (String::new(), id.to_owned()),
    };
    let change = if kind == RequestType::Remove { Modification::remove } else { Modification::add };
    let request_type = Some(kind);
    let adapter = WindowsNetworkAdapter { adapter_id, adapter_instance_id, request_type, settings: endpoint };
    change(Resource::Windows(WindowsResource::Network(adapter)))
}

/// A namespace of a Windows guest, as the host describes it.
pub(super) fn windows_namespace(description: RawJson) -> Resource {
    Resource::Other { resource_type: "NetworkNamespace".to_owned(), settings: Some(description) }
}
