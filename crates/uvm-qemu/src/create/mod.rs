//! Creating a VM: each step undone if a later one fails.

mod greeting;
mod launch;
mod plan;
mod random_id;

use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, watch};
use uvm_platform::spec::RootFs;
use uvm_platform::{CreatedVm, PlatformError, PlatformVm, VmEvents, VmSpec, VmThread};

use greeting::greet;
use launch::launch;
use plan::Plan;
use random_id::random_guid;

use crate::command::VSOCK_DEVICE;
use crate::console::{self, Outlet};
use crate::disks::Disks;
use crate::exit::Evidence;
use crate::full_disk::FullDisk;
use crate::host::Shared;
use crate::kill_point::kill_point;
use crate::layers::Layers;
use crate::pci::PciDevices;
use crate::pipes::Pipes;
use crate::qmp::Qmp;
use crate::residue::Residue;
use crate::ring::Ring;
use crate::shares::Shares;
use crate::slots::Slots;
use crate::sockets::Sockets;
use crate::spawn::ChildProcess;
use crate::state::{ClaimError, HostObject, StateDir};
use crate::turns::Turns;
use crate::virtio_fs::VirtioFs;
use crate::vm::{Life, QemuVm, Vm};

/// Events nobody has read yet.
const EVENT_BACKLOG: usize = 16;

/// Creates the VM `spec` describes, powered off. To be run on `thread`.
pub(crate) async fn create(host: Arc<Shared>, spec: VmSpec, thread: Arc<VmThread>) -> Result<CreatedVm, PlatformError> {
    let plan = Plan::make(Arc::clone(&host), spec.clone()).await?;
    // From here on whatever fails drops the residue, which removes what was made.
    let residue = claim(&host, &spec).await?;
    let outlet = Outlet::open(&spec.console, &residue)?;
    let runtime_id = random_guid().map_err(|e| PlatformError::host("draw a random id", e))?;
    let cgroups = make_groups(&host, &spec, &runtime_id, &residue)?;
    let launched = launch(&host, &spec, plan, &residue, cgroups, runtime_id.clone()).await?;

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
        virtio_fs: VirtioFs::new(host.share_helper.clone(), runtime_id, launched.cgroups),
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

fn claim_error(spec: &VmSpec, error: ClaimError) -> PlatformError {
    match error {
        ClaimError::Taken { owner_pid } => {
            PlatformError::AlreadyExists { id: spec.id.clone(), holder: format!("process {owner_pid} owns it") }
        }
        ClaimError::Io { .. } => PlatformError::host(format!("claim the state directory of VM {}", spec.id), error),
    }
}

/// Groups that no other VM has: an id is unique in its state directory, and groups are in none. What is written down is removed
/// with all that is in it, so it must never be another's.
fn make_groups(
    host: &Shared,
    spec: &VmSpec,
    runtime_id: &str,
    residue: &Residue,
) -> Result<Vec<OwnedFd>, PlatformError> {
    let name = format!("uvm-{}.{runtime_id}", spec.id);
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

/// Keeps what QEMU, or a helper, prints.
pub(crate) async fn collect(mut output: pipe::Receiver, ring: Ring) {
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = output.read(&mut buffer).await {
        ring.push(buffer.get(..count).unwrap_or_default());
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
