//! Starting QEMU, with its channels.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::runtime::Handle;
use uvm_platform::spec::GuestAgent;
use uvm_platform::{PlatformError, VmSpec};
use uvm_vsock::Vsock;

use super::plan::Plan;
use crate::command::QemuCommand;
use crate::host::Shared;
use crate::kill_point::kill_point;
use crate::layers::Room;
use crate::residue::Residue;
use crate::spawn::{ChildProcess, ChildSpec};
use crate::state::HostObject;
use crate::transport::{self, AgentTransport, MuxTransport, VsockTransport};

/// QEMU, started, and our ends of its channels.
pub(super) struct Launched {
    pub(super) child: ChildProcess,
    pub(super) qmp: UnixStream,
    pub(super) console: UnixStream,
    pub(super) agent_end: AgentEnd,
    pub(super) vsock: Option<Vsock>,
    pub(super) output: pipe::Receiver,
    /// The groups its processes are in.
    pub(super) cgroups: Vec<OwnedFd>,
}

/// Our end of what carries the agent's streams.
pub(super) enum AgentEnd {
    Mux(UnixStream),
    Vsock(Vsock),
}

impl AgentEnd {
    pub(super) fn transport(self, runtime: &Handle) -> io::Result<AgentTransport> {
        Ok(match self {
            Self::Mux(socket) => AgentTransport::Mux(MuxTransport::over(socket, runtime)?),
            Self::Vsock(vsock) => AgentTransport::Vsock(VsockTransport::over(vsock, runtime)),
        })
    }
}

/// Starts QEMU, which is written down before. Its processes are known by the runtime id.
pub(super) async fn launch(
    host: &Shared,
    spec: &VmSpec,
    plan: Plan,
    residue: &Residue,
    cgroups: Vec<OwnedFd>,
    runtime_id: String,
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
    let object = HostObject::Process { token: runtime_id };
    residue.register(&object).map_err(|e| PlatformError::host(intent(), e))?;
    kill_point("before:process");
    let gone = residue.process_starts();
    let child = ChildProcess::spawn(child, move || drop(gone)).await.map_err(|e| PlatformError::host(intent(), e))?;
    kill_point("after:process");
    Ok(Launched { child, qmp, console, agent_end, vsock, output, cgroups: for_helpers })
}

/// A socket pair: our end for the runtime, QEMU's as it likes it.
fn channel() -> io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs.into()))
}
