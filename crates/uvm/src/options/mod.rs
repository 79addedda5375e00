//! Everything needed to create one utility VM. Plain data: no handles, no I/O.

mod boot;
mod error;
mod lower;
mod resolve;
mod shared;
mod values;
mod wcow;

use std::path::PathBuf;

use uvm_platform::spec::Console;
use uvm_platform::{Deadlines, UvmId};

pub(crate) use boot::{BootInfo, BootPlan};
pub use error::OptionsError;
pub use values::{GuestConnection, KernelBoot, MemoryBacking, MemoryMib, ProcessorCount, RootFsType};
pub use wcow::WcowOptions;

use crate::output::OutputHandler;

/// The most memory-backed devices a VM may have: the original's limit.
pub const MAX_VPMEM_COUNT: u32 = 128;
/// How many it has by default.
pub const DEFAULT_VPMEM_COUNT: u32 = 64;
/// The largest layer a memory-backed device takes by default, in bytes: 4 GiB.
pub const DEFAULT_VPMEM_SIZE_BYTES: u64 = 4 * 1024 * 1024 * 1024;
/// The most SCSI controllers a VM may have; each takes 64 disks.
pub const MAX_SCSI_CONTROLLERS: u32 = 4;
/// The most ports for PCI devices.
pub const MAX_PCI_PORTS: u32 = 8;
/// The default name of an initramfs in the boot files.
pub const INITRD_FILE: &str = "initrd.img";
/// The default name of a root disk in the boot files.
pub const VHD_FILE: &str = "rootfs.vhd";
/// The default name of a kernel in the boot files.
pub const KERNEL_FILE: &str = "kernel";
/// The default name of an uncompressed kernel in the boot files.
pub const UNCOMPRESSED_KERNEL_FILE: &str = "vmlinux";

