//! Creating a VM: each step undone if a later one fails.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use uvm_platform::spec::{GuestAgent, MemoryBacking, MmioGaps, RootFs, StorageQos};
use uvm_platform::{
    Accelerator, Capabilities, CreatedVm, Feature, LastWords, PlatformError, PlatformVm, VmEvents, VmSpec, VmThread,
};
use uvm_vsock::Vsock;

use crate::accel;
use crate::boot_file::{self, BootFile};
use crate::command::{QemuCommand, VSOCK_DEVICE};
use crate::console::{self, Outlet};
use crate::disks::Disks;
use crate::exit::{self, Evidence};
use crate::full_disk::FullDisk;
use crate::host::Shared;
use crate::kernel_line::{HostFacts, kernel_line};
use crate::kill_point::kill_point;
use crate::layers::{Layers, Room};
use crate::pci::PciDevices;
use crate::pipes::Pipes;
use crate::process_info::ProcessInfo;
use crate::qmp::{CallError, QemuVersion, Qmp};
use crate::residue::Residue;
use crate::ring::Ring;
use crate::root_disk::{self, RootDisk};
use crate::shares::Shares;
use crate::slots::Slots;
use crate::sockets::Sockets;
use crate::spawn::{ChildProcess, ChildSpec, RunAs};
use crate::state::{ClaimError, HostObject, StateDir};
use crate::transport::{self, AgentTransport, MuxTransport, VsockTransport};
use crate::turns::Turns;
use crate::user;
use crate::virtio_fs::VirtioFs;
use crate::vm::{Life, QemuVm, Vm};

/// The oldest QEMU whose behaviour this crate knows.
const OLDEST: QemuVersion = QemuVersion(7, 2, 0);
/// The kernel's own limit for its command line on x86 (`COMMAND_LINE_SIZE`), the final zero included.
const KERNEL_LINE_MAX: usize = 2048;
/// Events nobody has read yet.
const EVENT_BACKLOG: usize = 16;

/// Creates the VM `spec` describes, powered off. To be run on `thread`.
pub(crate) async fn create(host: Arc<Shared>, spec: VmSpec, thread: Arc<VmThread>) -> Result<CreatedVm, PlatformError> {
    let plan = Plan::make(Arc::clone(&host), spec.clone()).await?;
    // From here on whatever fails drops the residue, which removes what was made.
    let residue = claim(&host, &spec).await?;
    let outlet = Outlet::open(&spec.console, &residue)?;
    let cgroups = make_groups(&host, &spec, &residue)?;
    let launched = launch(&host, &spec, plan, &residue, cgroups).await?;

    let handle = thread.handle();
    let layers = Layers::new(&spec, matches!(spec.boot.root, RootFs::Disk(_)));
    let (console, host_output) = (Ring::default(), Ring::default());
    handle.spawn(collect(launched.output, host_output.clone()));
    handle.spawn(console::pump(launched.console, console.clone(), outlet));
    let qmp = Qmp::new(launched.qmp, spec.deadlines.host_call);
    if let Err(e) = greet(&qmp, &launched.child, &host_output).await {
        return Err(discard(&launched.child, &residue, e, spec.deadlines.terminate).await);
    }
    let transport = match launched.agent_end.transport(handle) {
        Ok(transport) => transport,
        Err(e) => {
            let e = PlatformError::host("set up the guest transport", e);
            return Err(discard(&launched.child, &residue, e, spec.deadlines.terminate).await);
        }
    };
    let vm = Vm {
        accelerator: host.accelerator.accelerator,
        deadlines: spec.deadlines,
        qmp,
        child: launched.child,
        residue,
        console,
        host_output,
        transport,
        slots: Slots::new(launched.vsock.as_ref().map(|_| VSOCK_DEVICE)),
        sockets: Sockets::new(launched.vsock),
        disks: Disks::default(),
        layers,
        shares: Shares::default(),
        pipes: Pipes::default(),
        virtio_fs: VirtioFs::new(host.share_helper.clone(), launched.token, launched.cgroups),
        pci: PciDevices::new(spec.pci_ports, spec.memory.size_mib, host.vfio.clone()),
        full_disk: FullDisk::default(),
        turns: Turns::default(),
        power: tokio::sync::Mutex::default(),
        life: watch::Sender::new(Life::Created),
        started: Mutex::new(None),
        evidence: Mutex::new(Evidence::default()),
        agent_port_open: AtomicBool::new(false),
        id: spec.id,
    };
    tracing::info!(vm = %vm.id, accelerator = %vm.accelerator, pid = vm.child.id(), "utility VM created");
    let (sender, receiver) = mpsc::channel(EVENT_BACKLOG);
    let vm = QemuVm::new(Arc::new(vm), thread, sender);
    Ok((Arc::new(vm) as Arc<dyn PlatformVm>, VmEvents::new(receiver)))
}

