//! `NegotiateProtocol`: which version both sides speak, and what the guest can do.

use serde::{Deserialize, Serialize};

use crate::call::{Reply, sealed::Sealed};
use crate::create::SchemaVersion;
use crate::failure::Failure;
use crate::header::MessageType;
use crate::hresult::Hresult;
use crate::object::omitting_object;

/// The version of the protocol that this crate speaks, the only one both originals have in common.
pub const PROTOCOL_VERSION: u32 = 4;

/// The first request of a connection: the versions the host speaks. Its container id is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NegotiateProtocol {
    /// The lowest version.
    #[serde(rename = "MinimumVersion")]
    pub minimum_version: u32,
    /// The highest version.
    #[serde(rename = "MaximumVersion")]
    pub maximum_version: u32,
}

impl NegotiateProtocol {
    /// What a host of ours sends: version 4 and no other.
    pub const OURS: Self = Self { minimum_version: PROTOCOL_VERSION, maximum_version: PROTOCOL_VERSION };

    /// The version a guest answers with.
    ///
    /// # Errors
    /// The failure to answer with, [`Hresult::UNSUPPORTED_PROTOCOL_VERSION`]: version 4 is not among the host's.
    pub fn choose_version(&self) -> Result<u32, Failure> {
        let Self { minimum_version, maximum_version } = *self;
        if (minimum_version..=maximum_version).contains(&PROTOCOL_VERSION) {
            Ok(PROTOCOL_VERSION)
        } else {
            Err(Failure::wrapping(
                Hresult::UNSUPPORTED_PROTOCOL_VERSION,
                format_args!("the host speaks versions {minimum_version} to {maximum_version}, this agent only 4"),
            ))
        }
    }
}

/// Whether a guest serves requests of this type in this state of a connection: `NegotiateProtocol` until a version is
/// agreed on, everything else after. What is not served is answered with
/// [`RequestError::not_served`](crate::request::RequestError::not_served).
pub fn is_served(negotiated_version: Option<u32>, message_type: MessageType) -> bool {
    (message_type == MessageType::NEGOTIATE_PROTOCOL) == negotiated_version.is_none()
}

/// Answers [`NegotiateProtocol`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NegotiateProtocolReply {
    /// The version chosen.
    #[serde(rename = "Version")]
    pub version: u32,
    /// What the guest can do.
    #[serde(rename = "Capabilities", default)]
    pub capabilities: Capabilities,
}

impl NegotiateProtocolReply {
    /// Checks that the guest has chosen the version that this crate speaks.
    ///
    /// # Errors
    /// [`UnexpectedVersion`]: it has chosen another, and nothing it sends can be understood.
    pub fn check_version(&self) -> Result<(), UnexpectedVersion> {
        if self.version == PROTOCOL_VERSION { Ok(()) } else { Err(UnexpectedVersion { version: self.version }) }
    }
}

impl Sealed for NegotiateProtocolReply {}
impl Reply for NegotiateProtocolReply {}

/// The guest has chosen a version that was not offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the guest chose protocol version {version}, but only {PROTOCOL_VERSION} was offered")]
pub struct UnexpectedVersion {
    /// The version chosen.
    pub version: u32,
}

omitting_object! {
    /// What the guest can do. A Linux guest sets only the last three; [`linux`](Self::linux) does.
    pub struct Capabilities {
        /// The host is to send `Create` for the VM itself.
        pub send_host_create_message: bool = "SendHostCreateMessage",
        /// The host is to send `Start` for the VM itself, after `Create`.
        pub send_host_start_message: bool = "SendHostStartMessage",
        /// The guest wants its Hyper-V socket addresses at start.
        pub hv_socket_config_on_startup: bool = "HvSocketConfigOnStartup",
        /// The guest sends life-cycle notifications. No guest does.
        pub send_lifecycle_notifications: bool = "SendLifecycleNotifications",
        /// `ModifyServiceSettings` may be sent. Newer Windows guests (2025-11) only.
        pub modify_service_settings: bool = "ModifyServiceSettingsSupported",
        /// The versions of configurations that the guest understands.
        pub supported_schema_versions: Vec<SchemaVersion> = "SupportedSchemaVersions",
        /// `Linux`, `Windows`, or nothing. Read it with [`guest_os`](Self::guest_os).
        pub runtime_os_type: String = "RuntimeOsType",
        /// What this kind of guest can do.
        pub guest_defined: GuestDefinedCapabilities = "GuestDefinedCapabilities",
    }
}

impl Capabilities {
    /// Those of a Linux guest.
    pub fn linux(guest_defined: GuestDefinedCapabilities) -> Self {
        Self {
            supported_schema_versions: vec![SchemaVersion::V2_1],
            runtime_os_type: "Linux".to_owned(),
            guest_defined,
            ..Self::default()
        }
    }

