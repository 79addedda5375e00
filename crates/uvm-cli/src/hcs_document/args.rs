//! The options of `uvm hcs-document`: those of the original, in its words.

use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::{ArgAction, Args, Subcommand, ValueEnum};
use uvm::{
    Console, GuestConnection, KernelBoot, LcowOptions, MemoryBacking, MemoryMib, OptionsError, ProcessorCount,
    RootFsType, UvmId, WcowOptions,
};

/// Print the document that would create a VM on the Host Compute Service, without creating one.
///
/// A dry run that reads no file and asks no service, on any system. Paths are those of a Windows host; all boot files are
/// taken to be there.
#[derive(Debug, Args)]
pub(crate) struct HcsDocumentArgs {
    /// The build of the Windows host, which decides what its service knows.
    #[arg(long, value_name = "N", default_value_t = 19041, global = true)]
    pub(crate) build: u32,
    /// How many logical processors the host has.
    #[arg(long, value_name = "N", default_value_t = const { NonZeroU32::new(8).unwrap() }, global = true)]
    pub(crate) host_processors: NonZeroU32,
    #[command(subcommand)]
    pub(crate) guest: Guest,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Guest {
    /// Of a VM with a Linux guest.
    Lcow(Box<LcowArgs>),
    /// Of a VM with a Windows guest.
    Wcow(Box<WcowArgs>),
}

/// What Linux and Windows guests have in common.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(crate) struct CommonArgs {
    /// The VM's id; it is not part of the document [default: a random GUID].
    #[arg(long)]
    id: Option<UvmId>,
    /// Whom the VM is for [default: the name of this program].
    #[arg(long)]
    owner: Option<String>,
    /// JSON to merge over the document.
    #[arg(long, value_name = "JSON")]
    addition_hcs_document_json: Option<String>,
    /// Guest memory; 0 is the default, and an odd number is rounded up.
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    memory_size_in_mb: u64,
    /// Address space for devices below 4 GiB; 0 is the host's choice.
    #[arg(long, value_name = "MIB", default_value_t = 0)]
    low_mmio_gap_in_mb: u64,
    /// Where the address space for devices above 4 GiB begins; 0 is the host's choice.
    #[arg(long, value_name = "MIB", default_value_t = 0)]
    high_mmio_base_in_mb: u64,
    /// Its size; 0 is the host's choice.
    #[arg(long, value_name = "MIB", default_value_t = 0)]
    high_mmio_gap_in_mb: u64,
    /// Take memory from the host as the guest touches it.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    allow_overcommit: bool,
    /// Back devices physically, too.
    #[arg(long)]
    fully_physically_backed: bool,
    /// Commit memory on first use.
    #[arg(long)]
    enable_deferred_commit: bool,
    /// Guest processors, at most as many as the host has; 0 is the default: 2, or 1 on a host with one.
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    processor_count: i64,
    /// The most processor time the VM may use, in 1/100,000 of its processors; 0 is the host's choice.
    #[arg(long, value_name = "N", default_value_t = 0)]
    processor_limit: u32,
    /// Its share of a busy host, 1 to 10,000; 0 is the host's choice.
    #[arg(long, value_name = "N", default_value_t = 0)]
    processor_weight: u32,
    /// Disk operations a second; 0 is no limit.
    #[arg(long, value_name = "N", default_value_t = 0)]
    storage_qos_iops_maximum: u32,
    /// Disk bytes a second; 0 is no limit.
    #[arg(long, value_name = "N", default_value_t = 0)]
    storage_qos_bandwidth_maximum: u32,
    /// Hold the guest connection in the program, not in the service.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    external_guest_connection: bool,
    /// The CPU group the VM is in.
    #[arg(long, value_name = "ID")]
    cpu_group_id: Option<String>,
}

impl CommonArgs {
    fn memory(&self) -> Result<MemoryMib, OptionsError> {
        MemoryMib::rounded_up(self.memory_size_in_mb)
    }

