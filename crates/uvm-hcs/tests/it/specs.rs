//! The VMs that the tests create.

use uvm_hcs::WinPath;
use uvm_hcs::recording::RecordingHcs;
use uvm_platform::UvmId;
use uvm_platform::spec::{
    GuestAgent, InitArguments, LinuxBoot, MemoryBacking, MemorySpec, MmioGaps, ProcessorSpec, RootFs, VmSpec,
};
use uvm_platform::windows::{WcowSpec, WindowsBoot};

const MEMORY: MemorySpec = MemorySpec {
    size_mib: 1024,
    backing: MemoryBacking::Overcommit,
    mmio: MmioGaps { low_gap_mib: 0, high_base_mib: 0, high_gap_mib: 0 },
};
const PROCESSORS: ProcessorSpec = ProcessorSpec { count: 2, limit: None, weight: None };

fn id() -> UvmId {
    UvmId::new("vm-under-test").expect("an id")
}

pub(crate) fn lcow() -> VmSpec {
    let boot = LinuxBoot {
        kernel: r"C:\boot\vmlinux".into(),
        root: RootFs::Initrd(r"C:\boot\initrd.img".into()),
        kernel_options: String::new(),
        init: InitArguments {
            entropy_port: Some(1),
            log_port: 109,
            forward_stdout: false,
            forward_stderr: true,
            exec_command_line: "/bin/gcs".into(),
        },
        agent: GuestAgent::Ours,
        kernel_hz: None,
        uefi: false,
        pci: false,
    };
    VmSpec::new(id(), MEMORY, PROCESSORS, boot)
}

pub(crate) fn wcow() -> WcowSpec {
    let layers = vec![r"C:\layers\top".into(), r"C:\layers\base".into()];
    WcowSpec::new(id(), MEMORY, PROCESSORS, WindowsBoot { layers, scratch: r"C:\new\deep\scratch".into() })
}

/// The layers of [`wcow`], without its scratch.
pub(crate) fn add_layers(host: &RecordingHcs) {
    host.add_directory(&WinPath::new(r"C:\layers\top\Files"));
    host.add_file(&WinPath::new(r"C:\layers\base\UtilityVM\SystemTemplate.vhdx"), 7);
}
