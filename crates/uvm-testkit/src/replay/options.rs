//! Options of the original, from and to JSON.

use std::num::NonZeroU32;
use std::path::PathBuf;

use serde_json::{Map, Value, json};
use uvm::platform::Platform;
use uvm::{
    Console, GuestConnection, KernelBoot, LcowOptions, MemoryBacking, MemoryMib, ProcessorCount, RootFsType, UvmId,
    WcowOptions,
};

/// The defaults that Linux guests of this id and owner have on a host.
pub(super) async fn lcow_defaults(host: &dyn Platform, id: &str, owner: &str) -> Value {
    let mut options = LcowOptions::default();
    options.processors = recorder_processors();
    options.owner = Some(owner.to_owned()).filter(|owner| !owner.is_empty());
    let options = options.resolved_on(host).await;
    let owner = options.owner.as_deref().unwrap_or_default();
    let path =
        |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_string_lossy()).unwrap_or_default().into_owned();
    let console = match &options.console {
        Console::Socket(path) => path.to_string_lossy().into_owned(),
        _ => String::new(),
    };
    let mut all = common(&Common {
        id,
        owner,
        additional: options.additional_document.as_deref(),
        memory: options.memory,
        backing: options.backing,
        mmio: [options.low_mmio_gap_mib, options.high_mmio_base_mib, options.high_mmio_gap_mib],
        processors: options.processors,
        limits: [options.processor_limit, options.processor_weight],
        qos: [options.storage_qos_iops_maximum, options.storage_qos_bandwidth_maximum],
        connection: options.guest_connection,
        group: options.cpu_group.as_deref(),
        compartment_namespace: true,
    });
    let own = json!({
        "BootFilesPath": path(&options.boot_files),
        "KernelFile": path(&options.kernel_file),
        "KernelDirect": options.kernel_boot == KernelBoot::Direct,
        "RootFSFile": path(&options.root_fs_file),
        "KernelBootOptions": options.kernel_boot_options,
        "EnableGraphicsConsole": options.graphics_console,
        "ConsolePipe": console,
        "SCSIControllerCount": options.scsi_controllers,
        "UseGuestConnection": options.guest_connection != GuestConnection::None,
        "ExecCommandLine": options.exec_command_line,
        "ForwardStdout": options.forward_stdout,
        "ForwardStderr": options.forward_stderr,
        "VPMemDeviceCount": options.vpmem_devices,
        "VPMemSizeBytes": options.vpmem_size_bytes,
        "PreferredRootFSType": u8::from(options.root_fs_type == Some(RootFsType::Vhd)),
        "EnableColdDiscardHint": options.cold_discard_hint,
        "VPCIEnabled": options.vpci,
    });
    merge(&mut all, own);
    Value::Object(all)
}

/// The same for Windows guests.
pub(super) fn wcow_defaults(host: &dyn Platform, id: &str, owner: &str) -> Value {
    let mut options = WcowOptions::new(Vec::<PathBuf>::new());
    options.processors = recorder_processors();
    options.owner = Some(owner.to_owned()).filter(|owner| !owner.is_empty());
    let options = options.resolved_on(host);
    let owner = options.owner.as_deref().unwrap_or_default();
    let mut all = common(&Common {
        id,
        owner,
        additional: options.additional_document.as_deref(),
        memory: options.memory,
        backing: options.backing,
        mmio: [options.low_mmio_gap_mib, options.high_mmio_base_mib, options.high_mmio_gap_mib],
        processors: options.processors,
        limits: [options.processor_limit, options.processor_weight],
        qos: [options.storage_qos_iops_maximum, options.storage_qos_bandwidth_maximum],
        connection: options.guest_connection,
        group: options.cpu_group.as_deref(),
        compartment_namespace: options.compartment_namespace,
    });
    merge(&mut all, json!({ "LayerFolders": null }));
    Value::Object(all)
}

/// The default where it was recorded: the program saw the processors of its own machine, not those that a case's service
/// tells of.
fn recorder_processors() -> ProcessorCount {
    NonZeroU32::new(ProcessorCount::HostDefault.on(8)).map_or(ProcessorCount::HostDefault, ProcessorCount::Exactly)
}