/// What is known before anything is made.
struct Plan {
    run_as: Option<RunAs>,
    kernel: BootFile,
    initrd: Option<BootFile>,
    root: Option<RootDisk>,
    kernel_line: String,
}

impl Plan {
    /// Away from the VM's thread: a root disk may have to be copied.
    async fn make(host: Arc<Shared>, spec: VmSpec) -> Result<Self, PlatformError> {
        let checked = tokio::task::spawn_blocking(move || Self::check(&host, &spec)).await;
        checked.unwrap_or_else(|e| Err(PlatformError::host("look at the boot files", e)))
    }

    fn check(host: &Shared, spec: &VmSpec) -> Result<Self, PlatformError> {
        require(&host.capabilities, spec)?;
        let accelerator = host.accelerator.accelerator;
        let run_as = user::choose(&spec.id, accelerator == Accelerator::Kvm);
        let kernel = boot_file::open_kernel(&spec.boot.kernel, run_as.as_ref())?;
        let (initrd, root) = match &spec.boot.root {
            RootFs::Initrd(path) => (Some(boot_file::open_initrd(path, run_as.as_ref())?), None),
            RootFs::Disk(path) => (None, Some(root_disk::open(path, run_as.as_ref())?)),
        };
        check_memory(spec, kernel.bytes, initrd.as_ref().map_or(0, |file| file.bytes))?;
        let kernel_line = kernel_line(spec, HostFacts { accelerator, tsc_hz: accel::tsc_hz() });
        check_line(&kernel_line)?;
        Ok(Self { run_as, kernel, initrd, root, kernel_line })
    }
}

/// Claims the state directory. Away from the VM's thread: what dead owners left is removed first, and that may take seconds.
async fn claim(host: &Arc<Shared>, spec: &VmSpec) -> Result<Residue, PlatformError> {
    let (host, id) = (Arc::clone(host), spec.id.clone());
    let claimed = tokio::task::spawn_blocking(move || {
        host.tidy_once();
        StateDir::claim(&host.state_root, &id).map(Residue::new)
    });
    match claimed.await {
        Ok(claimed) => claimed.map_err(|e| claim_error(spec, e)),
        Err(e) => Err(PlatformError::host(format!("claim the state directory of VM {}", spec.id), e)),
    }
}

/// QEMU, started, and our ends of its channels.
struct Launched {
    child: ChildProcess,
    qmp: UnixStream,
    console: UnixStream,
    agent_end: AgentEnd,
    vsock: Option<Vsock>,
    output: pipe::Receiver,
    /// What its processes are known by.
    token: String,
    /// The groups its processes are in.
    cgroups: Vec<OwnedFd>,
}

/// Our end of what carries the agent's streams.
enum AgentEnd {
    Mux(UnixStream),
    Vsock(Vsock),
}

impl AgentEnd {
    fn transport(self, runtime: &Handle) -> io::Result<AgentTransport> {
        Ok(match self {
            Self::Mux(socket) => AgentTransport::Mux(MuxTransport::over(socket, runtime)?),
            Self::Vsock(vsock) => AgentTransport::Vsock(VsockTransport::over(vsock, runtime)),
        })
    }
}