    fn backing(&self) -> Result<MemoryBacking, OptionsError> {
        let (overcommit, deferred) = (self.allow_overcommit, self.enable_deferred_commit);
        MemoryBacking::from_switches(overcommit, deferred, self.fully_physically_backed)
    }

    fn processors(&self) -> Result<ProcessorCount, OptionsError> {
        ProcessorCount::new(self.processor_count)
    }

    fn connection(&self) -> GuestConnection {
        if self.external_guest_connection { GuestConnection::Library } else { GuestConnection::HostService }
    }
}

/// What a root file system is.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum RootFs {
    Initrd,
    Vhd,
}

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(crate) struct LcowArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// The folder of kernel and root file system.
    #[arg(long, value_name = "PATH", default_value = r"C:\Program Files\Linux Containers")]
    boot_files_path: String,
    /// The kernel there [default: vmlinux if it is booted directly, else kernel].
    #[arg(long, value_name = "NAME")]
    kernel_file: Option<PathBuf>,
    /// Boot the kernel directly, not by UEFI [default: true from build 18286 on].
    #[arg(long, value_name = "BOOL", action = ArgAction::Set)]
    kernel_direct: Option<bool>,
    /// The root file system there [default: rootfs.vhd, or initrd.img if an initramfs is preferred].
    #[arg(long, value_name = "NAME")]
    root_fs_file: Option<PathBuf>,
    /// What the root file system is [default: a disk if its file is not named, else an initramfs].
    #[arg(long, value_enum)]
    preferred_root_fs_type: Option<RootFs>,
    /// Words for the kernel's command line.
    #[arg(long, value_name = "TEXT", default_value = "", allow_hyphen_values = true)]
    kernel_boot_options: String,
    /// A graphics console with keyboard.
    #[arg(long)]
    enable_graphics_console: bool,
    /// The named pipe of the serial console, as \\.\pipe\NAME.
    #[arg(long, value_name = "PIPE")]
    console_pipe: Option<PathBuf>,
    /// SCSI controllers: 0 or 1.
    #[arg(long, value_name = "N", default_value_t = 1)]
    scsi_controller_count: u32,
    /// Have a guest connection at all.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    use_guest_connection: bool,
    /// What the guest's init runs.
    #[arg(long, value_name = "TEXT", default_value = "/bin/gcs -v4 -log-format json -loglevel info")]
    exec_command_line: String,
    /// Forward its standard output.
    #[arg(long)]
    forward_stdout: bool,
    /// Forward its standard error.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    forward_stderr: bool,
    /// Memory-backed devices, at most 128.
    #[arg(long, value_name = "N", default_value_t = uvm::DEFAULT_VPMEM_COUNT)]
    vpmem_device_count: u32,
    /// The largest of them; a multiple of 4096.
    #[arg(long, value_name = "BYTES", default_value_t = uvm::DEFAULT_VPMEM_SIZE_BYTES)]
    vpmem_size_bytes: u64,
    /// Let the host use cold discard hints.
    #[arg(long)]
    enable_cold_discard_hint: bool,
    /// Let the guest find PCI devices.
    #[arg(long)]
    vpci_enabled: bool,
}

