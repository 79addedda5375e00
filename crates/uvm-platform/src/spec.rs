//! The VM to create, as typed values. A host turns it into a command line or a document.

use std::path::PathBuf;

use crate::deadlines::Deadlines;
use crate::id::UvmId;

/// Everything a host needs to create one VM with a Linux guest. Already checked: a host refuses only what it lacks the
/// [`Feature`](crate::Feature) for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VmSpec {
    /// The VM's id.
    pub id: UvmId,
    /// Who the VM is for; shown by the host's tools.
    pub owner: String,
    /// Guest memory.
    pub memory: MemorySpec,
    /// Guest processors.
    pub processors: ProcessorSpec,
    /// Kernel, root and init.
    pub boot: LinuxBoot,
    /// The directory of the boot files, spelt as it was given, where a host shows it to the firmware. `None`: the kernel's.
    pub boot_files: Option<PathBuf>,
    /// Who holds the connection to the guest's agent.
    pub guest_connection: GuestConnection,
    /// Where the serial console goes, besides the bounded ring that error messages quote.
    pub console: Console,
    /// A graphics console with keyboard.
    pub graphics_console: bool,
    /// SCSI controllers present at boot, 64 disks each.
    pub scsi_controllers: u32,
    /// A device for virtual sockets (vsock), for programs in the guest. The VM's own streams do not need it.
    pub virtual_sockets: bool,
    /// Ports that PCI devices of the host can be plugged into, where the host needs them at boot.
    pub pci_ports: u32,
    /// Slots for memory-backed layers.
    pub vpmem: VpmemSpec,
    /// Limits on disk traffic of the whole VM.
    pub storage_qos: StorageQos,
    /// The CPU group the VM belongs to from its first instruction on.
    pub cpu_group: Option<String>,
    /// JSON to merge over the host's creation document.
    pub additional_document: Option<String>,
    /// Let the host use cold discard hints for the guest's memory.
    pub cold_discard_hint: bool,
    /// The longest waits.
    pub deadlines: Deadlines,
}

impl VmSpec {
    /// A spec with the given parts and nothing else asked for.
    pub fn new(id: UvmId, memory: MemorySpec, processors: ProcessorSpec, boot: LinuxBoot) -> Self {
        Self {
            id,
            owner: String::new(),
            memory,
            processors,
            boot,
            boot_files: None,
            guest_connection: GuestConnection::default(),
            console: Console::Ring,
            graphics_console: false,
            scsi_controllers: 1,
            virtual_sockets: false,
            pci_ports: 0,
            vpmem: VpmemSpec { count: 0, size_bytes: 0 },
            storage_qos: StorageQos::default(),
            cpu_group: None,
            additional_document: None,
            cold_discard_hint: false,
            deadlines: Deadlines::default(),
        }
    }
}

/// Who holds the connection to the guest's agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GuestConnection {
    /// The VM's owner, or nobody: the host has nothing to do with it.
    #[default]
    Owner,
    /// The host's service.
    HostService,
}

/// Guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemorySpec {
    /// Size in MiB, even.
    pub size_mib: u64,
    /// How the host backs it.
    pub backing: MemoryBacking,
    /// Address space holes for devices, in MiB; 0 leaves them to the host.
    pub mmio: MmioGaps,
}

/// How the host backs guest memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemoryBacking {
    /// Taken from the host as the guest touches it; may be overcommitted.
    #[default]
    Overcommit,
    /// As `Overcommit`, and committed on first use only.
    DeferredCommit,
    /// Taken from the host before the guest runs.
    Physical,
}

/// Address space holes for devices, in MiB; 0 leaves a value to the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MmioGaps {
    /// Below 4 GiB.
    pub low_gap_mib: u64,
    /// Where the high hole begins.
    pub high_base_mib: u64,
    /// Size of the high hole.
    pub high_gap_mib: u64,
}

