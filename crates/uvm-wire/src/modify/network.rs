//! Network adapters and PCI devices of Linux guests.

use crate::object::omitting_object;

omitting_object! {
    /// A network adapter of a Linux guest.
    ///
    /// Addresses come in one of two shapes. Agents of January 2021 take `ip_address`, `prefix_length` and
    /// `gateway_address`; newer ones (2025-01) take `ip_configs` and `routes`, and use DHCP when there are none. A host
    /// that does not know which agent it has sends both.
    pub struct NetworkAdapter {
        /// The namespace the adapter belongs to. Guests compare it in lower case.
        pub namespace_id: String = "NamespaceID",
        /// The adapter's instance GUID, also in `Remove`.
        pub id: String = "ID",
        /// Its MAC address. Guests do not use it.
        pub mac_address: String = "MacAddress",
        /// Its address. Agents of January 2021. The original's host writes `<nil>` here for an endpoint without one.
        pub ip_address: String = "IPAddress",
        /// The length of its network prefix. Agents of January 2021.
        pub prefix_length: u8 = "PrefixLength",
        /// The default gateway. Agents of January 2021.
        pub gateway_address: String = "GatewayAddress",
        /// Its addresses. Newer agents (2025-01).
        pub ip_configs: Vec<IpConfig> = "IPConfigs",
        /// Its routes. Newer agents (2025-01).
        pub routes: Vec<Route> = "Routes",
        /// The DNS search list, separated by commas.
        pub dns_suffix: String = "DNSSuffix",
        /// The DNS servers, separated by commas.
        pub dns_server_list: String = "DNSServerList",
        /// Give the routes a low metric. Newer agents: only with `policy_based_routing`.
        pub enable_low_metric: bool = "EnableLowMetric",
        /// Route by source address. Newer agents (2025-01).
        pub policy_based_routing: bool = "PolicyBasedRouting",
        /// Bytes that encapsulation takes off the MTU.
        pub encap_overhead: u16 = "EncapOverhead",
        /// The adapter is an assigned PCI device. Newer agents (2021-10).
        pub vpci_assigned: bool = "VPCIAssigned",
    }
}

omitting_object! {
    /// One address of an adapter.
    pub struct IpConfig {
        /// The address.
        pub ip_address: String = "IPAddress",
        /// The length of its network prefix.
        pub prefix_length: u8 = "PrefixLength",
    }
}

omitting_object! {
    /// One route of an adapter.
    pub struct Route {
        /// The gateway; a default route through `0.0.0.0` or `::` is skipped.
        pub next_hop: String = "NextHop",
        /// What is reached through it, as `10.0.0.0/8`.
        pub destination_prefix: String = "DestinationPrefix",
        /// The metric.
        pub metric: u16 = "Metric",
    }
}

omitting_object! {
    /// A PCI device of a Linux guest. It can be added, but not removed.
    pub struct VpciDevice {
        /// The GUID of its channel.
        pub vmbus_guid: String = "VMBusGUID",
        /// Ours: the PCI address of the port that it is plugged into, where there are no channels. For agents that say
        /// [`pci_ports`](crate::negotiate::GuestDefinedCapabilities::pci_ports).
        pub port: String = "Port",
    }
}
