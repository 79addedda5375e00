//! `ModifySettings`: resources of the VM, and limits of a container, added, removed or updated while it runs.

mod network;
mod policy;
mod storage;
mod windows;

use serde::de::Error as _;
use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::failure::Failure;
use crate::json::{RawJson, from_str};
use crate::object::{Word, words};

pub use network::{IpConfig, NetworkAdapter, Route, VpciDevice};
pub use policy::{ContainerConstraints, SecurityPolicy, SecurityPolicyFragment};
pub use storage::{
    CombinedLayers, DeviceMapping, DiskSize, Layer, MOUNT_OPTIONS, MappedDirectory, MappedSocket, MappedVirtualDisk,
    SOCKET_REACHED, ScsiDevice, VpmemDevice,
};
pub use windows::{
    HvSocketAddresses, NamespaceResource, WindowsMappedDirectory, WindowsMappedVirtualDisk, WindowsNetworkAdapter,
    WindowsNetworkNamespace, WindowsResource,
};

/// Adds, removes or updates a resource.
///
/// Sent with the id of the VM, but for [`Resource::ContainerConstraints`], which is for the container it names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModifySettings {
    /// What is to change. A request without it does not decode.
    #[serde(rename = "Request")]
    pub modification: Modification,
}

/// One change of one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Modification {
    /// The kind of change. A request that names none adds.
    pub request_type: RequestType,
    /// The resource, and its settings.
    pub resource: Resource,
}

words! {
    /// A kind of change.
    pub enum RequestType {
        /// Add the resource.
        Add = "Add",
        /// Remove it.
        Remove = "Remove",
        /// Change it.
        Update = "Update",
        /// Get ready for it to be added. Windows guests only.
        PreAdd = "PreAdd",
    }
}

/// A resource with its settings, in the shape of a Linux guest unless it says otherwise.
///
/// A guest gets every resource of Linux guests typed, and all others as [`Other`](Self::Other). A typed one must come
/// with its settings, if only `{}`: the original takes `null` for a disk at LUN 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// A SCSI disk, and its mount.
    MappedVirtualDisk(MappedVirtualDisk),
    /// A SCSI disk to unplug. Newer agents (2023-05).
    ScsiDevice(ScsiDevice),
    /// The size of a SCSI disk. Ours.
    DiskSize(DiskSize),
    /// A 9P share.
    MappedDirectory(MappedDirectory),
    /// A Unix socket of the host. Ours.
    MappedSocket(MappedSocket),
    /// A memory-backed disk, and its mount.
    VpmemDevice(VpmemDevice),
    /// An overlay of layers.
    CombinedLayers(CombinedLayers),
    /// A network adapter.
    Network(NetworkAdapter),
    /// A PCI device.
    VpciDevice(VpciDevice),
    /// Limits of a container. Newer agents (2021-05).
    ContainerConstraints(ContainerConstraints),
    /// The security policy. Newer agents (2021-08).
    SecurityPolicy(SecurityPolicy),
    /// A piece of security policy. Newer agents (2022-09).
    SecurityPolicyFragment(SecurityPolicyFragment),
    /// The memory limit of all pods, computed anew; it has no settings. Newer agents (2026-07).
    PodCgroupMemoryLimit,
    /// A resource in the shape of a Windows guest; a Linux guest never gets this.
    Windows(WindowsResource),
    /// A whole request as it is, whatever it says; a guest never gets this. The kind of change is in it.
    Raw(RawJson),
    /// Any other resource: the way to send what is not typed here, and what a guest gets when it does not know the type.
    Other {
        /// Its name; empty when the request has none.
        resource_type: String,
        /// Its settings, if there are any.
        settings: Option<RawJson>,
    },
}

impl Modification {
    /// Adds a resource.
    pub fn add(resource: Resource) -> Self {
        Self { request_type: RequestType::Add, resource }
    }

    /// Removes a resource.
    pub fn remove(resource: Resource) -> Self {
        Self { request_type: RequestType::Remove, resource }
    }

    /// Updates a resource.
    pub fn update(resource: Resource) -> Self {
        Self { request_type: RequestType::Update, resource }
    }

    /// A request as it is, whatever it says.
    pub fn raw(request: RawJson) -> Self {
        Self { request_type: RequestType::Add, resource: Resource::Raw(request) }
    }

    /// Checks that a Linux guest knows the resource and can change it this way.
    ///
    /// # Errors
    /// The failure to answer with, a generic one as the original's.
    pub fn check_linux(&self) -> Result<(), Failure> {
        use RequestType::{Add, Remove, Update};
        let allowed: &[RequestType] = match &self.resource {
            Resource::MappedVirtualDisk(_)
            | Resource::MappedDirectory(_)
            | Resource::MappedSocket(_)
            | Resource::VpmemDevice(_)
            | Resource::CombinedLayers(_)
            | Resource::Network(_) => &[Add, Remove],
            Resource::ScsiDevice(_) => &[Remove],
            Resource::VpciDevice(_) => &[Add],
            Resource::PodCgroupMemoryLimit | Resource::DiskSize(_) => &[Update],
            // These have one meaning whatever the request type.
            Resource::ContainerConstraints(_) | Resource::SecurityPolicy(_) | Resource::SecurityPolicyFragment(_) => {
                return Ok(());
            }
            Resource::Windows(_) | Resource::Raw(_) | Resource::Other { .. } => {
                return Err(Failure::plain(format_args!("invalid ResourceType {:?}", self.resource.name())));
            }
        };
        if allowed.contains(&self.request_type) {
            Ok(())
        } else {
            Err(Failure::plain(format_args!(
                "the RequestType {:?} is not supported for {}",
                self.request_type.as_str(),
                self.resource.name()
            )))
        }
    }
}