async fn launch(
    host: &Shared,
    spec: &VmSpec,
    plan: Plan,
    residue: &Residue,
    cgroups: Vec<OwnedFd>,
) -> Result<Launched, PlatformError> {
    let failed = |e: io::Error| PlatformError::host("make a channel to QEMU", e);
    let (qmp, qmp_end) = channel().map_err(failed)?;
    let (console, console_end) = channel().map_err(failed)?;
    let (output, output_end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(io::Error::from)
        .and_then(|(read, write)| Ok((pipe::Receiver::from_owned_fd(read)?, write)))
        .map_err(failed)?;
    let vsock_only = spec.boot.agent == GuestAgent::Original;
    let vsock = (spec.virtual_sockets || vsock_only).then(|| {
        let dir = residue.dir().map_err(failed)?;
        transport::device(&dir)
    });
    let (vsock, vsock_end) = vsock.transpose()?.unzip();
    let (agent_end, mux_end) = match &vsock {
        Some(vsock) if vsock_only => (AgentEnd::Vsock(vsock.clone()), None),
        _ => {
            let (mux, end) = channel().map_err(failed)?;
            (AgentEnd::Mux(mux), Some(end))
        }
    };
    let runtime_id = random_guid().map_err(|e| PlatformError::host("draw a random id", e))?;
    let command = QemuCommand {
        id: spec.id.as_str(),
        runtime_id: &runtime_id,
        accelerator: host.accelerator.accelerator,
        memory_mib: spec.memory.size_mib,
        backing: spec.memory.backing,
        processors: spec.processors.count,
        scsi_controllers: spec.scsi_controllers,
        pci_ports: spec.pci_ports,
        layers: Room::of(spec),
        kernel_line: &plan.kernel_line,
        kernel: plan.kernel.fd.as_raw_fd(),
        initrd: plan.initrd.as_ref().map(|file| file.fd.as_raw_fd()),
        qmp: qmp_end.as_raw_fd(),
        console: console_end.as_raw_fd(),
        mux: mux_end.as_ref().map(AsRawFd::as_raw_fd),
        vsock: vsock_end.as_ref().map(AsRawFd::as_raw_fd),
        root: plan.root.as_ref().map(|root| (root.fd.as_raw_fd(), root.bytes)),
    };
    let arguments = command.arguments();
    let for_helpers = cgroups.iter().map(OwnedFd::try_clone).collect::<Result<_, _>>().map_err(failed)?;
    tracing::debug!(vm = %spec.id, program = %host.program.display(), ?arguments, "starting QEMU");
    let files = plan.initrd.map(|file| file.fd).into_iter().chain(plan.root.map(|root| root.fd));
    let child = ChildSpec {
        program: host.program.clone(),
        called: None,
        arguments: arguments.into_iter().map(Into::into).collect(),
        inherit: [plan.kernel.fd, qmp_end, console_end]
            .into_iter()
            .chain(mux_end)
            .chain(files)
            .chain(vsock_end)
            .collect(),
        output: output_end,
        run_as: plan.run_as,
        cgroups,
    };
    let intent = || format!("start {}", host.program.display());
    let object = HostObject::Process { token: runtime_id.clone() };
    residue.register(&object).map_err(|e| PlatformError::host(intent(), e))?;
    kill_point("before:process");
    let gone = residue.process_starts();
    let child = ChildProcess::spawn(child, move || drop(gone)).await.map_err(|e| PlatformError::host(intent(), e))?;
    kill_point("after:process");
    Ok(Launched { child, qmp, console, agent_end, vsock, output, token: runtime_id, cgroups: for_helpers })
}

/// A socket pair: our end for the runtime, QEMU's as it likes it.
fn channel() -> io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs.into()))
}

