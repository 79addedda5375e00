//! Options of a utility VM with a Windows guest.

use std::path::PathBuf;

use uvm_platform::spec::{MmioGaps, StorageQos};
use uvm_platform::windows::{WcowSpec, WindowsBoot};
use uvm_platform::{Deadlines, Platform, UvmId};

use super::shared::{Memory, Processors};
use super::{GuestConnection, MemoryBacking, MemoryMib, OptionsError, ProcessorCount};

/// Options of a utility VM with a Windows guest (Host Compute Service only). [`WcowOptions::new`] has the defaults stated
/// with each field; change what you need.
///
/// ```
/// use uvm::{MemoryMib, WcowOptions};
///
/// let folders = [r"C:\layers\top", r"C:\layers\base", r"C:\vm\scratch"];
/// let options = WcowOptions::new(folders).with_memory(MemoryMib::new(2048)?);
/// # Ok::<(), uvm::OptionsError>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WcowOptions {
    /// The folders of the VM's layers: read-only ones first, the top-most before the others and the base last, then the one
    /// for what the guest writes, which is made if it is not there. The first that holds a `UtilityVM` is booted.
    pub layer_folders: Vec<PathBuf>,
    /// The VM's id. Default: a random GUID, drawn when the VM is created. The options are never changed.
    pub id: Option<UvmId>,
    /// Whom the VM is for. Default: the name of the running program.
    pub owner: Option<String>,
    /// JSON to merge over the document that creates the VM. Default: none.
    pub additional_document: Option<String>,
    /// Guest memory. Default: 1024 MiB.
    pub memory: MemoryMib,
    /// How memory is backed. Default: overcommitted.
    pub backing: MemoryBacking,
    /// Address space for devices below 4 GiB, in MiB. Default: 0, the host's choice.
    pub low_mmio_gap_mib: u64,
    /// Where the address space for devices above 4 GiB begins, in MiB. Default: 0.
    pub high_mmio_base_mib: u64,
    /// Its size, in MiB. Default: 0.
    pub high_mmio_gap_mib: u64,
    /// Processors. Default: 2, or 1 on a host with one.
    pub processors: ProcessorCount,
    /// The most processor time the VM may use, in 1/100,000 of its processors, 1 to 100,000. Default: 0, the host's choice.
    pub processor_limit: u32,
    /// Its share of a busy host, 1 to 10,000; 100 is average. Default: 0, the host's choice.
    pub processor_weight: u32,
    /// Disk operations a second of the whole VM. Default: 0, no limit.
    pub storage_qos_iops_maximum: u32,
    /// Disk bytes a second of the whole VM. Default: 0, no limit.
    pub storage_qos_bandwidth_maximum: u32,
    /// The CPU group the VM belongs to. Default: none.
    pub cpu_group: Option<String>,
    /// A container's network compartment knows of no other, as if it were the guest's own. Default: true.
    pub compartment_namespace: bool,
    /// Who holds the connection to the guest's agent: this library or the host's service. Default: this library.
    pub guest_connection: GuestConnection,
    /// The longest waits. Default: [`Deadlines::default`].
    pub deadlines: Deadlines,
}

impl WcowOptions {
    /// Options with these [`layer_folders`](Self::layer_folders), and the defaults for all else.
    pub fn new(layer_folders: impl IntoIterator<Item: Into<PathBuf>>) -> Self {
        Self {
            layer_folders: layer_folders.into_iter().map(Into::into).collect(),
            id: None,
            owner: None,
            additional_document: None,
            memory: MemoryMib::DEFAULT,
            backing: MemoryBacking::default(),
            low_mmio_gap_mib: 0,
            high_mmio_base_mib: 0,
            high_mmio_gap_mib: 0,
            processors: ProcessorCount::default(),
            processor_limit: 0,
            processor_weight: 0,
            storage_qos_iops_maximum: 0,
            storage_qos_bandwidth_maximum: 0,
            cpu_group: None,
            compartment_namespace: true,
            guest_connection: GuestConnection::default(),
            deadlines: Deadlines::default(),
        }
    }

    /// With this id.
    #[must_use]
    pub fn with_id(self, id: UvmId) -> Self {
        Self { id: Some(id), ..self }
    }

    /// With this much memory.
    #[must_use]
    pub fn with_memory(self, memory: MemoryMib) -> Self {
        Self { memory, ..self }
    }

    /// With this many processors, or as many as the host has if that is less; 0 is the default.
    #[must_use]
    pub fn with_processors(self, count: u32) -> Self {
        let processors = std::num::NonZeroU32::new(count).map_or(ProcessorCount::HostDefault, ProcessorCount::Exactly);
        Self { processors, ..self }
    }

    /// With these longest waits.
    #[must_use]
    pub fn with_deadlines(self, deadlines: Deadlines) -> Self {
        Self { deadlines, ..self }
    }

