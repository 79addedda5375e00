//! `Create`: a new container.

use serde::{Deserialize, Serialize};

use crate::call::{Reply, sealed::Sealed};
use crate::failure::Failure;
use crate::hresult::Hresult;
use crate::json::{RawJson, text};
use crate::object::{is_empty, omitting_object};

/// Makes a container. In a Linux guest its init process then exists, blocked until
/// [`ExecuteProcess`](crate::execute::ExecuteProcess).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Create {
    /// What to make. On the wire a string that holds JSON.
    #[serde(rename = "ContainerConfig", with = "text")]
    pub config: ContainerConfig,
}

/// Answers [`Create`]. Hosts ignore both keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CreateReply {
    /// Left out when empty.
    #[serde(rename = "SelectedVersion", skip_serializing_if = "is_empty")]
    pub selected_version: String,
    /// Always 0, always there.
    #[serde(rename = "SelectedProtocolVersion")]
    pub selected_protocol_version: u32,
}

impl Sealed for CreateReply {}
impl Reply for CreateReply {}

/// A version of the schema that configurations are written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct SchemaVersion {
    /// The major version.
    #[serde(rename = "Major")]
    pub major: u32,
    /// The minor version.
    #[serde(rename = "Minor")]
    pub minor: u32,
}

impl SchemaVersion {
    /// The version of everything in this protocol, and the lowest that a guest takes.
    pub const V2_1: Self = Self { major: 2, minor: 1 };
}

omitting_object! {
    /// The configuration of a new container: for Linux guests made by [`linux`](Self::linux) and read by
    /// [`to_linux`](Self::to_linux), for Windows guests by [`windows`](Self::windows), for the VM itself by
    /// [`uvm`](Self::uvm).
    pub struct ContainerConfig {
        /// The schema the rest is written in.
        pub schema_version: Option<SchemaVersion> = "SchemaVersion",
        /// `Container` in the configuration of the VM itself.
        pub system_type: String = "SystemType",
        /// Linux: the directory in the guest that the bundle is written to, `/run/gcs/c/<id>`.
        pub oci_bundle_path: String = "OciBundlePath",
        /// Linux: an OCI runtime specification.
        pub oci_specification: Option<RawJson> = "OciSpecification",
        /// Linux: where the scratch disk is mounted. Newer hosts (2022-05).
        pub scratch_dir_path: String = "ScratchDirPath",
        /// Windows: the container's document.
        pub container: Option<RawJson> = "Container",
        /// The VM itself: the host's time zone. Newer hosts; `null` reads as absent.
        pub time_zone_information: Option<RawJson> = "TimeZoneInformation",
    }
}

impl ContainerConfig {
    /// A container in a Linux guest.
    pub fn linux(bundle_path: impl Into<String>, specification: RawJson) -> Self {
        Self {
            schema_version: Some(SchemaVersion::V2_1),
            oci_bundle_path: bundle_path.into(),
            oci_specification: Some(specification),
            ..Self::default()
        }
    }

    /// A container in a Windows guest.
    pub fn windows(container: RawJson) -> Self {
        Self { schema_version: Some(SchemaVersion::V2_1), container: Some(container), ..Self::default() }
    }

    /// The VM itself, for a guest that asks for it with
    /// [`send_host_create_message`](crate::negotiate::Capabilities::send_host_create_message).
    pub fn uvm() -> Self {
        Self { system_type: "Container".to_owned(), ..Self::default() }
    }

    /// What a Linux guest needs of it.
    ///
    /// # Errors
    /// The failure to answer with, [`Hresult::INVALID_JSON`]: the schema version is below 2.1, or the bundle path or the
    /// specification is missing.
    pub fn to_linux(&self) -> Result<LinuxConfig<'_>, Failure> {
        let refuse = |why: &str| Failure::wrapping(Hresult::INVALID_JSON, why);
        let version = self.schema_version.unwrap_or_default();
        if version < SchemaVersion::V2_1 {
            let SchemaVersion { major, minor } = version;
            return Err(refuse(&format!("schema version {major}.{minor} of the container is below 2.1")));
        }
        if self.oci_bundle_path.is_empty() {
            return Err(refuse("the container's configuration has no OciBundlePath"));
        }
        let Some(specification) = &self.oci_specification else {
            return Err(refuse("the container's configuration has no OciSpecification"));
        };
        let scratch_path = (!self.scratch_dir_path.is_empty()).then_some(self.scratch_dir_path.as_str());
        Ok(LinuxConfig { bundle_path: &self.oci_bundle_path, specification, scratch_path })
    }
}

/// A configuration that has everything a container in a Linux guest needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinuxConfig<'a> {
    /// The directory the bundle is written to.
    pub bundle_path: &'a str,
    /// The OCI runtime specification; only its syntax is checked.
    pub specification: &'a RawJson,
    /// Where the scratch disk is mounted, if the host says so.
    pub scratch_path: Option<&'a str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete() -> ContainerConfig {
        ContainerConfig::linux("/run/gcs/c/x", RawJson::parse("{}").unwrap())
    }

    #[test]
    fn a_complete_configuration_is_written_as_documented() {
        let text = serde_json::to_string(&Create { config: complete() }).unwrap();
        let inner = r#"{\"SchemaVersion\":{\"Major\":2,\"Minor\":1},\"OciBundlePath\":\"/run/gcs/c/x\",\"OciSpecification\":{}}"#;
        assert_eq!(text, format!(r#"{{"ContainerConfig":"{inner}"}}"#));
        let windows = Create { config: ContainerConfig::windows(RawJson::parse("{}").unwrap()) };
        let inner = r#"{\"SchemaVersion\":{\"Major\":2,\"Minor\":1},\"Container\":{}}"#;
        assert_eq!(serde_json::to_string(&windows).unwrap(), format!(r#"{{"ContainerConfig":"{inner}"}}"#));
        let uvm = Create { config: ContainerConfig::uvm() };
        assert_eq!(serde_json::to_string(&uvm).unwrap(), r#"{"ContainerConfig":"{\"SystemType\":\"Container\"}"}"#);
    }

    #[test]
    fn what_would_crash_the_original_is_refused() {
        let linux = LinuxConfig {
            bundle_path: "/run/gcs/c/x",
            specification: &RawJson::parse("{}").unwrap(),
            scratch_path: None,
        };
        assert_eq!(complete().to_linux(), Ok(linux));
        let scratch = ContainerConfig { scratch_dir_path: "/s".into(), ..complete() };
        assert_eq!(scratch.to_linux(), Ok(LinuxConfig { scratch_path: Some("/s"), ..linux }));
        let old = SchemaVersion { major: 2, minor: 0 };
        for (config, why) in [
            (ContainerConfig { schema_version: Some(old), ..complete() }, "version 2.0"),
            (ContainerConfig { schema_version: None, ..complete() }, "version 0.0"),
            (ContainerConfig { oci_specification: None, ..complete() }, "no OciSpecification"),
            (ContainerConfig { oci_bundle_path: String::new(), ..complete() }, "no OciBundlePath"),
        ] {
            let failure = config.to_linux().unwrap_err();
            assert_eq!(failure.result, Hresult::INVALID_JSON);
            assert!(failure.message.contains(why), "{failure}");
        }
        let newer = SchemaVersion { major: 3, minor: 0 };
        assert!(ContainerConfig { schema_version: Some(newer), ..complete() }.to_linux().is_ok());
    }
}
