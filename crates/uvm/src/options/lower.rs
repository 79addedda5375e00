//! From options to what a host is asked for.

use uvm_platform::spec::{Console, InitArguments, LinuxBoot, MmioGaps, StorageQos, VmSpec, VpmemSpec};
use uvm_platform::{Feature, Platform, UvmId};
use uvm_wire::ports::{ENTROPY_PORT, LOG_PORT};

use super::shared::{Memory, Processors};
use super::{BootPlan, KernelBoot, LcowOptions, MAX_PCI_PORTS, MAX_SCSI_CONTROLLERS, MAX_VPMEM_COUNT, OptionsError};

impl LcowOptions {
    /// Checks what the types cannot. The host checks what it lacks.
    pub(crate) fn check(&self) -> Result<(), OptionsError> {
        if self.scsi_controllers > MAX_SCSI_CONTROLLERS {
            return Err(OptionsError::TooManyScsiControllers { count: self.scsi_controllers });
        }
        if self.pci_ports > MAX_PCI_PORTS {
            return Err(OptionsError::TooManyPciPorts { count: self.pci_ports });
        }
        if self.vpmem_devices > MAX_VPMEM_COUNT {
            return Err(OptionsError::TooManyVpmemDevices { count: self.vpmem_devices });
        }
        let bytes = self.vpmem_size_bytes;
        if self.vpmem_devices > 0 && (bytes == 0 || !bytes.is_multiple_of(4096)) {
            return Err(OptionsError::BadVpmemSize { bytes });
        }
        self.shared_processors().check()?;
        check_console(&self.console)?;
        let exec = self.exec_command_line.as_deref().unwrap_or_default();
        for (what, text) in [("kernel boot options", self.kernel_boot_options.as_str()), ("exec command line", exec)] {
            // A `--` of its own would end the kernel's part early; the agent's own flags may hold one.
            let splits = what == "kernel boot options" && text.split_whitespace().any(|word| word == "--");
            if splits || text.contains(['\n', '\r', '\0']) {
                return Err(OptionsError::BadKernelText { what, text: text.to_owned() });
            }
        }
        Ok(())
    }

    /// How the kernel comes to run on `host`: never the default.
    pub(crate) fn kernel_boot_on(&self, host: &dyn Platform) -> KernelBoot {
        match self.kernel_boot {
            KernelBoot::HostDefault if host.capabilities().has(Feature::DirectKernelBoot) => KernelBoot::Direct,
            KernelBoot::HostDefault => KernelBoot::Uefi,
            given => given,
        }
    }

    fn shared_processors(&self) -> Processors {
        Processors { count: self.processors, limit: self.processor_limit, weight: self.processor_weight }
    }

    /// What `host` is asked for.
    pub(crate) fn lower(&self, id: UvmId, boot: BootPlan, host: &dyn Platform) -> VmSpec {
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
        let boot_files = boot.directory;
        let boot = LinuxBoot {
            kernel: boot.kernel,
            root: boot.root,
            kernel_options: self.kernel_boot_options.clone(),
            init: InitArguments {
                entropy_port: Some(ENTROPY_PORT),
                log_port: LOG_PORT,
                forward_stdout: self.forward_stdout,
                forward_stderr: self.forward_stderr,
                exec_command_line: self.exec_command_line.clone().unwrap_or_else(default_exec_command_line),
            },
            agent: boot.info.agent,
            kernel_hz: boot.info.kernel_hz,
            uefi: self.kernel_boot_on(host) == KernelBoot::Uefi,
            pci: self.vpci,
        };
        let mut spec = VmSpec::new(id, memory.lower(), processors, boot);
        spec.owner = self.owner.clone().unwrap_or_else(|| host.files().program_name());
        spec.boot_files = Some(boot_files);
        spec.guest_connection = self.guest_connection.lower();
        spec.console = self.console.clone();
        spec.graphics_console = self.graphics_console;
        spec.scsi_controllers = self.scsi_controllers;
        spec.virtual_sockets = self.virtual_sockets;
        spec.pci_ports = self.pci_ports;
        spec.vpmem = VpmemSpec { count: self.vpmem_devices, size_bytes: self.vpmem_size_bytes };
        spec.storage_qos = StorageQos {
            iops_maximum: self.storage_qos_iops_maximum,
            bandwidth_maximum: self.storage_qos_bandwidth_maximum,
        };
        spec.cpu_group.clone_from(&self.cpu_group);
        spec.additional_document.clone_from(&self.additional_document);
        spec.cold_discard_hint = self.cold_discard_hint;
        spec.deadlines = self.deadlines;
        spec
    }
}

