//! The service's schema 2.1, as far as VMs use it. A key is left out while its value is empty, zero or false; an object
//! that is `Some` is written although empty.

use std::collections::BTreeMap;

use serde::Serialize;
use uvm_wire::RawJson;

pub(super) fn is_empty<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Defines an object of the schema.
macro_rules! object {
    ($($name:ident { $($field:ident: $type:ty = $key:literal,)* })*) => {
        $(
            #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
            pub(super) struct $name {
                $(
                    #[serde(rename = $key, skip_serializing_if = "is_empty")]
                    pub(super) $field: $type,
                )*
            }
        )*
    };
}

/// A version, of which a zero is written too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Version {
    pub(super) major: u32,
    pub(super) minor: u32,
}

impl Version {
    pub(super) const V2_1: Self = Self { major: 2, minor: 1 };
}

/// What is written as an empty object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Empty {}

/// A system of its own, or a container that a VM hosts.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ComputeSystem<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) owner: &'a str,
    pub(super) schema_version: Version,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) hosting_system_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) hosted_system: Option<&'a RawJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) virtual_machine: Option<VirtualMachine>,
    /// The system ends with whoever made it.
    pub(super) should_terminate_on_last_handle_closed: bool,
}

object! {
    VirtualMachine {
        stop_on_reset: bool = "StopOnReset",
        chipset: Chipset = "Chipset",
        registry_changes: Option<RegistryChanges> = "RegistryChanges",
        compute_topology: Topology = "ComputeTopology",
        devices: Devices = "Devices",
        guest_connection: Option<GuestConnection> = "GuestConnection",
        storage_qos: Option<StorageQos> = "StorageQoS",
    }

    Chipset {
        uefi: Option<Uefi> = "Uefi",
        linux_kernel_direct: Option<LinuxKernelDirect> = "LinuxKernelDirect",
    }

    Uefi { boot_this: UefiBootEntry = "BootThis", }

    UefiBootEntry {
        device_type: String = "DeviceType",
        device_path: String = "DevicePath",
        vmbfs_root_path: String = "VmbFsRootPath",
        optional_data: String = "OptionalData",
    }

    LinuxKernelDirect {
        kernel_file_path: String = "KernelFilePath",
        initrd_path: String = "InitRdPath",
        kernel_cmd_line: String = "KernelCmdLine",
    }

    RegistryChanges { add_values: Vec<RegistryValue> = "AddValues", }

    RegistryValue {
        key: RegistryKey = "Key",
        name: String = "Name",
        value_type: String = "Type",
        dword_value: u32 = "DWordValue",
    }

    RegistryKey {
        hive: String = "Hive",
        name: String = "Name",
    }

    Topology {
        memory: Memory = "Memory",
        processor: Processor = "Processor",
    }

    Memory {
        size_in_mb: u64 = "SizeInMB",
        allow_overcommit: bool = "AllowOvercommit",
        enable_hot_hint: bool = "EnableHotHint",
        enable_cold_discard_hint: bool = "EnableColdDiscardHint",
        enable_deferred_commit: bool = "EnableDeferredCommit",
        low_mmio_gap_in_mb: u64 = "LowMmioGapInMB",
        high_mmio_base_in_mb: u64 = "HighMmioBaseInMB",
        high_mmio_gap_in_mb: u64 = "HighMmioGapInMB",
    }

    Processor {
        count: u32 = "Count",
        limit: u32 = "Limit",
        weight: u32 = "Weight",
        cpu_group: Option<CpuGroup> = "CpuGroup",
    }

    CpuGroup { id: String = "Id", }

    CpuLimits {
        limit: u64 = "Limit",
        weight: u64 = "Weight",
        reservation: u64 = "Reservation",
        maximum_frequency_mhz: u32 = "MaximumFrequencyMHz",
    }

    StorageQos {
        iops_maximum: u32 = "IopsMaximum",
        bandwidth_maximum: u32 = "BandwidthMaximum",
    }