/// Options of a utility VM with a Linux guest. [`LcowOptions::default`] has the defaults stated with each field; change
/// what you need.
///
/// ```
/// use uvm::{LcowOptions, MemoryMib};
///
/// let options = LcowOptions::default().with_memory(MemoryMib::new(512)?).with_processors(2);
/// # Ok::<(), uvm::OptionsError>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
#[expect(clippy::struct_excessive_bools, reason = "independent switches, each named where it is set")]
pub struct LcowOptions {
    /// The VM's id. Default: a random GUID, drawn when the VM is created. The options are never changed.
    pub id: Option<UvmId>,
    /// Whom the VM is for. Default: the name of the running program.
    pub owner: Option<String>,
    /// JSON to merge over the document that creates the VM (Host Compute Service only). Default: none.
    pub additional_document: Option<String>,
    /// Guest memory. Default: 1024 MiB.
    pub memory: MemoryMib,
    /// How memory is backed. Default: overcommitted.
    pub backing: MemoryBacking,
    /// Address space for devices below 4 GiB, in MiB (Host Compute Service only). Default: 0, the host's choice.
    pub low_mmio_gap_mib: u64,
    /// Where the address space for devices above 4 GiB begins, in MiB (Host Compute Service only). Default: 0.
    pub high_mmio_base_mib: u64,
    /// Its size, in MiB (Host Compute Service only). Default: 0.
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
    /// The CPU group the VM belongs to from its first instruction on. Default: none.
    pub cpu_group: Option<String>,
    /// The directory with kernel and root file system. Default: on Linux what
    /// `image::BootFiles::ensure` makes; on Windows `LinuxBootFiles` beside the program, else
    /// `%ProgramFiles%\Linux Containers`.
    pub boot_files: Option<PathBuf>,
    /// The kernel's file name there, or an absolute path. Default: `vmlinux` if it is there and the kernel is booted directly, else `kernel`.
    pub kernel_file: Option<PathBuf>,
    /// How the kernel comes to run. Default: the host's choice.
    pub kernel_boot: KernelBoot,
    /// The root file system's file name there, or an absolute path. Default: `rootfs.vhd` if it is there, else `initrd.img`.
    pub root_fs_file: Option<PathBuf>,
    /// What it is. Default: as [`root_fs_file`](Self::root_fs_file) was found.
    pub root_fs_type: Option<RootFsType>,
    /// Words added to the kernel's command line. Default: none.
    pub kernel_boot_options: String,
    /// A graphics console with keyboard (Host Compute Service only). Default: false.
    pub graphics_console: bool,
    /// Where the serial console goes besides the bounded buffer that errors quote. Default: nowhere.
    pub console: Console,
    /// SCSI controllers of 64 disks each, 0 to [`MAX_SCSI_CONTROLLERS`]. Default: 1.
    pub scsi_controllers: u32,
    /// A device for virtual sockets (vsock) from boot on, which the original's agent always has. A VM without one gets it
    /// when a service needs it: see [`update_hvsocket_service`](crate::UtilityVm::update_hvsocket_service), which also says
    /// who may use which port. Default: false.
    pub virtual_sockets: bool,
    /// Ports that PCI devices of the host can be [plugged into](crate::UtilityVm::assign_device), 0 to [`MAX_PCI_PORTS`]; each
    /// costs boot time (measured: 4 of them 0.1 s, emulated). On QEMU alone: other hosts need none, and make none. Default: 0.
    pub pci_ports: u32,
    /// Memory-backed devices, 0 to [`MAX_VPMEM_COUNT`]. Default: 64. On QEMU room for them is made at boot, 32 at a time, which
    /// takes under 0.1 s each; a VM that gets no layers can do without.
    pub vpmem_devices: u32,
    /// The largest of them, in bytes; a multiple of 4096. Default: 4 GiB.
    pub vpmem_size_bytes: u64,
    /// Who holds the connection to the guest's agent. Default: this library.
    pub guest_connection: GuestConnection,
    /// The command that the guest's init runs. Default: the agent, with a log level that fits this program's.
    pub exec_command_line: Option<String>,
    /// Read its standard output. Default: false.
    pub forward_stdout: bool,
    /// Read its standard error, where the agent logs. Default: true.
    pub forward_stderr: bool,
    /// What is done with that output. Default: it is parsed as the agent's log and handed to [`tracing`].
    pub output_handler: Option<OutputHandler>,
    /// Let the host use cold discard hints (Host Compute Service only). Default: false.
    pub cold_discard_hint: bool,
    /// Let the guest's kernel find PCI devices. Default: false; on QEMU always so.
    pub vpci: bool,
    /// The longest waits. Default: [`Deadlines::default`].
    pub deadlines: Deadlines,
}

impl Default for LcowOptions {
    fn default() -> Self {
        Self {
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
            boot_files: None,
            kernel_file: None,
            kernel_boot: KernelBoot::default(),
            root_fs_file: None,
            root_fs_type: None,
            kernel_boot_options: String::new(),
            graphics_console: false,
            console: Console::default(),
            scsi_controllers: 1,
            virtual_sockets: false,
            pci_ports: 0,
            vpmem_devices: DEFAULT_VPMEM_COUNT,
            vpmem_size_bytes: DEFAULT_VPMEM_SIZE_BYTES,
            guest_connection: GuestConnection::default(),
            exec_command_line: None,
            forward_stdout: false,
            forward_stderr: true,
            output_handler: None,
            cold_discard_hint: false,
            vpci: false,
            deadlines: Deadlines::default(),
        }
    }
}

impl LcowOptions {
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

    /// With the boot files in this directory.
    #[must_use]
    pub fn with_boot_files(self, directory: impl Into<PathBuf>) -> Self {
        Self { boot_files: Some(directory.into()), ..self }
    }

    /// With these longest waits.
    #[must_use]
    pub fn with_deadlines(self, deadlines: Deadlines) -> Self {
        Self { deadlines, ..self }
    }

    /// With the serial console going there too.
    #[must_use]
    pub fn with_console(self, console: Console) -> Self {
        Self { console, ..self }
    }

    /// With this handler for the output of the guest's init.
    #[must_use]
    pub fn with_output_handler(self, handler: OutputHandler) -> Self {
        Self { output_handler: Some(handler), ..self }
    }
}