/// Gives the name of each typed resource, its place in `Resource`, and reads its settings.
macro_rules! linux_resources {
    ($($name:literal => $variant:ident($type:ty);)*) => {
        impl Resource {
            /// The resource's name on the wire.
            pub fn name(&self) -> &str {
                match self {
                    $(Self::$variant(_) => $name,)*
                    Self::PodCgroupMemoryLimit => "PodCgroupMemoryLimit",
                    Self::Windows(resource) => resource.name(),
                    Self::Raw(_) => "",
                    Self::Other { resource_type, .. } => resource_type,
                }
            }

            fn read(name: &str, settings: Option<&RawValue>) -> Result<Self, String> {
                let needed = || settings.map(RawValue::get).ok_or_else(|| format!("{name} without Settings"));
                Ok(match name {
                    $($name => Self::$variant(from_str(needed()?).map_err(|error| format!("in Settings of {name}: {error}"))?),)*
                    "PodCgroupMemoryLimit" => Self::PodCgroupMemoryLimit,
                    _ => Self::Other {
                        resource_type: name.to_owned(),
                        settings: settings.map(RawJson::from_checked),
                    },
                })
            }
        }

        impl Serialize for Modification {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if let Resource::Raw(request) = &self.resource {
                    return request.serialize(serializer);
                }
                let mut object = serializer.serialize_struct("Request", 3)?;
                object.serialize_field("RequestType", &self.request_type)?;
                if !self.resource.name().is_empty() {
                    object.serialize_field("ResourceType", self.resource.name())?;
                }
                match &self.resource {
                    $(Resource::$variant(settings) => object.serialize_field("Settings", settings)?,)*
                    Resource::PodCgroupMemoryLimit | Resource::Raw(_) | Resource::Other { settings: None, .. } => {}
                    Resource::Windows(settings) => object.serialize_field("Settings", settings)?,
                    Resource::Other { settings: Some(settings), .. } => object.serialize_field("Settings", settings)?,
                }
                object.end()
            }
        }
    };
}

linux_resources! {
    "MappedVirtualDisk" => MappedVirtualDisk(MappedVirtualDisk);
    "SCSIDevice" => ScsiDevice(ScsiDevice);
    "DiskSize" => DiskSize(DiskSize);
    "MappedDirectory" => MappedDirectory(MappedDirectory);
    "MappedSocket" => MappedSocket(MappedSocket);
    "VPMemDevice" => VpmemDevice(VpmemDevice);
    "CombinedLayers" => CombinedLayers(CombinedLayers);
    "Network" => Network(NetworkAdapter);
    "VPCIDevice" => VpciDevice(VpciDevice);
    "ContainerConstraints" => ContainerConstraints(ContainerConstraints);
    "SecurityPolicy" => SecurityPolicy(SecurityPolicy);
    "SecurityPolicyFragment" => SecurityPolicyFragment(SecurityPolicyFragment);
}

/// The keys of a modification before its settings are understood.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Unread<'a> {
    #[serde(rename = "RequestType", borrow)]
    request_type: Option<Word<'a>>,
    #[serde(rename = "ResourceType", borrow)]
    resource_type: Option<Word<'a>>,
    #[serde(rename = "Settings", borrow)]
    settings: Option<&'a RawValue>,
}

