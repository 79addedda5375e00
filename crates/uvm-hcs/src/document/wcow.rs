//! The document that creates a VM with a Windows guest.

use std::collections::BTreeMap;

use uvm_platform::WcowSpec;
use uvm_platform::spec::GuestConnection;

use super::schema::{self, ComputeSystem, Version};
use super::shared::{hv_socket, memory, processor, storage_qos};
use super::{DocumentError, SystemDocument};
use crate::win_path::WinPath;
use crate::windows_build::WindowsBuild;

/// What a Windows guest boots from, found and made ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowsImage {
    /// The layer that holds the guest's system.
    pub system_layer: WinPath,
    /// The disk for what the guest writes.
    pub scratch_disk: WinPath,
}

impl WindowsImage {
    /// The directory of a layer that holds the guest's system.
    pub const SYSTEM: &'static str = "UtilityVM";
    /// The name of the disk in the scratch folder.
    pub const SCRATCH_DISK: &'static str = "sandbox.vhdx";

    /// The guest's files.
    pub fn files(&self) -> WinPath {
        self.system_layer.join(Self::SYSTEM).join("Files")
    }

    /// What a new scratch disk is a copy of.
    pub fn scratch_template(&self) -> WinPath {
        self.system_layer.join(Self::SYSTEM).join("SystemTemplate.vhdx")
    }
}

/// The document that creates a VM with a Windows guest on a host of this build.
///
/// # Errors
/// What is to be merged over the document is no JSON object, or there are no processors.
pub fn create_wcow(
    spec: &WcowSpec,
    image: &WindowsImage,
    build: WindowsBuild,
) -> Result<SystemDocument, DocumentError> {
    if spec.processors.count == 0 {
        return Err(DocumentError::bad("processors", &0, "at least one is needed"));
    }
    let memory = memory(spec.memory);
    let memory = schema::Memory { enable_hot_hint: memory.allow_overcommit, ..memory };
    let processor = processor(spec.processors, spec.cpu_group.as_deref(), build);
    let vm = schema::VirtualMachine {
        stop_on_reset: true,
        chipset: schema::Chipset { uefi: Some(schema::Uefi { boot_this: boot_entry() }), linux_kernel_direct: None },
        registry_changes: Some(registry(spec.compartment_namespace)),
        compute_topology: schema::Topology { memory, processor },
        devices: devices(spec, image),
        guest_connection: (spec.guest_connection == GuestConnection::HostService)
            .then(schema::GuestConnection::default),
        storage_qos: storage_qos(spec.storage_qos),
    };
    let system = ComputeSystem {
        owner: &spec.owner,
        schema_version: Version::V2_1,
        hosting_system_id: "",
        hosted_system: None,
        virtual_machine: Some(vm),
        should_terminate_on_last_handle_closed: true,
    };
    SystemDocument::of(&system, spec.additional_document.as_deref())
}

fn boot_entry() -> schema::UefiBootEntry {
    schema::UefiBootEntry {
        device_type: "VmbFs".into(),
        device_path: r"\EFI\Microsoft\Boot\bootmgfw.efi".into(),
        ..schema::UefiBootEntry::default()
    }
}

/// Makes a container's network compartment look like the only one.
fn registry(compartment_namespace: bool) -> schema::RegistryChanges {
    let value = compartment_namespace.then(|| schema::RegistryValue {
        key: schema::RegistryKey { hive: "System".into(), name: r"CurrentControlSet\Services\gns".into() },
        name: "EnableCompartmentNamespace".into(),
        value_type: "DWord".into(),
        dword_value: 1,
    });
    schema::RegistryChanges { add_values: value.into_iter().collect() }
}

fn devices(spec: &WcowSpec, image: &WindowsImage) -> schema::Devices {
    let scratch =
        schema::Attachment { kind: "VirtualDisk", path: image.scratch_disk.as_str().to_owned(), read_only: false };
    let controller = schema::ScsiController { attachments: BTreeMap::from([("0".to_owned(), scratch)]) };
    let system = schema::VsmbShare {
        name: "os".into(),
        path: image.files().as_str().to_owned(),
        allowed_files: Vec::new(),
        options: Some(schema::VsmbShareOptions {
            read_only: true,
            share_read: true,
            cache_io: true,
            pseudo_oplocks: true,
            take_backup_privilege: true,
            no_direct_map: spec.devices_physically_backed,
            ..schema::VsmbShareOptions::default()
        }),
    };
    schema::Devices {
        scsi: BTreeMap::from([("0".to_owned(), controller)]),
        hv_socket: Some(hv_socket()),
        virtual_smb: Some(schema::VirtualSmb { shares: vec![system], direct_file_mapping_in_mb: 1024 }),
        ..schema::Devices::default()
    }
}
