//! Which port carries what, and how a port is named on Hyper-V sockets.

use crate::guid::Guid;

/// Boot entropy: the guest's init dials, the host writes 512 bytes and closes.
pub const ENTROPY_PORT: u32 = 1;
/// What the agent logs, and its standard output and error.
pub const LOG_PORT: u32 = 109;
/// The 9P server of the host.
pub const PLAN9_PORT: u32 = 564;
/// The first port for connections to Unix sockets of the host (see [`MappedSocket`](crate::modify::MappedSocket)): each
/// socket has its own, from here up to the bridge.
pub const FIRST_SOCKET_PORT: u32 = 0x3000_0000;
/// The bridge: the protocol of this crate.
pub const BRIDGE_PORT: u32 = 0x4000_0000;
/// The first port for a process's stdio. A host counts up from here and uses no port twice in a connection.
pub const FIRST_STDIO_PORT: u32 = 0x4000_0001;

/// The Hyper-V socket service on which a Windows guest's agent dials the bridge.
pub const WINDOWS_BRIDGE_SERVICE: Guid = Guid::from_u128(0xacef_5661_84a1_4e44_856b_6245_e69f_4620);
/// The address of the host, as a Windows guest is told it.
pub const WINDOWS_PARENT_ADDRESS: Guid = Guid::from_u128(0x894c_c2d6_9d79_424f_93fe_4296_9ae6_d8d1);

const VSOCK_SERVICE_TEMPLATE: u128 = 0x0000_0000_facb_11e6_bd58_6400_6a79_86d3;

/// The Hyper-V socket service that is vsock port `port`: `PPPPPPPP-facb-11e6-bd58-64006a7986d3`.
pub const fn vsock_service(port: u32) -> Guid {
    Guid::from_u128((port as u128) << 96 | VSOCK_SERVICE_TEMPLATE)
}

/// The vsock port that `service` stands for; `None` when it is a service of another kind.
pub fn vsock_port(service: Guid) -> Option<u32> {
    let value = u128::from_be_bytes(*service.as_bytes());
    let port = (value >> 96) as u32;
    (vsock_service(port) == service).then_some(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_have_the_service_ids_of_the_protocol() {
        for (port, service) in [
            (ENTROPY_PORT, "00000001-facb-11e6-bd58-64006a7986d3"),
            (LOG_PORT, "0000006d-facb-11e6-bd58-64006a7986d3"),
            (PLAN9_PORT, "00000234-facb-11e6-bd58-64006a7986d3"),
            (BRIDGE_PORT, "40000000-facb-11e6-bd58-64006a7986d3"),
            (FIRST_STDIO_PORT, "40000001-facb-11e6-bd58-64006a7986d3"),
            (u32::MAX, "ffffffff-facb-11e6-bd58-64006a7986d3"),
        ] {
            assert_eq!(vsock_service(port).to_string(), service);
            assert_eq!(vsock_port(vsock_service(port)), Some(port));
        }
        assert_eq!(vsock_port(WINDOWS_BRIDGE_SERVICE), None);
        assert_eq!(WINDOWS_BRIDGE_SERVICE.to_string(), "acef5661-84a1-4e44-856b-6245e69f4620");
        assert_eq!(WINDOWS_PARENT_ADDRESS.to_string(), "894cc2d6-9d79-424f-93fe-42969ae6d8d1");
    }
}
