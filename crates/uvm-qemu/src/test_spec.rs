//! A VM spec for this crate's tests.

use uvm_platform::spec::{
    InitArguments, LinuxBoot, MemoryBacking, MemorySpec, MmioGaps, ProcessorSpec, RootFs, VmSpec,
};
use uvm_platform::{UvmId, spec::GuestAgent};

pub(crate) fn spec(processors: u32) -> VmSpec {
    let boot = LinuxBoot {
        kernel: "/boot-files/vmlinux".into(),
        root: RootFs::Initrd("/boot-files/initrd.img".into()),
        kernel_options: String::new(),
        init: InitArguments {
            entropy_port: Some(1),
            log_port: 109,
            forward_stdout: false,
            forward_stderr: true,
            exec_command_line: "/bin/gcs -v4".into(),
        },
        agent: GuestAgent::Ours,
        kernel_hz: Some(250),
        uefi: false,
        pci: true,
    };
    let memory = MemorySpec { size_mib: 512, backing: MemoryBacking::Overcommit, mmio: MmioGaps::default() };
    let processors = ProcessorSpec { count: processors, limit: None, weight: None };
    VmSpec::new(UvmId::new("vm-1").expect("a valid id"), memory, processors, boot)
}