fn merge(all: &mut Map<String, Value>, own: Value) {
    if let Value::Object(own) = own {
        all.extend(own);
    }
}

struct Common<'a> {
    id: &'a str,
    owner: &'a str,
    additional: Option<&'a str>,
    memory: MemoryMib,
    backing: MemoryBacking,
    mmio: [u64; 3],
    processors: ProcessorCount,
    limits: [u32; 2],
    qos: [u32; 2],
    connection: GuestConnection,
    group: Option<&'a str>,
    compartment_namespace: bool,
}

fn common(options: &Common<'_>) -> Map<String, Value> {
    let count = match options.processors {
        ProcessorCount::Exactly(count) => count.get(),
        ProcessorCount::HostDefault => 0,
    };
    let all = json!({
        "ID": options.id,
        "Owner": options.owner,
        "AdditionHCSDocumentJSON": options.additional.unwrap_or_default(),
        "MemorySizeInMB": options.memory.get(),
        "LowMMIOGapInMB": options.mmio[0],
        "HighMMIOBaseInMB": options.mmio[1],
        "HighMMIOGapInMB": options.mmio[2],
        "AllowOvercommit": !options.backing.is_physical(),
        "FullyPhysicallyBacked": options.backing == MemoryBacking::FullyPhysical,
        "EnableDeferredCommit": options.backing == MemoryBacking::DeferredCommit,
        "ProcessorCount": count,
        "ProcessorLimit": options.limits[0],
        "ProcessorWeight": options.limits[1],
        "StorageQoSIopsMaximum": options.qos[0],
        "StorageQoSBandwidthMaximum": options.qos[1],
        "ExternalGuestConnection": options.connection == GuestConnection::Library,
        "DisableCompartmentNamespace": !options.compartment_namespace,
        "CPUGroupID": options.group.unwrap_or_default(),
    });
    match all {
        Value::Object(all) => all,
        _ => Map::new(),
    }
}

/// All options of a case.
pub(super) struct Given(Map<String, Value>);

impl Given {
    /// The defaults with these changed.
    pub(super) fn new(defaults: &Value, changed: &Value) -> Self {
        let mut all = defaults.as_object().cloned().unwrap_or_default();
        merge(&mut all, changed.clone());
        Self(all)
    }

    fn text(&self, name: &str) -> Result<String, String> {
        let text = self.0.get(name).and_then(Value::as_str).map(str::to_owned);
        text.ok_or_else(|| format!("{name} is no text"))
    }

    fn flag(&self, name: &str) -> Result<bool, String> {
        self.0.get(name).and_then(Value::as_bool).ok_or_else(|| format!("{name} is no flag"))
    }

    /// A number that the option's type takes.
    fn number<N: TryFrom<i128>>(&self, name: &str) -> Result<N, String> {
        let value = self.0.get(name);
        let number = value.and_then(|value| {
            let signed = value.as_i64().map(i128::from);
            signed.or_else(|| value.as_u64().map(i128::from))
        });
        let number = number.and_then(|number| N::try_from(number).ok());
        number.ok_or_else(|| format!("{name} cannot be {}", value.unwrap_or(&Value::Null)))
    }

    fn optional(&self, name: &str) -> Result<Option<String>, String> {
        Ok(Some(self.text(name)?).filter(|text| !text.is_empty()))
    }

    fn id(&self) -> Result<Option<UvmId>, String> {
        self.optional("ID")?.map(|id| UvmId::new(id).map_err(|e| e.to_string())).transpose()
    }

    fn backing(&self) -> Result<MemoryBacking, String> {
        let [overcommit, deferred, physical] =
            [self.flag("AllowOvercommit")?, self.flag("EnableDeferredCommit")?, self.flag("FullyPhysicallyBacked")?];
        MemoryBacking::from_switches(overcommit, deferred, physical).map_err(|e| e.to_string())
    }

    fn memory(&self) -> Result<MemoryMib, String> {
        MemoryMib::rounded_up(self.number("MemorySizeInMB")?).map_err(|e| e.to_string())
    }

    fn processors(&self) -> Result<ProcessorCount, String> {
        ProcessorCount::new(self.number("ProcessorCount")?).map_err(|e| e.to_string())
    }