impl<'de> Deserialize<'de> for Modification {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Some(unread) = Option::<Unread<'_>>::deserialize(deserializer)? else {
            return Err(D::Error::custom("Request is missing"));
        };
        let request_type = match &unread.request_type {
            Some(Word(word)) if !word.is_empty() => RequestType::from(word.as_ref()),
            _ => RequestType::Add,
        };
        let name = unread.resource_type.as_ref().map_or("", |word| word.0.as_ref());
        let resource = Resource::read(name, unread.settings).map_err(D::Error::custom)?;
        Ok(Self { request_type, resource })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Modification, String> {
        from_str::<ModifySettings>(&format!(r#"{{"Request":{text}}}"#))
            .map(|body| body.modification)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn no_request_type_means_add() {
        for text in [
            r#"{"ResourceType":"VPCIDevice","Settings":{"VMBusGUID":"g"}}"#,
            r#"{"resourcetype":"VPCIDevice","requesttype":null,"settings":{"vmbusguid":"g"}}"#,
            r#"{"Settings":{"VMBusGUID":"g"},"RequestType":"","ResourceType":"VPCIDevice"}"#,
        ] {
            let expected =
                Modification::add(Resource::VpciDevice(VpciDevice { vmbus_guid: "g".into(), port: String::new() }));
            assert_eq!(read(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn a_request_that_is_missing_or_has_the_wrong_shape_does_not_decode() {
        for bad in ["null", "\"text\"", "[]", r#"{"RequestType":1}"#, r#"{"ResourceType":{}}"#] {
            assert!(read(bad).is_err(), "{bad}");
        }
        for bad in ["{}", "null"] {
            assert!(from_str::<ModifySettings>(bad).is_err(), "{bad}");
        }
    }

    /// Also `null`, which hosts of the original send for settings they forgot (D79).
    #[test]
    fn settings_of_the_wrong_shape_do_not_decode() {
        let names = ["MappedVirtualDisk", "SCSIDevice", "MappedDirectory", "VPMemDevice", "CombinedLayers", "Network"];
        let more = [
            "MappedSocket",
            "DiskSize",
            "VPCIDevice",
            "ContainerConstraints",
            "SecurityPolicy",
            "SecurityPolicyFragment",
        ];
        for name in names.into_iter().chain(more) {
            for settings in [r#","Settings":7"#, r#","Settings":[]"#, r#","Settings":null"#, ""] {
                let error = read(&format!(r#"{{"ResourceType":"{name}"{settings}}}"#)).unwrap_err();
                assert!(error.contains(name), "{error}");
            }
            let empty = read(&format!(r#"{{"ResourceType":"{name}","Settings":{{}}}}"#)).unwrap();
            assert_eq!(empty.resource.name(), name);
        }
        assert!(read(r#"{"ResourceType":"MappedVirtualDisk","Settings":{"Lun":256}}"#).is_err());
    }

    #[test]
    fn a_resource_that_is_not_known_decodes_and_is_a_generic_failure() {
        for (text, name) in [
            (r#"{"RequestType":"Add","ResourceType":"NoSuchThing","Settings":{"k":[1,2]}}"#, "NoSuchThing"),
            (r#"{"ResourceType":"NetworkNamespace","Settings":{}}"#, "NetworkNamespace"),
            (r#"{"ResourceType":"HvSocket"}"#, "HvSocket"),
            (r#"{"RequestType":"Remove","Settings":{}}"#, ""),
            (r#"{"a":1}"#, ""),
        ] {
            let modification = read(text).unwrap();
            assert_eq!(modification.resource.name(), name);
            let failure = modification.check_linux().unwrap_err();
            assert_eq!(failure.result, crate::hresult::Hresult::FAIL);
            assert!(failure.message.contains(&format!("ResourceType {name:?}")), "{failure}");
        }
    }

    #[test]
    fn each_resource_can_be_changed_in_its_own_ways() {
        let resources = [
            (Resource::MappedVirtualDisk(MappedVirtualDisk::default()), "Add Remove"),
            (Resource::ScsiDevice(ScsiDevice::default()), "Remove"),
            (Resource::MappedDirectory(MappedDirectory::default()), "Add Remove"),
            (Resource::MappedSocket(MappedSocket::default()), "Add Remove"),
            (Resource::VpmemDevice(VpmemDevice::default()), "Add Remove"),
            (Resource::CombinedLayers(CombinedLayers::default()), "Add Remove"),
            (Resource::Network(NetworkAdapter::default()), "Add Remove"),
            (Resource::VpciDevice(VpciDevice::default()), "Add"),
            (Resource::ContainerConstraints(ContainerConstraints::default()), "Add Remove Update PreAdd Xyz"),
            (Resource::SecurityPolicy(SecurityPolicy::default()), "Add Remove Update PreAdd Xyz"),
            (Resource::SecurityPolicyFragment(SecurityPolicyFragment::default()), "Add Remove Update PreAdd Xyz"),
            (Resource::PodCgroupMemoryLimit, "Update"),
            (Resource::DiskSize(DiskSize::default()), "Update"),
        ];
        for (resource, allowed) in resources {
            for word in ["Add", "Remove", "Update", "PreAdd", "Xyz"] {
                let modification = Modification { request_type: word.into(), resource: resource.clone() };
                let ok = modification.check_linux().is_ok();
                assert_eq!(ok, allowed.split(' ').any(|w| w == word), "{word} {}", resource.name());
            }
        }
    }

    #[test]
    fn changes_are_written_as_the_original_writes_them() {
        let write = |modification: Modification| serde_json::to_string(&modification).unwrap();
        let disk = Resource::MappedVirtualDisk(MappedVirtualDisk::default());
        assert_eq!(
            write(Modification::remove(disk)),
            r#"{"RequestType":"Remove","ResourceType":"MappedVirtualDisk","Settings":{}}"#
        );
        let limit = Modification::update(Resource::PodCgroupMemoryLimit);
        assert_eq!(write(limit), r#"{"RequestType":"Update","ResourceType":"PodCgroupMemoryLimit"}"#);
        let other = Resource::Other { resource_type: "X".into(), settings: RawJson::parse("[1]").ok() };
        assert_eq!(write(Modification::add(other)), r#"{"RequestType":"Add","ResourceType":"X","Settings":[1]}"#);
    }
}