    GuestConnection {
        use_vsock: bool = "UseVsock",
        use_connected_suspend: bool = "UseConnectedSuspend",
    }

    Devices {
        com_ports: BTreeMap<String, ComPort> = "ComPorts",
        scsi: BTreeMap<String, ScsiController> = "Scsi",
        virtual_pmem: Option<VirtualPmem> = "VirtualPMem",
        video_monitor: Option<Empty> = "VideoMonitor",
        keyboard: Option<Empty> = "Keyboard",
        enhanced_mode_video: Option<Empty> = "EnhancedModeVideo",
        hv_socket: Option<HvSocket> = "HvSocket",
        plan9: Option<Empty> = "Plan9",
        virtual_smb: Option<VirtualSmb> = "VirtualSmb",
    }

    ComPort { named_pipe: String = "NamedPipe", }

    ScsiController { attachments: BTreeMap<String, Attachment> = "Attachments", }

    Attachment {
        kind: &'static str = "Type",
        path: String = "Path",
        read_only: bool = "ReadOnly",
    }

    VirtualPmem {
        devices: BTreeMap<String, VpmemDevice> = "Devices",
        maximum_count: u32 = "MaximumCount",
        maximum_size_bytes: u64 = "MaximumSizeBytes",
    }

    VpmemDevice {
        host_path: String = "HostPath",
        read_only: bool = "ReadOnly",
        image_format: &'static str = "ImageFormat",
    }

    HvSocket { config: HvSocketConfig = "HvSocketConfig", }

    HvSocketConfig { default_bind_security_descriptor: &'static str = "DefaultBindSecurityDescriptor", }

    HvSocketServiceConfig {
        bind_security_descriptor: String = "BindSecurityDescriptor",
        connect_security_descriptor: String = "ConnectSecurityDescriptor",
        allow_wildcard_binds: bool = "AllowWildcardBinds",
        disabled: bool = "Disabled",
    }

    VirtualSmb {
        shares: Vec<VsmbShare> = "Shares",
        direct_file_mapping_in_mb: u64 = "DirectFileMappingInMB",
    }

    VsmbShare {
        name: String = "Name",
        path: String = "Path",
        allowed_files: Vec<String> = "AllowedFiles",
        options: Option<VsmbShareOptions> = "Options",
    }

    VsmbShareOptions {
        read_only: bool = "ReadOnly",
        share_read: bool = "ShareRead",
        cache_io: bool = "CacheIo",
        non_cache_io: bool = "NonCacheIo",
        no_oplocks: bool = "NoOplocks",
        take_backup_privilege: bool = "TakeBackupPrivilege",
        use_share_root_identity: bool = "UseShareRootIdentity",
        no_direct_map: bool = "NoDirectmap",
        no_locks: bool = "NoLocks",
        no_dir_notify: bool = "NoDirnotify",
        vm_shared_memory: bool = "VmSharedMemory",
        restrict_file_access: bool = "RestrictFileAccess",
        force_level_ii_oplocks: bool = "ForceLevelIIOplocks",
        reparse_base_layer: bool = "ReparseBaseLayer",
        pseudo_oplocks: bool = "PseudoOplocks",
        pseudo_dir_notify: bool = "PseudoDirnotify",
        single_file_mapping: bool = "SingleFileMapping",
    }

    Plan9Share {
        name: String = "Name",
        access_name: String = "AccessName",
        path: String = "Path",
        port: u32 = "Port",
        flags: u32 = "Flags",
        allowed_files: Vec<String> = "AllowedFiles",
    }

    NetworkAdapter {
        endpoint_id: String = "EndpointId",
        mac_address: String = "MacAddress",
    }

    PciDevice { functions: Vec<PciFunction> = "Functions", }

    PciFunction {
        device_instance_path: String = "DeviceInstancePath",
        virtual_function: u16 = "VirtualFunction",
    }
}
