//! The document that creates a VM with a Linux guest.

use uvm_platform::Feature;
use uvm_platform::spec::{Console, GuestConnection, RootFs, VmSpec};

use super::schema::{self, ComputeSystem, Empty, Version};
use super::shared::{hv_socket, image_format, memory, processor, storage_qos, win_path};
use super::{DocumentError, SystemDocument};
use crate::document::kernel_line::kernel_line;
use crate::win_path::WinPath;
use crate::windows_build::WindowsBuild;

/// The document that creates a VM with a Linux guest on a host of this build.
///
/// # Errors
/// The build is too old for what is asked, the service takes no such value, or what is to be merged over the document
/// is no JSON object.
pub fn create_lcow(spec: &VmSpec, build: WindowsBuild) -> Result<SystemDocument, DocumentError> {
    check(spec, build)?;
    let boot = BootFiles::of(spec)?;
    let memory = schema::Memory { enable_cold_discard_hint: spec.cold_discard_hint, ..memory(spec.memory) };
    let processor = processor(spec.processors, spec.cpu_group.as_deref(), build);
    let vm = schema::VirtualMachine {
        stop_on_reset: true,
        chipset: chipset(spec, &boot)?,
        compute_topology: schema::Topology { memory, processor },
        devices: devices(spec, &boot)?,
        guest_connection: (spec.guest_connection == GuestConnection::HostService)
            .then_some(schema::GuestConnection { use_vsock: true, use_connected_suspend: true }),
        storage_qos: storage_qos(spec.storage_qos),
        ..schema::VirtualMachine::default()
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

/// The boot files, clean, and the directory they are in, spelt as it was given.
struct BootFiles {
    directory: WinPath,
    kernel: WinPath,
    root: WinPath,
}

impl BootFiles {
    fn of(spec: &VmSpec) -> Result<Self, DocumentError> {
        let kernel = win_path("kernel", &spec.boot.kernel)?.clean();
        let (RootFs::Initrd(root) | RootFs::Disk(root)) = &spec.boot.root;
        let root = win_path("root file system", root)?.clean();
        let directory = match &spec.boot_files {
            Some(directory) => win_path("boot files", directory)?,
            None => kernel.parent().unwrap_or_else(|| WinPath::new(".")),
        };
        Ok(Self { directory, kernel, root })
    }

    /// The name of a file as the firmware finds it: it sees the boot files' directory only.
    fn name_of(&self, what: &'static str, file: &WinPath) -> Result<String, DocumentError> {
        file.beneath(&self.directory).ok_or_else(|| {
            DocumentError::bad(what, &file, "to be booted by UEFI it must be in the boot files' directory")
        })
    }
}

fn check(spec: &VmSpec, build: WindowsBuild) -> Result<(), DocumentError> {
    if !spec.boot.uefi {
        DocumentError::require(Feature::DirectKernelBoot, WindowsBuild::KERNEL_DIRECT, build)?;
    }
    if spec.cold_discard_hint {
        DocumentError::require(Feature::ColdDiscardHint, WindowsBuild::COLD_DISCARD, build)?;
    }
    let vpmem = spec.vpmem;
    if spec.scsi_controllers > MAX_SCSI_CONTROLLERS {
        return Err(DocumentError::bad("SCSI controllers", &spec.scsi_controllers, "0 or 1 are allowed"));
    }
    if vpmem.count > MAX_VPMEM_DEVICES {
        return Err(DocumentError::bad("VPMem devices", &vpmem.count, "0 to 128 are allowed"));
    }
    if vpmem.count > 0 && (vpmem.size_bytes == 0 || !vpmem.size_bytes.is_multiple_of(4096)) {
        let allowed = "a multiple of 4096, from 4096 on, is allowed";
        return Err(DocumentError::bad("VPMem devices of bytes", &vpmem.size_bytes, allowed));
    }
    if vpmem.count == 0 && matches!(spec.boot.root, RootFs::Disk(_)) {
        return Err(DocumentError::bad("VPMem devices", &0, "a root file system on a disk needs at least one"));
    }
    if spec.processors.count == 0 {
        return Err(DocumentError::bad("processors", &0, "at least one is needed"));
    }
    Ok(())
}

fn chipset(spec: &VmSpec, boot: &BootFiles) -> Result<schema::Chipset, DocumentError> {
    if !spec.boot.uefi {
        let initrd_path = match &spec.boot.root {
            RootFs::Initrd(_) => boot.root.as_str().to_owned(),
            RootFs::Disk(_) => String::new(),
        };
        let direct = schema::LinuxKernelDirect {
            kernel_file_path: boot.kernel.as_str().to_owned(),
            initrd_path,
            kernel_cmd_line: kernel_line(spec, None),
        };
        return Ok(schema::Chipset { linux_kernel_direct: Some(direct), uefi: None });
    }
    let initrd = match &spec.boot.root {
        RootFs::Initrd(_) => Some(boot.name_of("root file system", &boot.root)?),
        RootFs::Disk(_) => None,
    };
    let boot_this = schema::UefiBootEntry {
        device_type: "VmbFs".into(),
        device_path: format!("\\{}", boot.name_of("kernel", &boot.kernel)?),
        vmbfs_root_path: boot.directory.as_str().to_owned(),
        optional_data: kernel_line(spec, initrd.as_deref()),
    };
    Ok(schema::Chipset { uefi: Some(schema::Uefi { boot_this }), linux_kernel_direct: None })
}

fn devices(spec: &VmSpec, boot: &BootFiles) -> Result<schema::Devices, DocumentError> {
    let graphics = spec.graphics_console.then_some(Empty {});
    let scsi = (0..spec.scsi_controllers).map(|number| (number.to_string(), schema::ScsiController::default()));
    let root = match &spec.boot.root {
        RootFs::Initrd(_) => None,
        RootFs::Disk(_) => Some(vpmem_device(&boot.root)),
    };
    let vpmem = schema::VirtualPmem {
        devices: root.into_iter().map(|root| (ROOT_VPMEM_SLOT.to_string(), root)).collect(),
        maximum_count: spec.vpmem.count,
        maximum_size_bytes: spec.vpmem.size_bytes,
    };
    Ok(schema::Devices {
        com_ports: console(&spec.console)?.into_iter().map(|port| ("0".to_owned(), port)).collect(),
        scsi: scsi.collect(),
        virtual_pmem: (spec.vpmem.count > 0).then_some(vpmem),
        video_monitor: graphics,
        keyboard: graphics,
        enhanced_mode_video: graphics,
        hv_socket: Some(hv_socket()),
        plan9: Some(Empty {}),
        virtual_smb: None,
    })
}

/// A read-only image that the guest reads like memory.
pub(super) fn vpmem_device(path: &WinPath) -> schema::VpmemDevice {
    schema::VpmemDevice { host_path: path.as_str().to_owned(), read_only: true, image_format: image_format(path) }
}

fn console(console: &Console) -> Result<Option<schema::ComPort>, DocumentError> {
    match console {
        Console::Ring => Ok(None),
        Console::Socket(path) => {
            let pipe = win_path("console", path)?;
            if !pipe.is_local_pipe() {
                return Err(DocumentError::bad(
                    "console",
                    &pipe,
                    r"a named pipe of this host is needed, as \\.\pipe\NAME",
                ));
            }
            Ok(Some(schema::ComPort { named_pipe: pipe.as_str().to_owned() }))
        }
        Console::File(path) => {
            Err(DocumentError::bad("console", &path.display(), "the service writes to a named pipe only"))
        }
    }
}

/// The service of January 2021 takes no more.
const MAX_SCSI_CONTROLLERS: u32 = 1;
const MAX_VPMEM_DEVICES: u32 = 128;
/// The memory-backed device of the root file system.
const ROOT_VPMEM_SLOT: u32 = 0;
