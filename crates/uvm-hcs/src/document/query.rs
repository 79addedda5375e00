//! Properties of a system and of the host: what is asked, and what is answered.

use serde::{Deserialize, Serialize};
use uvm_wire::Guid;
use uvm_wire::negotiate::GuestDefinedCapabilities;

use super::to_text;

/// A kind of property.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum PropertyType {
    /// Memory of a VM.
    Memory,
    /// Run time and processor time of a system.
    Statistics,
    /// The guest connection that the service holds.
    GuestConnection,
    /// Processes of a container.
    ProcessList,
    /// Processors of the host.
    ProcessorTopology,
    /// CPU groups of the host.
    CpuGroup,
}

/// The query for these properties. For none: what every system has.
pub fn query(properties: &[PropertyType]) -> String {
    #[derive(Serialize)]
    struct Query<'a> {
        #[serde(rename = "PropertyTypes", skip_serializing_if = "<[_]>::is_empty")]
        property_types: &'a [PropertyType],
    }
    to_text(&Query { property_types: properties })
}

/// An answer that does not say what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// It is no JSON of the schema.
    #[error("the compute service's answer cannot be read: {text}")]
    Unreadable {
        /// The answer.
        text: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// There is not one answer to one question.
    #[error("wrong number of service properties present: {count}, one was asked for")]
    Count {
        /// How many there are.
        count: usize,
    },
    /// Something is missing.
    #[error("the compute service did not tell the {what}")]
    Missing {
        /// What.
        what: &'static str,
    },
}

pub(super) fn read<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, AnswerError> {
    serde_json::from_str(text).map_err(|source| AnswerError::Unreadable { text: text.to_owned(), source })
}

/// How many logical processors the host has, from its answer to [`PropertyType::ProcessorTopology`].
///
/// # Errors
/// The answer says anything but one number above zero.
pub fn logical_processors(answer: &str) -> Result<u32, AnswerError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        #[serde(default)]
        properties: Vec<Topology>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Topology {
        #[serde(default)]
        logical_processor_count: u32,
    }
    match read::<Answer>(answer)?.properties.as_slice() {
        [Topology { logical_processor_count: 0 }] => Err(AnswerError::Missing { what: "number of logical processors" }),
        [Topology { logical_processor_count }] => Ok(*logical_processor_count),
        several => Err(AnswerError::Count { count: several.len() }),
    }
}

/// Properties of a system. Those that were not asked for, or that the service does not have, are absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[non_exhaustive]
pub struct SystemProperties {
    /// The system's id.
    pub id: String,
    /// The service's own word for the state it is in.
    pub state: String,
    /// Of a VM: the GUID that its sockets are addressed by.
    pub runtime_id: Option<Guid>,
    /// The guest connection that the service holds.
    pub guest_connection_info: Option<GuestConnectionInfo>,
    /// Memory.
    pub memory: Option<Memory>,
    /// Run time and processor time.
    pub statistics: Option<Statistics>,
}

/// The guest connection that the service holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[non_exhaustive]
pub struct GuestConnectionInfo {
    /// The version of the protocol.
    pub protocol_version: u32,
    /// What the guest can do.
    pub guest_defined_capabilities: GuestDefinedCapabilities,
}

/// Memory of a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[non_exhaustive]
pub struct Memory {
    /// Nodes of memory in the guest.
    pub virtual_node_count: u8,
    /// What the host gives it.
    pub virtual_machine_memory: Option<VirtualMachineMemory>,
}

/// Memory that the host gives to a VM. Amounts are in pages of 4 KiB, but for the percentages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[non_exhaustive]
pub struct VirtualMachineMemory {
    /// Memory that is left, in percent of what the guest wants.
    pub available_memory: i32,
    /// What is kept for sudden needs, in percent.
    pub available_memory_buffer: i32,
    /// Kept for the VM.
    pub reserved_memory: u64,
    /// Given to the VM.
    pub assigned_memory: u64,
    /// Some of it is paged out by the host.
    pub slp_active: bool,
    /// The host balances it between VMs.
    pub balancing_enabled: bool,
    /// It is being changed.
    #[serde(rename = "DmOperationInProgress")]
    pub operation_in_progress: bool,
}

/// Run time and processor time of a system, in units of 100 ns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Statistics {
    /// Since its start.
    #[serde(rename = "Uptime100ns")]
    pub uptime_100ns: u64,
    /// Its processors.
    #[serde(rename = "Processor")]
    pub processor: Option<ProcessorStatistics>,
}

/// Processor time of a system, in units of 100 ns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ProcessorStatistics {
    /// All of it.
    #[serde(rename = "TotalRuntime100ns")]
    pub total_runtime_100ns: u64,
}

impl SystemProperties {
    /// Reads an answer.
    ///
    /// # Errors
    /// It is no JSON of the schema.
    pub fn read(answer: &str) -> Result<Self, AnswerError> {
        read(answer)
    }

    /// The memory that the host gives the VM, in bytes. Right after a start it may be 0.
    ///
    /// # Errors
    /// The answer does not say.
    pub fn assigned_memory_bytes(&self) -> Result<u64, AnswerError> {
        let memory = self.memory.as_ref().and_then(|memory| memory.virtual_machine_memory.as_ref());
        let memory = memory.ok_or(AnswerError::Missing { what: "VM's memory" })?;
        Ok(memory.assigned_memory.saturating_mul(PAGE_BYTES))
    }
}

/// The unit of the service's amounts of memory.
const PAGE_BYTES: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_for_nothing_is_an_empty_object() {
        assert_eq!(query(&[]), "{}");
        let wanted = query(&[PropertyType::Statistics, PropertyType::Memory]);
        assert_eq!(wanted, r#"{"PropertyTypes":["Statistics","Memory"]}"#);
    }

    #[test]
    fn the_host_has_one_number_of_processors() {
        let count = logical_processors(r#"{"Properties":[{"LogicalProcessorCount":8,"LogicalProcessors":[]}]}"#);
        assert_eq!(count.expect("one"), 8);
        for bad in ["", "{}", r#"{"Properties":[]}"#, r#"{"Properties":[{},{}]}"#, r#"{"Properties":[{}]}"#] {
            assert!(logical_processors(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn d63_what_is_absent_is_no_error_to_read() {
        let properties = SystemProperties::read(r#"{"Id":"vm","Statistics":{},"Memory":{"New":1}}"#).expect("JSON");
        assert_eq!(properties.statistics, Some(Statistics::default()));
        assert!(properties.assigned_memory_bytes().is_err());
        assert!(SystemProperties::read(r#"{"Memory":{"VirtualNodeCount":"x"}}"#).is_err());
    }

    #[test]
    fn d65_no_assigned_memory_yet_is_zero() {
        let of = |memory: &str| {
            let answer = format!(r#"{{"Memory":{{"VirtualMachineMemory":{memory}}}}}"#);
            SystemProperties::read(&answer).expect("JSON").assigned_memory_bytes().expect("it says")
        };
        assert_eq!(of(r#"{"AssignedMemory":0}"#), 0);
        assert_eq!(of(r#"{"AssignedMemory":262144}"#), 1 << 30);
        assert_eq!(of(r#"{"AssignedMemory":18446744073709551615}"#), u64::MAX);
    }
}
