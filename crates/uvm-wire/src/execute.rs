//! `ExecuteProcess`: a process in a container or in the VM, and where its stdio goes.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use serde::{Deserialize, Deserializer, Serialize};

use crate::call::{Reply, sealed::Sealed};
use crate::guid::Guid;
use crate::json::{RawJson, text};
use crate::object::omitting_object;

/// Runs a process, or starts a container's init process.
///
/// An agent tells the three cases apart by the container id and the parameters:
///
/// | id | parameters | what runs |
/// | --- | --- | --- |
/// | the VM's, or any with [`create_in_utility_vm`](ProcessParameters::create_in_utility_vm) | the command | a process of the VM |
/// | a container's | no [`oci_process`](ProcessParameters::oci_process) | the container's init process, once |
/// | a container's | an `oci_process` | that process, in the container |
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecuteProcess {
    /// All of it.
    #[serde(rename = "Settings")]
    pub settings: ExecuteSettings,
}

/// The body of [`ExecuteProcess`]. One of the two stdio settings is there, according to the guest's operating system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecuteSettings {
    /// What to run. On the wire a string that holds JSON.
    #[serde(rename = "ProcessParameters", with = "text")]
    pub parameters: ProcessParameters,
    /// Linux guests: the vsock ports of the streams, each listened on by the host before it sends this.
    #[serde(rename = "VsockStdioRelaySettings", default, skip_serializing_if = "Option::is_none")]
    pub vsock_stdio: Option<VsockStdio>,
    /// Windows guests: the Hyper-V socket services of the streams.
    #[serde(rename = "StdioRelaySettings", default, skip_serializing_if = "Option::is_none")]
    pub hv_socket_stdio: Option<HvSocketStdio>,
}

impl ExecuteProcess {
    /// A process in a Linux guest.
    pub fn linux(parameters: ProcessParameters, stdio: VsockStdio) -> Self {
        Self { settings: ExecuteSettings { parameters, vsock_stdio: Some(stdio), hv_socket_stdio: None } }
    }

    /// A process in a Windows guest.
    pub fn windows(parameters: ProcessParameters, stdio: HvSocketStdio) -> Self {
        Self { settings: ExecuteSettings { parameters, vsock_stdio: None, hv_socket_stdio: Some(stdio) } }
    }
}

omitting_object! {
    /// The vsock port of each stream that is wanted.
    #[derive(Copy)]
    pub struct VsockStdio {
        /// Standard input.
        #[serde(deserialize_with = "port")]
        pub stdin: Option<NonZeroU32> = "StdIn",
        /// Standard output.
        #[serde(deserialize_with = "port")]
        pub stdout: Option<NonZeroU32> = "StdOut",
        /// Standard error. Normally not wanted with a terminal.
        #[serde(deserialize_with = "port")]
        pub stderr: Option<NonZeroU32> = "StdErr",
    }
}

/// A port, of which 0 is none.
fn port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<NonZeroU32>, D::Error> {
    u32::deserialize(deserializer).map(NonZeroU32::new)
}

omitting_object! {
    /// The Hyper-V socket service of each stream that is wanted.
    #[derive(Copy)]
    pub struct HvSocketStdio {
        /// Standard input.
        pub stdin: Option<Guid> = "StdIn",
        /// Standard output.
        pub stdout: Option<Guid> = "StdOut",
        /// Standard error.
        pub stderr: Option<Guid> = "StdErr",
    }
}

omitting_object! {
    /// What to run and how. A Linux guest ignores the keys marked so.
    pub struct ProcessParameters {
        /// Ignored by Linux guests.
        pub application_name: String = "ApplicationName",
        /// A process of the VM: the command, split by the rules of a shell. Counts only without `command_args`.
        pub command_line: String = "CommandLine",
        /// A process of the VM: the program and its arguments.
        pub command_args: Vec<String> = "CommandArgs",
        /// Ignored by Linux guests.
        pub user: String = "User",
        /// A process of the VM: where it starts.
        pub working_directory: String = "WorkingDirectory",
        /// A process of the VM: its whole environment.
        pub environment: BTreeMap<String, String> = "Environment",
        /// Ignored by Linux guests.
        pub restricted_token: bool = "RestrictedToken",
        /// A process of the VM: give it a terminal.
        pub emulate_console: bool = "EmulateConsole",
        /// Connect standard input.
        pub create_stdin_pipe: bool = "CreateStdInPipe",
        /// Connect standard output.
        pub create_stdout_pipe: bool = "CreateStdOutPipe",
        /// Connect standard error.
        pub create_stderr_pipe: bool = "CreateStdErrPipe",
        /// The size of the terminal. The original's Linux agents ignore it.
        #[serde(deserialize_with = "ConsoleSize::deserialize_lossy")]
        pub console_size: Option<ConsoleSize> = "ConsoleSize",
        /// Ignored by Linux guests.
        pub use_existing_login: bool = "UseExistingLogin",
        /// Ignored by Linux guests.
        pub use_legacy_console: bool = "UseLegacyConsole",
        /// Run in the VM although the container id names a container. Linux guests only.
        pub create_in_utility_vm: bool = "CreateInUtilityVM",
        /// An OCI process: run it in the container. Linux guests only.
        pub oci_process: Option<RawJson> = "OciProcess",
    }
}