impl LcowArgs {
    pub(super) fn options(&self) -> Result<LcowOptions, OptionsError> {
        let common = &self.common;
        let mut options = LcowOptions::default();
        options.id.clone_from(&common.id);
        options.owner.clone_from(&common.owner);
        options.additional_document.clone_from(&common.addition_hcs_document_json);
        options.memory = common.memory()?;
        options.backing = common.backing()?;
        options.low_mmio_gap_mib = common.low_mmio_gap_in_mb;
        options.high_mmio_base_mib = common.high_mmio_base_in_mb;
        options.high_mmio_gap_mib = common.high_mmio_gap_in_mb;
        options.processors = common.processors()?;
        options.processor_limit = common.processor_limit;
        options.processor_weight = common.processor_weight;
        options.storage_qos_iops_maximum = common.storage_qos_iops_maximum;
        options.storage_qos_bandwidth_maximum = common.storage_qos_bandwidth_maximum;
        options.cpu_group.clone_from(&common.cpu_group_id);
        options.boot_files = Some(PathBuf::from(&self.boot_files_path));
        options.kernel_file.clone_from(&self.kernel_file);
        options.kernel_boot = match self.kernel_direct {
            Some(true) => KernelBoot::Direct,
            Some(false) => KernelBoot::Uefi,
            None => KernelBoot::HostDefault,
        };
        options.root_fs_file.clone_from(&self.root_fs_file);
        options.root_fs_type = self.preferred_root_fs_type.map(|preferred| match preferred {
            RootFs::Initrd => RootFsType::Initrd,
            RootFs::Vhd => RootFsType::Vhd,
        });
        options.kernel_boot_options.clone_from(&self.kernel_boot_options);
        options.graphics_console = self.enable_graphics_console;
        if let Some(pipe) = &self.console_pipe {
            options.console = Console::Socket(pipe.clone());
        }
        options.scsi_controllers = self.scsi_controller_count;
        options.guest_connection = if self.use_guest_connection { common.connection() } else { GuestConnection::None };
        options.exec_command_line = Some(self.exec_command_line.clone());
        options.forward_stdout = self.forward_stdout;
        options.forward_stderr = self.forward_stderr;
        options.vpmem_devices = self.vpmem_device_count;
        options.vpmem_size_bytes = self.vpmem_size_bytes;
        options.cold_discard_hint = self.enable_cold_discard_hint;
        options.vpci = self.vpci_enabled;
        Ok(options)
    }

    /// The folder of the boot files, and the names there that are taken to exist.
    pub(super) fn boot_files(&self) -> (&str, Vec<String>) {
        let defaults = [uvm::UNCOMPRESSED_KERNEL_FILE, uvm::KERNEL_FILE, uvm::VHD_FILE, uvm::INITRD_FILE];
        let given = [&self.kernel_file, &self.root_fs_file].into_iter().flatten();
        let given = given.map(|name| name.to_string_lossy().into_owned());
        (&self.boot_files_path, defaults.into_iter().map(str::to_owned).chain(given).collect())
    }
}

#[derive(Debug, Args)]
pub(crate) struct WcowArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// The folders of the layers: read-only ones first, the base last of them, then the scratch. May be repeated, or
    /// separated by commas. The base is taken to hold the guest's system.
    #[arg(long, value_name = "PATH", value_delimiter = ',', required = true)]
    pub(super) layer_folders: Vec<String>,
    /// Do not make a container's network compartment look like the only one.
    #[arg(long)]
    disable_compartment_namespace: bool,
}

impl WcowArgs {
    pub(super) fn options(&self) -> Result<WcowOptions, OptionsError> {
        let common = &self.common;
        let mut options = WcowOptions::new(&self.layer_folders);
        options.id.clone_from(&common.id);
        options.owner.clone_from(&common.owner);
        options.additional_document.clone_from(&common.addition_hcs_document_json);
        options.memory = common.memory()?;
        options.backing = common.backing()?;
        options.low_mmio_gap_mib = common.low_mmio_gap_in_mb;
        options.high_mmio_base_mib = common.high_mmio_base_in_mb;
        options.high_mmio_gap_mib = common.high_mmio_gap_in_mb;
        options.processors = common.processors()?;
        options.processor_limit = common.processor_limit;
        options.processor_weight = common.processor_weight;
        options.storage_qos_iops_maximum = common.storage_qos_iops_maximum;
        options.storage_qos_bandwidth_maximum = common.storage_qos_bandwidth_maximum;
        options.cpu_group.clone_from(&common.cpu_group_id);
        options.compartment_namespace = !self.disable_compartment_namespace;
        options.guest_connection = common.connection();
        Ok(options)
    }
}
