//! Resources of Windows guests: sent by our host, served by no agent of ours.

use serde::{Serialize, Serializer};

use crate::create::SchemaVersion;
use crate::guid::Guid;
use crate::json::RawJson;
use crate::modify::{CombinedLayers, RequestType};
use crate::object::omitting_object;

/// A resource in the shape of a Windows guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WindowsResource {
    /// A SCSI disk, and its mount.
    MappedVirtualDisk(WindowsMappedVirtualDisk),
    /// A directory of a share, and where it is to be seen.
    MappedDirectory(WindowsMappedDirectory),
    /// Layers put over each other.
    CombinedLayers(CombinedLayers),
    /// A network adapter.
    Network(WindowsNetworkAdapter),
    /// A network namespace.
    NetworkNamespace(WindowsNetworkNamespace),
    /// The guest's Hyper-V socket addresses.
    HvSocket(HvSocketAddresses),
}

impl WindowsResource {
    /// The resource's name on the wire.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::MappedVirtualDisk(_) => "MappedVirtualDisk",
            Self::MappedDirectory(_) => "MappedDirectory",
            Self::CombinedLayers(_) => "CombinedLayers",
            Self::Network(_) => "Network",
            Self::NetworkNamespace(_) => "NetworkNamespace",
            Self::HvSocket(_) => "HvSocket",
        }
    }
}

/// Writes the settings.
impl Serialize for WindowsResource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::MappedVirtualDisk(settings) => settings.serialize(serializer),
            Self::MappedDirectory(settings) => settings.serialize(serializer),
            Self::CombinedLayers(settings) => settings.serialize(serializer),
            Self::Network(settings) => settings.serialize(serializer),
            Self::NetworkNamespace(settings) => settings.serialize(serializer),
            Self::HvSocket(settings) => settings.serialize(serializer),
        }
    }
}

omitting_object! {
    /// A SCSI disk of a Windows guest, and its mount.
    pub struct WindowsMappedVirtualDisk {
        /// Where to mount it.
        pub container_path: String = "ContainerPath",
        /// The LUN, on the first controller.
        pub lun: i32 = "Lun",
    }
}

omitting_object! {
    /// A directory of a share in a Windows guest.
    pub struct WindowsMappedDirectory {
        /// The path under which the guest reaches the share.
        pub host_path: String = "HostPath",
        /// Where it is to be seen.
        pub container_path: String = "ContainerPath",
        /// It is read-only.
        pub read_only: bool = "ReadOnly",
    }
}

omitting_object! {
    /// A network adapter of a Windows guest.
    pub struct WindowsNetworkAdapter {
        /// The adapter's GUID, on hosts from build 17763 on.
        pub adapter_id: String = "AdapterId",
        /// The adapter's GUID, on hosts of older builds.
        pub adapter_instance_id: String = "AdapterInstanceId",
        /// Once more the kind of change; `PreAdd` is told only here.
        pub request_type: Option<RequestType> = "RequestType",
        /// The endpoint, as the host's network service describes it; with `PreAdd` only.
        pub settings: Option<RawJson> = "Settings",
    }
}

omitting_object! {
    /// A network namespace of a Windows guest, as the host's network service describes it.
    pub struct WindowsNetworkNamespace {
        /// Its GUID.
        pub id: String = "ID",
        /// Its compartment.
        pub namespace_id: u32 = "NamespaceId",
        /// Its kind, as `Guest`.
        pub namespace_type: String = "Type",
        /// What is in it.
        pub resources: Vec<NamespaceResource> = "Resources",
        /// The schema of this description.
        pub schema_version: Option<SchemaVersion> = "SchemaVersion",
    }
}

omitting_object! {
    /// Something in a network namespace.
    pub struct NamespaceResource {
        /// Its kind, as `Endpoint`.
        pub resource_type: String = "Type",
        /// What it is.
        pub data: Option<RawJson> = "Data",
    }
}

omitting_object! {
    /// The Hyper-V socket addresses a Windows guest is told after negotiation.
    #[derive(Copy)]
    pub struct HvSocketAddresses {
        /// Its own: the id of the VM.
        pub local_address: Option<Guid> = "LocalAddress",
        /// The host's: [`WINDOWS_PARENT_ADDRESS`](crate::ports::WINDOWS_PARENT_ADDRESS).
        pub parent_address: Option<Guid> = "ParentAddress",
    }
}