/// A random GUID (version 4).
fn random_guid() -> io::Result<String> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    let bits =
        u128::from_be_bytes(bytes) & !(0xf000_u128 << 64) & !(0xc000_u128 << 48) | (0x4000 << 64) | (0x8000 << 48);
    let hex = format!("{bits:032x}");
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|range| hex.get(range).unwrap_or_default());
    Ok(parts.join("-"))
}

/// Keeps what QEMU, or a helper, prints.
pub(crate) async fn collect(mut output: pipe::Receiver, ring: Ring) {
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = output.read(&mut buffer).await {
        ring.push(buffer.get(..count).unwrap_or_default());
    }
}

/// Waits for QEMU's greeting. An error says what QEMU did instead.
async fn greet(qmp: &Qmp, child: &ChildProcess, output: &Ring) -> Result<(), PlatformError> {
    let last_words = |phase: Option<String>| {
        let mut words = LastWords::default();
        words.phase = phase;
        words.host_output = output.last_lines(QUOTED_LINES);
        Box::new(words)
    };
    match qmp.negotiate().await {
        Ok(version) if version >= OLDEST => Ok(()),
        Ok(version) => Err(PlatformError::BadInput {
            what: "QEMU version",
            value: version.to_string(),
            why: format!("{OLDEST} or newer is needed"),
        }),
        Err(CallError::Timeout { waited, .. }) => {
            let why = ProcessInfo::of(child.id()).and_then(|info| info.standstill());
            let phase = why.map(|why| format!("QEMU (pid {}) does not run: {why}", child.id()));
            let what = "QEMU's greeting".to_owned();
            Err(PlatformError::Timeout { what, waited, last_words: last_words(phase) })
        }
        Err(e) => match child.wait(SETTLE).await {
            Some(exit) => {
                let status = exit::classify(exit, &Evidence::default());
                Err(PlatformError::Ended { what: "start QEMU".into(), status, last_words: last_words(None) })
            }
            None => Err(PlatformError::host("speak with QEMU", e)),
        },
    }
}

/// Ends a QEMU that is of no use and removes what it left; returns the reason.
async fn discard(child: &ChildProcess, residue: &Residue, why: PlatformError, deadline: Duration) -> PlatformError {
    if let Err(e) = child.kill() {
        tracing::warn!(error = %e, "cannot kill a QEMU that did not start");
    }
    if child.wait(deadline).await.is_some()
        && let Err(e) = residue.remove().await
    {
        tracing::warn!(error = %e, "something of a VM is left on the host; the next start, or gc, tries again");
    }
    why
}

/// How long what belongs together (the end of a process and of its output) may lie apart.
const SETTLE: Duration = Duration::from_secs(1);
/// Lines of QEMU's own output in an error.
const QUOTED_LINES: usize = 12;

fn make_groups(host: &Shared, spec: &VmSpec, residue: &Residue) -> Result<Vec<OwnedFd>, PlatformError> {
    let name = format!("uvm-{}", spec.id);
    let mut groups = Vec::new();
    for group in host.hierarchies.plan(&name, &spec.processors) {
        let intent = || format!("make control group {}", group.path.display());
        let object = HostObject::Cgroup { path: group.path.clone() };
        residue.register(&object).map_err(|e| PlatformError::host(intent(), e))?;
        kill_point("before:cgroup");
        groups.push(group.make().map_err(|e| PlatformError::host(intent(), e))?);
        kill_point("after:cgroup");
    }
    Ok(groups)
}

fn claim_error(spec: &VmSpec, error: ClaimError) -> PlatformError {
    match error {
        ClaimError::Taken { owner_pid } => {
            PlatformError::AlreadyExists { id: spec.id.clone(), holder: format!("process {owner_pid} owns it") }
        }
        ClaimError::Io { .. } => PlatformError::host(format!("claim the state directory of VM {}", spec.id), error),
    }
}

/// Memory a guest needs besides its kernel and twice its initramfs (packed and unpacked), in bytes. Found by booting the
/// distribution's kernel with less and less.
const KERNEL_NEEDS: u64 = 40 << 20;

