//! Networks of a host, as far as VMs have to do with them: namespaces, which containers are put into, and endpoints, by
//! which something is attached to one of the host's networks.
//!
//! What they are is the host's affair: with the Host Compute Service, what its network service (HCN, or HNS by its older
//! name) calls so.

use std::net::{IpAddr, Ipv6Addr};

use crate::BoxFuture;
use crate::error::PlatformError;

/// An endpoint of a network of the host, as far as guests are told of it. Plain data: what it describes is made and removed
/// by others.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Endpoint {
    /// Its id, which the host knows it by.
    pub id: String,
    /// The namespace it is in on the host; `None`: in none.
    pub namespace: Option<String>,
    /// Its MAC address, in the host's spelling; empty if it has none.
    pub mac_address: String,
    /// Its address.
    pub ip_address: Option<IpAddr>,
    /// How many bits of the address are its network's.
    pub prefix_length: u8,
    /// The default gateway.
    pub gateway: Option<IpAddr>,
    /// Its IPv6 address, where `ip_address` is of IPv4.
    pub ipv6_address: Option<Ipv6Addr>,
    /// How many bits of that are its network's.
    pub ipv6_prefix_length: u8,
    /// The default gateway of IPv6.
    pub ipv6_gateway: Option<Ipv6Addr>,
    /// The DNS search list, separated by commas.
    pub dns_suffix: String,
    /// The DNS servers, separated by commas.
    pub dns_servers: String,
    /// Its routes are preferred to others.
    pub low_metric: bool,
    /// How many bytes of each packet go to encapsulation, so many less than the network's MTU.
    pub encap_overhead: u16,
    /// The host's own description: JSON, with which Windows guests are told of it. `None`: it was put together by hand.
    pub description: Option<String>,
}

impl Endpoint {
    /// An endpoint without addresses, in a namespace of the host.
    pub fn new(id: impl Into<String>, namespace: impl Into<String>) -> Self {
        Self { namespace: Some(namespace.into()), ..Self::bare(id) }
    }

    /// An endpoint in no namespace.
    pub fn bare(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            namespace: None,
            mac_address: String::new(),
            ip_address: None,
            prefix_length: 0,
            gateway: None,
            ipv6_address: None,
            ipv6_prefix_length: 0,
            ipv6_gateway: None,
            dns_suffix: String::new(),
            dns_servers: String::new(),
            low_metric: false,
            encap_overhead: 0,
            description: None,
        }
    }
}

/// The network service of a host. None of its methods asks a VM.
pub trait PlatformNetwork: Send + Sync {
    /// How a Windows guest is told of this namespace: the host's own description, JSON. `None`: there is none of this id.
    ///
    /// # Errors
    /// [`PlatformError::BadInput`]: no namespace can have such an id; or the host fails.
    fn namespace<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<String>, PlatformError>>;

    /// The endpoint of this id. `None`: there is none.
    ///
    /// # Errors
    /// As [`namespace`](Self::namespace).
    fn endpoint<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Endpoint>, PlatformError>>;

    /// Takes an endpoint out of a namespace. Idempotent: one that is not there, or not in it, is out of it.
    ///
    /// # Errors
    /// As [`namespace`](Self::namespace).
    fn remove_endpoint<'a>(&'a self, namespace: &'a str, endpoint: &'a str)
    -> BoxFuture<'a, Result<(), PlatformError>>;

    /// Removes a namespace. Idempotent.
    ///
    /// # Errors
    /// As [`namespace`](Self::namespace).
    fn remove_namespace<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), PlatformError>>;

    /// What a Windows guest knows a network adapter by.
    fn adapter_name(&self) -> AdapterName;
}

/// What a Windows guest knows a network adapter by; it depends on how old its host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdapterName {
    /// Its id.
    Id,
    /// The id of its instance.
    InstanceId,
}