fn check_console(console: &Console) -> Result<(), OptionsError> {
    let (Console::File(path) | Console::Socket(path)) = console else { return Ok(()) };
    let bad = |why| OptionsError::BadConsole { path: path.clone(), why };
    if path.as_os_str().is_empty() {
        return Err(bad("a path is needed"));
    }
    if path.as_os_str().as_encoded_bytes().starts_with(br"\\.\pipe\") {
        // No file: whether a named pipe can be used is for the host to say.
        return Ok(());
    }
    if path.is_dir() {
        return Err(bad("it is a directory"));
    }
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() && !parent.is_dir() => Err(bad("its directory is not there")),
        _ => Ok(()),
    }
}

/// The agent, with the log level that this program's own log takes.
pub(super) fn default_exec_command_line() -> String {
    let level = match tracing::level_filters::LevelFilter::current().into_level() {
        None | Some(tracing::Level::ERROR) => "error",
        Some(tracing::Level::WARN) => "warning",
        Some(tracing::Level::INFO) => "info",
        Some(tracing::Level::DEBUG) => "debug",
        Some(tracing::Level::TRACE) => "trace",
    };
    format!("/bin/gcs -v4 -log-format json -loglevel {level}")
}

#[cfg(test)]
mod tests {
    use uvm_platform::fake::FakePlatform;
    use uvm_platform::spec::{ProcessorSpec, RootFs};

    use super::super::{BootInfo, ProcessorCount};
    use super::*;

    fn refused(change: impl FnOnce(&mut LcowOptions)) -> String {
        let mut options = LcowOptions::default();
        change(&mut options);
        options.check().expect_err("not allowed").to_string()
    }

    #[test]
    fn numbers_out_of_range_are_told_with_both_numbers() {
        assert_eq!(refused(|o| o.scsi_controllers = 5), "5 SCSI controllers: 0 to 4 are allowed");
        assert_eq!(refused(|o| o.pci_ports = 9), "9 PCI ports: 0 to 8 are allowed");
        assert_eq!(refused(|o| o.vpmem_devices = 129), "129 VPMem devices: 0 to 128 are allowed");
        assert_eq!(
            refused(|o| o.vpmem_size_bytes = 4097),
            "VPMem devices of 4097 bytes: a multiple of 4096, from 4096 on, is allowed"
        );
        assert_eq!(refused(|o| o.processor_limit = 100_001), "processor limit of 100001: at most 100000 is allowed");
        assert_eq!(refused(|o| o.processor_weight = 10_001), "processor weight of 10001: at most 10000 is allowed");
        let none = LcowOptions { vpmem_devices: 0, vpmem_size_bytes: 1, ..LcowOptions::default() };
        none.check().expect("a size that no device has does not matter");
    }

    #[test]
    fn d18_consoles_and_layer_sizes_are_checked() {
        assert!(refused(|o| o.vpmem_size_bytes = 0).starts_with("VPMem devices of 0 bytes"));
        assert_eq!(refused(|o| o.console = Console::Socket("".into())), "console : a path is needed");
        assert_eq!(refused(|o| o.console = Console::File("/".into())), "console /: it is a directory");
        let missing = refused(|o| o.console = Console::Socket("/nonexistent/console".into()));
        assert_eq!(missing, "console /nonexistent/console: its directory is not there");
    }

    #[test]
    fn texts_that_would_split_the_kernels_line_are_refused() {
        assert!(refused(|o| o.kernel_boot_options = "a -- b".into()).contains("kernel boot options \"a -- b\""));
        assert!(refused(|o| o.exec_command_line = Some("/bin/gcs\n".into())).contains("exec command line"));
        let flags = LcowOptions { kernel_boot_options: "a --b".into(), ..LcowOptions::default() };
        flags.check().expect("no word of its own");
    }

    #[test]
    fn a_spec_has_what_the_options_say() {
        let boot = BootPlan {
            directory: "/".into(),
            kernel: "/k".into(),
            root: RootFs::Initrd("/i".into()),
            info: BootInfo { kernel_hz: Some(250), ..BootInfo::default() },
        };
        let options = LcowOptions {
            processors: ProcessorCount::new(99).expect("a number"),
            processor_weight: 200,
            owner: Some("me".into()),
            ..LcowOptions::default()
        };
        let id = UvmId::new("vm").expect("valid");
        let spec = options.lower(id, boot, &FakePlatform::new().with_processors(4));
        assert_eq!(spec.processors, ProcessorSpec { count: 4, limit: None, weight: Some(200) });
        assert_eq!((spec.owner.as_str(), spec.memory.size_mib), ("me", 1024));
        let line = spec.boot.init.to_line();
        assert!(line.starts_with("-e 1 /bin/vsockexec -e 109 /bin/gcs -v4 -log-format json -loglevel "), "{line}");
    }
}