    fn shared_processors(&self) -> Processors {
        Processors { count: self.processors, limit: self.processor_limit, weight: self.processor_weight }
    }

    /// Checks what the types cannot. The host checks what it lacks.
    pub(crate) fn check(&self) -> Result<(), OptionsError> {
        self.shared_processors().check()?;
        if self.guest_connection == GuestConnection::None {
            return Err(OptionsError::NoGuestConnection);
        }
        self.boot().map(drop)
    }

    fn boot(&self) -> Result<WindowsBoot, OptionsError> {
        match self.layer_folders.as_slice() {
            [layers @ .., scratch] if !layers.is_empty() => {
                Ok(WindowsBoot { layers: layers.to_vec(), scratch: scratch.clone() })
            }
            folders => Err(OptionsError::TooFewLayerFolders { count: folders.len() }),
        }
    }

    /// What `host` is asked for.
    pub(crate) fn lower(&self, id: UvmId, host: &dyn Platform) -> Result<WcowSpec, OptionsError> {
        let memory = Memory {
            size: self.memory,
            backing: self.backing,
            mmio: MmioGaps {
                low_gap_mib: self.low_mmio_gap_mib,
                high_base_mib: self.high_mmio_base_mib,
                high_gap_mib: self.high_mmio_gap_mib,
            },
        };
        let processors = self.shared_processors().lower(&id, host);
        let mut spec = WcowSpec::new(id, memory.lower(), processors, self.boot()?);
        spec.owner = self.owner.clone().unwrap_or_else(|| host.files().program_name());
        spec.devices_physically_backed = self.backing == MemoryBacking::FullyPhysical;
        spec.compartment_namespace = self.compartment_namespace;
        spec.guest_connection = self.guest_connection.lower();
        spec.storage_qos = StorageQos {
            iops_maximum: self.storage_qos_iops_maximum,
            bandwidth_maximum: self.storage_qos_bandwidth_maximum,
        };
        spec.cpu_group.clone_from(&self.cpu_group);
        spec.additional_document.clone_from(&self.additional_document);
        spec.deadlines = self.deadlines;
        Ok(spec)
    }
}

#[cfg(test)]
mod tests {
    use uvm_platform::fake::FakePlatform;
    use uvm_platform::spec;

    use super::*;

    fn refused(change: impl FnOnce(&mut WcowOptions)) -> String {
        let mut options = WcowOptions::new(["layer", "scratch"]);
        options.check().expect("the defaults can be used");
        change(&mut options);
        options.check().expect_err("not allowed").to_string()
    }

    #[test]
    fn what_the_types_cannot_keep_out_is_checked() {
        let few = "at least 2 LayerFolders must be supplied, the last for what the guest writes; there is 1";
        assert_eq!(refused(|o| o.layer_folders.truncate(1)), few);
        assert!(refused(|o| o.layer_folders.clear()).ends_with("there is 0"));
        assert_eq!(refused(|o| o.processor_limit = 100_001), "processor limit of 100001: at most 100000 is allowed");
        assert_eq!(refused(|o| o.processor_weight = 10_001), "processor weight of 10001: at most 10000 is allowed");
        let nobody = refused(|o| o.guest_connection = GuestConnection::None);
        assert_eq!(nobody, "a Windows guest needs a guest connection: of the library or of the host's service");
    }

    #[test]
    fn d16_d17_d19_a_spec_has_what_the_options_say() {
        let mut options = WcowOptions::new(["top", "base", "scratch"]);
        options.memory = MemoryMib::rounded_up(1023).expect("odd is rounded");
        options.backing = MemoryBacking::from_switches(false, false, true).expect("they agree");
        options.processors = ProcessorCount::new(0).expect("the default");
        options.processor_limit = 50_000;
        options.storage_qos_iops_maximum = 7;
        options.compartment_namespace = false;
        options.guest_connection = GuestConnection::HostService;
        options.high_mmio_gap_mib = 64;
        let id = UvmId::new("vm").expect("valid");
        let spec = options.lower(id, &FakePlatform::new().with_processors(1)).expect("checked");
        assert_eq!((spec.memory.size_mib, spec.memory.backing), (1024, spec::MemoryBacking::Physical));
        assert_eq!((spec.memory.mmio.high_gap_mib, spec.storage_qos.iops_maximum), (64, 7));
        assert_eq!((spec.processors.count, spec.processors.limit, spec.processors.weight), (1, Some(50_000), None));
        assert!(spec.devices_physically_backed && !spec.compartment_namespace);
        assert_eq!(spec.guest_connection, spec::GuestConnection::HostService);
        assert_eq!(spec.boot.layers, [PathBuf::from("top"), PathBuf::from("base")]);
        assert_eq!(spec.boot.scratch, PathBuf::from("scratch"));
    }
}