    pub(super) fn lcow(&self) -> Result<LcowOptions, String> {
        let mut options = LcowOptions::default();
        options.id = self.id()?;
        options.owner = self.optional("Owner")?;
        options.additional_document = self.optional("AdditionHCSDocumentJSON")?;
        options.memory = self.memory()?;
        options.backing = self.backing()?;
        options.low_mmio_gap_mib = self.number("LowMMIOGapInMB")?;
        options.high_mmio_base_mib = self.number("HighMMIOBaseInMB")?;
        options.high_mmio_gap_mib = self.number("HighMMIOGapInMB")?;
        options.processors = self.processors()?;
        options.processor_limit = self.number("ProcessorLimit")?;
        options.processor_weight = self.number("ProcessorWeight")?;
        options.storage_qos_iops_maximum = self.number("StorageQoSIopsMaximum")?;
        options.storage_qos_bandwidth_maximum = self.number("StorageQoSBandwidthMaximum")?;
        options.cpu_group = self.optional("CPUGroupID")?;
        options.boot_files = Some(self.text("BootFilesPath")?.into());
        options.kernel_file = Some(self.text("KernelFile")?.into());
        options.kernel_boot = if self.flag("KernelDirect")? { KernelBoot::Direct } else { KernelBoot::Uefi };
        options.root_fs_file = Some(self.text("RootFSFile")?.into());
        options.root_fs_type = Some(match self.number::<i64>("PreferredRootFSType")? {
            0 => RootFsType::Initrd,
            1 => RootFsType::Vhd,
            other => return Err(format!("D81: there is no root file system of type {other}")),
        });
        options.kernel_boot_options = self.text("KernelBootOptions")?;
        options.graphics_console = self.flag("EnableGraphicsConsole")?;
        if let Some(pipe) = self.optional("ConsolePipe")? {
            options.console = Console::Socket(pipe.into());
        }
        options.scsi_controllers = self.number("SCSIControllerCount")?;
        options.guest_connection = match (self.flag("UseGuestConnection")?, self.flag("ExternalGuestConnection")?) {
            (false, _) => GuestConnection::None,
            (true, true) => GuestConnection::Library,
            (true, false) => GuestConnection::HostService,
        };
        options.exec_command_line = Some(self.text("ExecCommandLine")?);
        options.forward_stdout = self.flag("ForwardStdout")?;
        options.forward_stderr = self.flag("ForwardStderr")?;
        options.vpmem_devices = self.number("VPMemDeviceCount")?;
        options.vpmem_size_bytes = self.number("VPMemSizeBytes")?;
        options.cold_discard_hint = self.flag("EnableColdDiscardHint")?;
        options.vpci = self.flag("VPCIEnabled")?;
        Ok(options)
    }

    pub(super) fn wcow(&self) -> Result<WcowOptions, String> {
        let folders = self.0.get("LayerFolders").and_then(Value::as_array).cloned().unwrap_or_default();
        let mut options = WcowOptions::new(folders.iter().filter_map(Value::as_str));
        options.id = self.id()?;
        options.owner = self.optional("Owner")?;
        options.additional_document = self.optional("AdditionHCSDocumentJSON")?;
        options.memory = self.memory()?;
        options.backing = self.backing()?;
        options.low_mmio_gap_mib = self.number("LowMMIOGapInMB")?;
        options.high_mmio_base_mib = self.number("HighMMIOBaseInMB")?;
        options.high_mmio_gap_mib = self.number("HighMMIOGapInMB")?;
        options.processors = self.processors()?;
        options.processor_limit = self.number("ProcessorLimit")?;
        options.processor_weight = self.number("ProcessorWeight")?;
        options.storage_qos_iops_maximum = self.number("StorageQoSIopsMaximum")?;
        options.storage_qos_bandwidth_maximum = self.number("StorageQoSBandwidthMaximum")?;
        options.cpu_group = self.optional("CPUGroupID")?;
        options.compartment_namespace = !self.flag("DisableCompartmentNamespace")?;
        options.guest_connection =
            if self.flag("ExternalGuestConnection")? { GuestConnection::Library } else { GuestConnection::HostService };
        Ok(options)
    }
}