/// More than any machine has: 1 PiB, far below where sums in bytes would overflow.
const MOST_MIB: u64 = 1 << 30;

fn check_memory(spec: &VmSpec, kernel: u64, initrd: u64) -> Result<(), PlatformError> {
    let needed_mib = (kernel + 2 * initrd + KERNEL_NEEDS).div_ceil(1 << 20);
    let why = match spec.memory.size_mib {
        size if size > MOST_MIB => format!("at most {MOST_MIB} MiB are possible"),
        size if size < needed_mib => format!("this kernel and initramfs need at least {needed_mib} MiB"),
        _ => return Ok(()),
    };
    Err(PlatformError::BadInput { what: "memory size", value: format!("{} MiB", spec.memory.size_mib), why })
}

fn check_line(line: &str) -> Result<(), PlatformError> {
    if line.len() < KERNEL_LINE_MAX && !line.contains(['\n', '\0']) {
        return Ok(());
    }
    Err(PlatformError::BadInput {
        what: "kernel command line",
        value: line.to_owned(),
        why: format!(
            "it has {} bytes; at most {} are allowed, without line ends or zeros",
            line.len(),
            KERNEL_LINE_MAX - 1
        ),
    })
}

/// Refuses what this host cannot do, before anything is made.
fn require(capabilities: &Capabilities, spec: &VmSpec) -> Result<(), PlatformError> {
    let wanted = [
        (spec.graphics_console, Feature::GraphicsConsole),
        (matches!(spec.boot.root, RootFs::Disk(_)), Feature::RootFromDisk),
        (spec.boot.agent == GuestAgent::Original, Feature::OriginalAgent),
        (spec.virtual_sockets, Feature::VirtualSockets),
        (spec.storage_qos != StorageQos::default(), Feature::StorageQos),
        (spec.cpu_group.is_some(), Feature::CpuGroups),
        (spec.memory.mmio != MmioGaps::default(), Feature::MmioGaps),
        (spec.memory.backing == MemoryBacking::Physical, Feature::PhysicallyBackedMemory),
        (spec.additional_document.is_some(), Feature::AdditionalDocument),
        (spec.boot.uefi, Feature::UefiBoot),
        (spec.cold_discard_hint, Feature::ColdDiscardHint),
        (spec.processors.limit.is_some(), Feature::ProcessorLimit),
        (spec.processors.weight.is_some(), Feature::ProcessorWeight),
    ];
    wanted.into_iter().filter(|(wanted, _)| *wanted).try_for_each(|(_, feature)| capabilities.require(feature))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_spec::spec;

    #[test]
    fn too_little_memory_is_told_with_both_numbers() {
        let mut spec = spec(1);
        spec.memory.size_mib = 16;
        let error = check_memory(&spec, 24 << 20, (10 << 20) + 1).expect_err("too little").to_string();
        assert_eq!(error, "memory size \"16 MiB\" cannot be used: this kernel and initramfs need at least 85 MiB");
        spec.memory.size_mib = 86;
        check_memory(&spec, 24 << 20, (10 << 20) + 1).expect("enough");
    }

    #[test]
    fn a_kernel_line_the_kernel_would_cut_is_refused_with_both_numbers() {
        check_line(&"x".repeat(2047)).expect("fits");
        let error = check_line(&"x".repeat(2048)).expect_err("too long").to_string();
        assert!(error.contains("2048 bytes") && error.contains("at most 2047"), "{error}");
        check_line("a\nb").expect_err("a line end");
    }

    #[test]
    fn guids_are_random_and_version_4() {
        let (one, two) = (random_guid().expect("random"), random_guid().expect("random"));
        assert_ne!(one, two);
        let lengths: Vec<usize> = one.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
        assert_eq!(one.as_bytes()[14], b'4');
        assert!(b"89ab".contains(&one.as_bytes()[19]), "{one}");
    }
}