/// Guest processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessorSpec {
    /// How many, at least 1.
    pub count: u32,
    /// The most the VM may use, in 1/100,000 of all its processors (100,000 = no limit); `None` leaves it to the host.
    pub limit: Option<u32>,
    /// Share of a busy host, 1 to 10,000 (100 is average); `None` leaves it to the host.
    pub weight: Option<u32>,
}

/// Kernel, root file system and what runs first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinuxBoot {
    /// The kernel image: an uncompressed ELF with a PVH entry, or a bzImage.
    pub kernel: PathBuf,
    /// What the guest boots into.
    pub root: RootFs,
    /// Text added to the kernel's command line; may be empty.
    pub kernel_options: String,
    /// What init is told.
    pub init: InitArguments,
    /// Which agent the boot files hold.
    pub agent: GuestAgent,
    /// Timer ticks a second of this kernel, if known: saves the guest a calibration.
    pub kernel_hz: Option<u32>,
    /// Boot by UEFI firmware instead of directly.
    pub uefi: bool,
    /// Let the guest find PCI devices. Always so on QEMU.
    pub pci: bool,
}

/// What the guest boots into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootFs {
    /// An initramfs, unpacked into memory.
    Initrd(PathBuf),
    /// A disk image, mounted read-only.
    Disk(PathBuf),
}

/// The agent in the boot files: it decides the kernel command line and the transports present at boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GuestAgent {
    /// This project's.
    #[default]
    Ours,
    /// The original Linux agent, which knows virtual sockets only.
    Original,
}

/// The part of the kernel command line behind `--`: arguments of the guest's init.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitArguments {
    /// The port init reads boot entropy from; `None` for none.
    pub entropy_port: Option<u32>,
    /// The port for output of the launched program.
    pub log_port: u32,
    /// Forward its standard output.
    pub forward_stdout: bool,
    /// Forward its standard error.
    pub forward_stderr: bool,
    /// The program init launches, with arguments.
    pub exec_command_line: String,
}

impl InitArguments {
    /// The arguments as text, in the shape init parses: `-e 1 /bin/vsockexec -e 109 PROGRAM`.
    pub fn to_line(&self) -> String {
        let entropy = self.entropy_port.map(|port| format!("-e {port} ")).unwrap_or_default();
        let flag = |wanted: bool, flag: &str| if wanted { format!(" {flag} {}", self.log_port) } else { String::new() };
        let (out, err) = (flag(self.forward_stdout, "-o"), flag(self.forward_stderr, "-e"));
        format!("{entropy}/bin/vsockexec{out}{err} {}", self.exec_command_line)
    }
}

/// Where the serial console goes, besides the bounded ring.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Console {
    /// Nowhere else.
    #[default]
    Ring,
    /// Into this file, created or truncated.
    File(PathBuf),
    /// To whoever connects to this Unix socket (a named pipe on Windows); input goes to the guest.
    Socket(PathBuf),
}

/// Slots for memory-backed layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VpmemSpec {
    /// How many, at most 128; 0 for none.
    pub count: u32,
    /// The largest layer, in bytes; a multiple of 4096.
    pub size_bytes: u64,
}

/// Limits on disk traffic; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StorageQos {
    /// Operations a second.
    pub iops_maximum: u32,
    /// Bytes a second.
    pub bandwidth_maximum: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn init_arguments_have_the_shape_init_parses() {
        let mut init = InitArguments {
            entropy_port: Some(1),
            log_port: 109,
            forward_stdout: false,
            forward_stderr: true,
            exec_command_line: "/bin/gcs -v4".into(),
        };
        assert_eq!(init.to_line(), "-e 1 /bin/vsockexec -e 109 /bin/gcs -v4");
        init.forward_stdout = true;
        assert_eq!(init.to_line(), "-e 1 /bin/vsockexec -o 109 -e 109 /bin/gcs -v4");
        init = InitArguments { entropy_port: None, forward_stdout: false, forward_stderr: false, ..init };
        assert_eq!(init.to_line(), "/bin/vsockexec /bin/gcs -v4");
    }
}
