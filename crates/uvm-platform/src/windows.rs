//! The VM to create for a Windows guest, as typed values.

use std::path::PathBuf;

use crate::deadlines::Deadlines;
use crate::id::UvmId;
use crate::spec::{GuestConnection, MemorySpec, ProcessorSpec, StorageQos};

/// Everything a host needs to create one VM with a Windows guest.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WcowSpec {
    /// The VM's id.
    pub id: UvmId,
    /// Who the VM is for; shown by the host's tools.
    pub owner: String,
    /// Guest memory.
    pub memory: MemorySpec,
    /// Guest processors.
    pub processors: ProcessorSpec,
    /// What the guest boots from.
    pub boot: WindowsBoot,
    /// Keep files out of memory that is shared with the guest, because devices have to be backed physically.
    pub devices_physically_backed: bool,
    /// A container's network compartment knows of no other.
    pub compartment_namespace: bool,
    /// Who holds the connection to the guest's agent.
    pub guest_connection: GuestConnection,
    /// Limits on disk traffic of the whole VM.
    pub storage_qos: StorageQos,
    /// The CPU group the VM belongs to from its first instruction on.
    pub cpu_group: Option<String>,
    /// JSON to merge over the host's creation document.
    pub additional_document: Option<String>,
    /// The longest waits.
    pub deadlines: Deadlines,
}

impl WcowSpec {
    /// A spec with the given parts and nothing else asked for.
    pub fn new(id: UvmId, memory: MemorySpec, processors: ProcessorSpec, boot: WindowsBoot) -> Self {
        Self {
            id,
            owner: String::new(),
            memory,
            processors,
            boot,
            devices_physically_backed: false,
            compartment_namespace: true,
            guest_connection: GuestConnection::default(),
            storage_qos: StorageQos::default(),
            cpu_group: None,
            additional_document: None,
            deadlines: Deadlines::default(),
        }
    }
}

/// What a Windows guest boots from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowsBoot {
    /// The read-only layers, top-most first, base last; the first that holds a `UtilityVM` is booted.
    pub layers: Vec<PathBuf>,
    /// The folder of what the guest writes. It is made if it is not there.
    pub scratch: PathBuf,
}