/// The size of a terminal, in characters. On the wire `[height, width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "[u16; 2]")]
pub struct ConsoleSize {
    /// Lines.
    pub height: u16,
    /// Columns.
    pub width: u16,
}

impl ConsoleSize {
    /// Guests that need no size must not stumble over one: what is no pair of sizes counts as none given.
    fn deserialize_lossy<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Self>, D::Error> {
        let numbers = Vec::<i64>::deserialize(deserializer)?;
        let [height, width] = numbers[..] else { return Ok(None) };
        Ok(match (height.try_into(), width.try_into()) {
            (Ok(height), Ok(width)) => Some(Self { height, width }),
            _ => None,
        })
    }
}

impl From<ConsoleSize> for [u16; 2] {
    fn from(size: ConsoleSize) -> Self {
        [size.height, size.width]
    }
}

/// Answers [`ExecuteProcess`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecuteProcessReply {
    /// The process, by its pid in the VM's root pid namespace: the key for later calls.
    #[serde(rename = "ProcessId")]
    pub process_id: u32,
}

impl Sealed for ExecuteProcessReply {}
impl Reply for ExecuteProcessReply {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::from_str;

    #[test]
    fn ports_of_zero_are_none_and_left_out() {
        let some: VsockStdio = from_str(r#"{"StdIn":0,"StdOut":1073741825}"#).unwrap();
        assert_eq!(some, VsockStdio { stdout: NonZeroU32::new(0x4000_0001), ..VsockStdio::default() });
        assert_eq!(serde_json::to_string(&some).unwrap(), r#"{"StdOut":1073741825}"#);
        assert_eq!(serde_json::to_string(&VsockStdio::default()).unwrap(), "{}");
    }

    #[test]
    fn a_size_that_is_none_is_no_reason_to_refuse_a_process() {
        let size = |text: &str| from_str::<ProcessParameters>(text).unwrap().console_size;
        assert_eq!(size(r#"{"ConsoleSize":[30,90]}"#), Some(ConsoleSize { height: 30, width: 90 }));
        for none in ["null", "[]", "[1]", "[1,2,3]", "[-1,2]", "[1,65536]"] {
            assert_eq!(size(&format!(r#"{{"ConsoleSize":{none}}}"#)), None, "{none}");
        }
    }

    #[test]
    fn a_windows_guest_gets_services_and_a_linux_guest_ports() {
        let linux = ExecuteProcess::linux(ProcessParameters::default(), VsockStdio::default());
        let text = r#"{"Settings":{"ProcessParameters":"{}","VsockStdioRelaySettings":{}}}"#;
        assert_eq!(serde_json::to_string(&linux).unwrap(), text);
        let stdio =
            HvSocketStdio { stdout: Some(crate::ports::vsock_service(0x4000_0001)), ..HvSocketStdio::default() };
        let windows = ExecuteProcess::windows(ProcessParameters::default(), stdio);
        let text = r#"{"Settings":{"ProcessParameters":"{}","StdioRelaySettings":{"StdOut":"40000001-facb-11e6-bd58-64006a7986d3"}}}"#;
        assert_eq!(serde_json::to_string(&windows).unwrap(), text);
    }

    #[test]
    fn a_process_without_parameters_is_refused() {
        for bad in ["{}", r#"{"Settings":{}}"#, r#"{"Settings":{"ProcessParameters":""}}"#] {
            assert!(from_str::<ExecuteProcess>(bad).is_err(), "{bad}");
        }
    }
}
