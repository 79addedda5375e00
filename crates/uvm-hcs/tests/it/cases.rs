//! Recorded cases, in a compact form: equal ones are kept once, with their number.

use std::path::PathBuf;

use serde_json::{Value, from_str};
use uvm_hcs::WinPath;
use uvm_hcs::WindowsBuild;
use uvm_platform::UvmId;
use uvm_platform::spec::{
    Console, GuestAgent, GuestConnection, InitArguments, LinuxBoot, MemoryBacking, MemorySpec, MmioGaps, ProcessorSpec,
    RootFs, StorageQos, VmSpec, VpmemSpec,
};
use uvm_platform::windows::{WcowSpec, WindowsBoot};

/// A file of cases.
pub(crate) fn read(text: &str) -> Value {
    from_str(text).expect("the recorded cases are JSON")
}

/// The options of one case: those that differ from the defaults, and the defaults.
pub(crate) struct Options<'a> {
    given: &'a Value,
    defaults: &'a Value,
    processors: u32,
}

impl<'a> Options<'a> {
    pub(crate) fn of(case: &'a Value, defaults: &'a Value) -> Self {
        let defaults = &defaults[case["os"].as_str().expect("a case has a guest")];
        let processors = case["processors"].as_u64().and_then(|count| u32::try_from(count).ok());
        Self { given: &case["options"], defaults, processors: processors.expect("a host has processors") }
    }

    pub(crate) fn get(&self, name: &str) -> &'a Value {
        self.given.get(name).unwrap_or(&self.defaults[name])
    }

    pub(crate) fn text(&self, name: &str) -> &'a str {
        self.get(name).as_str().unwrap_or_else(|| panic!("{name} is text"))
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        self.get(name).as_bool().unwrap_or_else(|| panic!("{name} is a flag"))
    }

    pub(crate) fn number<N: TryFrom<u64>>(&self, name: &str) -> N {
        let number = self.get(name).as_u64().and_then(|number| N::try_from(number).ok());
        number.unwrap_or_else(|| panic!("{name} is a number"))
    }

    /// What this project's options do with the original's: 0 is the default, memory is even, processors are there.
    fn memory(&self) -> MemorySpec {
        let mib = match self.number::<u64>("MemorySizeInMB") {
            0 => 1024,
            mib => mib.next_multiple_of(2),
        };
        let backing = match (self.flag("AllowOvercommit"), self.flag("EnableDeferredCommit")) {
            (true, true) => MemoryBacking::DeferredCommit,
            (true, false) => MemoryBacking::Overcommit,
            (false, _) => MemoryBacking::Physical,
        };
        let mmio = MmioGaps {
            low_gap_mib: self.number("LowMMIOGapInMB"),
            high_base_mib: self.number("HighMMIOBaseInMB"),
            high_gap_mib: self.number("HighMMIOGapInMB"),
        };
        MemorySpec { size_mib: mib, backing, mmio }
    }

    fn processor(&self) -> ProcessorSpec {
        let wanted = match self.number::<u32>("ProcessorCount") {
            0 => 2,
            wanted => wanted,
        };
        let given = |value: u32| (value > 0).then_some(value);
        ProcessorSpec {
            count: wanted.min(self.processors),
            limit: given(self.number("ProcessorLimit")),
            weight: given(self.number("ProcessorWeight")),
        }
    }

    fn storage_qos(&self) -> StorageQos {
        StorageQos {
            iops_maximum: self.number("StorageQoSIopsMaximum"),
            bandwidth_maximum: self.number("StorageQoSBandwidthMaximum"),
        }
    }

    fn optional(&self, name: &str) -> Option<String> {
        Some(self.text(name).to_owned()).filter(|text| !text.is_empty())
    }

    pub(crate) fn lcow(&self) -> VmSpec {
        let directory = WinPath::new(self.text("BootFilesPath"));
        let file = |name: &str| PathBuf::from(directory.join(self.text(name)).as_str());
        let root = if self.number::<u32>("PreferredRootFSType") == 1 { RootFs::Disk } else { RootFs::Initrd };
        let boot = LinuxBoot {
            kernel: file("KernelFile"),
            root: root(file("RootFSFile")),
            kernel_options: self.text("KernelBootOptions").into(),
            init: InitArguments {
                entropy_port: Some(1),
                log_port: 109,
                forward_stdout: self.flag("ForwardStdout"),
                forward_stderr: self.flag("ForwardStderr"),
                exec_command_line: self.text("ExecCommandLine").into(),
            },
            agent: GuestAgent::Original,
            kernel_hz: None,
            uefi: !self.flag("KernelDirect"),
            pci: self.flag("VPCIEnabled"),
        };
        let mut spec = VmSpec::new(id(), self.memory(), self.processor(), boot);
        spec.owner = self.text("Owner").into();
        spec.boot_files = Some(directory.as_str().into());
        if self.flag("UseGuestConnection") && !self.flag("ExternalGuestConnection") {
            spec.guest_connection = GuestConnection::HostService;
        }
        if let Some(pipe) = self.optional("ConsolePipe") {
            spec.console = Console::Socket(pipe.into());
        }
        spec.graphics_console = self.flag("EnableGraphicsConsole");
        spec.scsi_controllers = self.number("SCSIControllerCount");
        spec.vpmem = VpmemSpec { count: self.number("VPMemDeviceCount"), size_bytes: self.number("VPMemSizeBytes") };
        spec.storage_qos = self.storage_qos();
        spec.cpu_group = self.optional("CPUGroupID");
        spec.additional_document = self.optional("AdditionHCSDocumentJSON");
        spec.cold_discard_hint = self.flag("EnableColdDiscardHint");
        spec
    }

    pub(crate) fn wcow(&self) -> WcowSpec {
        let folders = self.get("LayerFolders").as_array().expect("folders");
        let mut layers: Vec<PathBuf> = folders.iter().map(|folder| folder.as_str().expect("a path").into()).collect();
        let scratch = layers.pop().expect("a scratch folder");
        let boot = WindowsBoot { layers, scratch };
        let mut spec = WcowSpec::new(id(), self.memory(), self.processor(), boot);
        spec.owner = self.text("Owner").into();
        spec.devices_physically_backed = self.flag("FullyPhysicallyBacked");
        spec.compartment_namespace = !self.flag("DisableCompartmentNamespace");
        if !self.flag("ExternalGuestConnection") {
            spec.guest_connection = GuestConnection::HostService;
        }
        spec.storage_qos = self.storage_qos();
        spec.cpu_group = self.optional("CPUGroupID");
        spec.additional_document = self.optional("AdditionHCSDocumentJSON");
        spec
    }
}

pub(crate) fn build(case: &Value) -> WindowsBuild {
    let build = case["build"].as_u64().and_then(|build| u32::try_from(build).ok());
    WindowsBuild(build.expect("a case has a build"))
}

fn id() -> UvmId {
    UvmId::new("vm-under-test").expect("an id")
}
