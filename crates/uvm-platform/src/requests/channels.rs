//! Ways between programs of the guest and of the host: pipes, virtual socket services.

use std::path::PathBuf;

use crate::hvsocket::{HvSocketServiceConfig, HvSocketServiceId};
use crate::stream::Port;

/// A named pipe of the host, or on Linux a Unix socket, to be reached from the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedPipe {
    /// The pipe, or the socket.
    pub path: PathBuf,
    /// Where the guest's agent dials for each connection, on a host whose
    /// [guests do not reach pipes by themselves](crate::PlatformVm::guest_reaches_pipes); `None` on others.
    pub port: Option<Port>,
}

/// A virtual socket service of the VM: who may use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HvSocketService {
    /// The service.
    pub id: HvSocketServiceId,
    /// Who may use it.
    pub config: HvSocketServiceConfig,
}
