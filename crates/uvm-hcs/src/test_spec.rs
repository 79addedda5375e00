//! The spec that the tests of this crate change.

use uvm_platform::spec::{
    GuestAgent, InitArguments, LinuxBoot, MemoryBacking, MemorySpec, MmioGaps, ProcessorSpec, RootFs, VpmemSpec,
};
use uvm_platform::{UvmId, VmSpec};

/// The VM of the original's defaults.
pub(crate) fn spec() -> VmSpec {
    let memory = MemorySpec { size_mib: 1024, backing: MemoryBacking::Overcommit, mmio: MmioGaps::default() };
    let boot = LinuxBoot {
        kernel: r"C:\boot\vmlinux".into(),
        root: RootFs::Disk(r"C:\boot\rootfs.vhd".into()),
        kernel_options: String::new(),
        init: InitArguments {
            entropy_port: Some(1),
            log_port: 109,
            forward_stdout: false,
            forward_stderr: true,
            exec_command_line: "/bin/gcs -v4 -log-format json -loglevel info".into(),
        },
        agent: GuestAgent::Ours,
        kernel_hz: None,
        uefi: false,
        pci: false,
    };
    let id = UvmId::new("vm-under-test").expect("an id");
    let mut spec = VmSpec::new(id, memory, ProcessorSpec { count: 2, limit: None, weight: None }, boot);
    spec.owner = "tests".into();
    spec.vpmem = VpmemSpec { count: 64, size_bytes: 4 << 30 };
    spec
}