    /// The guest's operating system. A guest that does not say is a Windows guest; `None` for one of another kind.
    pub fn guest_os(&self) -> Option<GuestOs> {
        match self.runtime_os_type.to_ascii_lowercase().as_str() {
            "linux" => Some(GuestOs::Linux),
            "" | "windows" => Some(GuestOs::Windows),
            _ => None,
        }
    }
}

/// The operating systems a guest may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GuestOs {
    /// Linux.
    Linux,
    /// Windows.
    Windows,
}

omitting_object! {
    /// What this kind of guest can do.
    ///
    /// The last seven keys are extensions of ours. They are left out unless set, and hosts that do not know them read
    /// past them; nothing basic depends on them.
    pub struct GuestDefinedCapabilities {
        /// The host may send `Network` requests.
        pub namespace_add_request: bool = "NamespaceAddRequestSupported",
        /// `SignalProcess` works.
        pub signal_process: bool = "SignalProcessSupported",
        /// `DumpStacks` works.
        pub dump_stacks: bool = "DumpStacksSupported",
        /// `DeleteContainerState` works.
        pub delete_container_state: bool = "DeleteContainerStateSupported",
        /// `UpdateContainer` works. Agents of January 2021 only.
        pub update_container: bool = "UpdateContainerSupported",
        /// The guest forwards its logs. Newer Windows guests only.
        pub log_forwarding: bool = "LogForwardingSupported",
        /// The guest runs host-process containers. Newer Windows guests only.
        pub host_process_container: bool = "HostProcessContainerSupported",
        /// Ours: processes of the VM itself can be signalled and resized, with the id of the VM.
        pub external_process_signal: bool = "ExternalProcessSignalSupported",
        /// Ours: answers carry [`signal`](crate::process::WaitForProcessReply::signal) and [`errno`](Failure::errno).
        pub exit_detail: bool = "ExitDetailSupported",
        /// Ours: [`MappedSocket`](crate::modify::MappedSocket) can be added and removed.
        pub mapped_sockets: bool = "MappedSocketSupported",
        /// Ours: [`DiskSize`](crate::modify::DiskSize) can be updated.
        pub disk_sizes: bool = "DiskSizeSupported",
        /// Ours: shares that are virtio-fs devices are mounted by their [`tag`](crate::modify::MappedDirectory::tag).
        pub virtio_fs: bool = "VirtioFsSupported",
        /// Ours: a PCI device is found by its [port](crate::modify::VpciDevice::port).
        pub pci_ports: bool = "PCIPortSupported",
        /// Ours: the version of the agent, when it is one of ours.
        pub uvm_agent_version: String = "UvmAgentVersion",
    }
}

impl GuestDefinedCapabilities {
    /// Those of the original Linux agents, of January 2021 and newer.
    pub fn linux() -> Self {
        Self {
            namespace_add_request: true,
            signal_process: true,
            dump_stacks: true,
            delete_container_state: true,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_4_is_chosen_whenever_the_host_speaks_it() {
        for (minimum_version, maximum_version, chosen) in [
            (4, 4, true),
            (0, 4, true),
            (4, 9, true),
            (0, u32::MAX, true),
            (0, 3, false),
            (5, 9, false),
            (5, 4, false),
            (5, 3, false),
            (0, 0, false),
        ] {
            let request = NegotiateProtocol { minimum_version, maximum_version };
            match request.choose_version() {
                Ok(version) => assert!(chosen && version == 4, "{request:?}"),
                Err(failure) => {
                    assert!(!chosen, "{request:?}");
                    assert_eq!(failure.result, Hresult::UNSUPPORTED_PROTOCOL_VERSION);
                }
            }
        }
    }

    #[test]
    fn a_connection_serves_negotiation_first_and_only_once() {
        for (message_type, _) in MessageType::REQUESTS {
            let negotiates = message_type == MessageType::NEGOTIATE_PROTOCOL;
            assert_eq!(is_served(None, message_type), negotiates);
            assert_eq!(is_served(Some(4), message_type), !negotiates);
        }
    }

    #[test]
    fn a_host_takes_no_other_version() {
        for version in [0, 3, 5, u32::MAX] {
            let reply = NegotiateProtocolReply { version, ..NegotiateProtocolReply::default() };
            assert_eq!(reply.check_version(), Err(UnexpectedVersion { version }));
        }
        assert_eq!(NegotiateProtocolReply { version: 4, ..NegotiateProtocolReply::default() }.check_version(), Ok(()));
    }

    #[test]
    fn a_guest_that_names_no_system_runs_windows() {
        for (runtime_os_type, os) in [
            ("Linux", Some(GuestOs::Linux)),
            ("LINUX", Some(GuestOs::Linux)),
            ("", Some(GuestOs::Windows)),
            ("Windows", Some(GuestOs::Windows)),
            ("Plan9", None),
        ] {
            let capabilities = Capabilities { runtime_os_type: runtime_os_type.into(), ..Capabilities::default() };
            assert_eq!(capabilities.guest_os(), os);
        }
    }
}
