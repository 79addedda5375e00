//! One VM of the fake host.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::FakePlatform;
use super::census::Counted;
use super::guest::FakeGuestEnd;
use super::life::{Life, State};
use super::ports::Ports;
use crate::BoxFuture;
use crate::capabilities::Feature;
use crate::error::{LastWords, PlatformError};
use crate::hosted::HostedGuest;
use crate::hvsocket::{HvSocketGate, HvSocketServiceConfig, HvSocketServiceId, HvSocketServices};
use crate::id::UvmId;
use crate::network::PlatformNetwork;
use crate::requests::{Change, Device, HostFile, Setting, VmAccess};
use crate::stream::{GuestListener, GuestStream, Port};
use crate::vm::{Accelerator, ExitStatus, HostGuestConnection, PlatformVm, VmEvents, VmProperties, VmStatistics};

pub(super) struct FakeVm {
    host: FakePlatform,
    id: UvmId,
    life: Arc<Life>,
    /// The runtime that created the VM, so that a test's paused clock holds for its tasks, and its methods can be called
    /// from elsewhere.
    runtime: Handle,
    tasks: Mutex<JoinSet<()>>,
    has_sockets: AtomicBool,
    gate: HvSocketGate,
    _counted: Counted,
}

impl FakeVm {
    /// A VM whose tasks run on the current runtime.
    pub(super) fn new(host: FakePlatform, id: UvmId, has_sockets: bool) -> (Arc<Self>, FakeGuestEnd, VmEvents) {
        let (sender, receiver) = mpsc::channel(8);
        let life = Arc::new(Life::new(Ports::new(host.census.clone()), Ports::new(host.census.clone()), sender));
        let end = FakeGuestEnd { life: Arc::clone(&life) };
        let counted = host.census.count("vms");
        let has_sockets = AtomicBool::new(has_sockets);
        let vm = Self {
            host,
            id,
            life,
            has_sockets,
            gate: HvSocketGate::default(),
            runtime: Handle::current(),
            tasks: Mutex::default(),
            _counted: counted,
        };
        (Arc::new(vm), end, VmEvents::new(receiver))
    }
}

impl FakeVm {
    fn require_sockets(&self) -> Result<(), PlatformError> {
        if self.has_sockets.load(Ordering::Relaxed) { Ok(()) } else { Err(PlatformError::no_virtual_sockets("fake")) }
    }
}

impl PlatformVm for FakeVm {
    fn accelerator(&self) -> Accelerator {
        Accelerator::None
    }

    fn start(&self) -> BoxFuture<'_, Result<(), PlatformError>> {
        Box::pin(async {
            self.host.call("start").await?;
            self.life.enter("start it", &[State::Created], State::Running)?;
            let script = (self.host.script)(FakeGuestEnd { life: Arc::clone(&self.life) });
            let life = Arc::clone(&self.life);
            let guest = self.runtime.spawn(async move {
                script.await;
                life.end(ExitStatus::PoweredOff);
            });
            self.life.runs_guest(guest.abort_handle());
            Ok(())
        })
    }

    fn pause(&self) -> BoxFuture<'_, Result<(), PlatformError>> {
        Box::pin(async {
            self.host.call("pause").await?;
            self.life.enter("pause it", &[State::Running], State::Paused)
        })
    }

    fn resume(&self) -> BoxFuture<'_, Result<(), PlatformError>> {
        Box::pin(async {
            self.host.call("resume").await?;
            self.life.enter("resume it", &[State::Paused], State::Running)
        })
    }

    fn terminate(&self) -> BoxFuture<'_, Result<(), PlatformError>> {
        Box::pin(async {
            self.host.call("terminate").await?;
            self.life.end(ExitStatus::Terminated);
            Ok(())
        })
    }

    fn close_after(&self, ended: Box<dyn FnOnce() + Send>) -> BoxFuture<'_, Result<(), PlatformError>> {
        Box::pin(async {
            self.host.call("close").await?;
            self.life.end(ExitStatus::Terminated);
            ended();
            Ok(())
        })
    }

    fn runtime_id(&self) -> Option<String> {
        Some(FakePlatform::RUNTIME_ID.to_owned())
    }

    fn new_guid(&self) -> Option<Result<String, PlatformError>> {
        None
    }

    fn guest_connection(&self) -> BoxFuture<'_, Result<HostGuestConnection, PlatformError>> {
        Box::pin(async {
            self.host.call("guest connection").await?;
            self.host.guest_connection()
        })
    }

    fn properties(&self) -> BoxFuture<'_, Result<VmProperties, PlatformError>> {
        Box::pin(async {
            self.host.call("properties").await?;
            Ok(VmProperties { state: self.life.state().name().to_owned(), ..VmProperties::default() })
        })
    }

    fn statistics(&self) -> BoxFuture<'_, Result<VmStatistics, PlatformError>> {
        Box::pin(async {
            self.host.call("statistics").await?;
            Ok(VmStatistics { processor_runtime_ns: Some(1), ..VmStatistics::default() })
        })
    }

    fn assigned_memory(&self) -> BoxFuture<'_, Result<u64, PlatformError>> {
        Box::pin(async {
            self.host.call("assigned memory").await?;
            Ok(0)
        })
    }

    fn listen(&self, port: Port) -> Result<GuestListener, PlatformError> {
        let name = format!("listen {port}");
        if self.host.note(&name).is_some() {
            return Err(PlatformError::host(name, "a planted fault"));
        }
        self.life.ports.listen_on_host(port)
    }

    fn dial(&self, port: Port) -> BoxFuture<'_, Result<GuestStream, PlatformError>> {
        Box::pin(async move {
            self.host.call(&format!("dial {port}")).await?;
            self.life.ports.dial_guest(port).await
        })
    }

    fn add_sockets(&self) -> BoxFuture<'_, Result<(), PlatformError>> {
        Box::pin(async {
            self.host.call("add sockets").await?;
            self.has_sockets.store(true, Ordering::Relaxed);
            Ok(())
        })
    }

    fn remove_sockets(&self) -> BoxFuture<'_, Result<(), PlatformError>> {
        Box::pin(async {
            self.host.call("remove sockets").await?;
            self.has_sockets.store(false, Ordering::Relaxed);
            self.life.sockets.clear();
            Ok(())
        })
    }

    fn check_socket_service(
        &self,
        service: &HvSocketServiceId,
        config: &HvSocketServiceConfig,
    ) -> Result<(), PlatformError> {
        HvSocketServices::check(service, config)
    }

    fn update_socket_service<'a>(
        &'a self,
        service: &'a HvSocketServiceId,
        config: &'a HvSocketServiceConfig,
    ) -> BoxFuture<'a, Result<(), PlatformError>> {
        Box::pin(async move {
            self.host.call(&format!("update socket service {service}")).await?;
            self.gate.update(service, config)
        })
    }

    fn remove_socket_service<'a>(&'a self, service: &'a HvSocketServiceId) -> BoxFuture<'a, Result<(), PlatformError>> {
        Box::pin(async move {
            self.host.call(&format!("remove socket service {service}")).await?;
            self.gate.remove(service)
        })
    }

    fn listen_socket(&self, port: Port) -> Result<GuestListener, PlatformError> {
        let name = format!("listen socket {port}");
        if self.host.note(&name).is_some() {
            return Err(PlatformError::host(name, "a planted fault"));
        }
        self.require_sockets()?;
        self.gate.listen(port, || self.life.sockets.listen_on_host(port))
    }

    fn dial_socket(&self, port: Port) -> BoxFuture<'_, Result<GuestStream, PlatformError>> {
        Box::pin(async move {
            self.host.call(&format!("dial socket {port}")).await?;
            self.require_sockets()?;
            self.gate.require_dial(port)?;
            self.life.sockets.dial_guest(port).await
        })
    }

    fn change<'a>(&'a self, change: &'a Change, guest: Option<&'a str>) -> BoxFuture<'a, Result<(), PlatformError>> {
        Box::pin(async move {
            self.host.capabilities.require(change.feature())?;
            self.host.call(&name_of(change)).await?;
            self.host.changed(change, guest);
            Ok(())
        })
    }

    fn passes_on(&self) -> bool {
        self.host.guest_connection().is_ok()
    }

    fn guest_reaches_pipes(&self) -> bool {
        self.host.reaches_pipes
    }

    fn pass_on<'a>(&'a self, request: &'a str) -> BoxFuture<'a, Result<(), PlatformError>> {
        Box::pin(async move { self.host.call(&format!("pass on {request}")).await })
    }

    /// There is a guest connection to learn of, but no service behind it.
    fn hosted(&self) -> Result<&dyn HostedGuest, PlatformError> {
        Err(PlatformError::Unsupported {
            feature: Feature::HostOwnedGuestConnection,
            platform: "fake",
            why: "it has no service that makes containers or processes".into(),
        })
    }

    fn network(&self) -> Result<&dyn PlatformNetwork, PlatformError> {
        self.host.networks()
    }

    /// Looks at this machine's files.
    fn look_at<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, Result<HostFile, PlatformError>> {
        Box::pin(async move {
            self.host.call(&format!("look at {}", path.display())).await?;
            HostFile::at(path)
        })
    }

    fn can_map_files_of<'a>(&'a self, directory: &'a Path) -> BoxFuture<'a, Result<bool, PlatformError>> {
        Box::pin(async move {
            self.host.call(&format!("can map files of {}", directory.display())).await?;
            Ok(true)
        })
    }

    /// As on Windows, so that tests see that it is asked for. Paths that are not Unicode are told apart, too.
    fn path_key(&self, path: &Path) -> String {
        let spelt_out = || format!("\0{}", path.as_os_str().as_encoded_bytes().escape_ascii());
        path.to_str().map_or_else(spelt_out, str::to_lowercase)
    }

    fn grant<'a>(&'a self, path: &'a Path, access: VmAccess) -> BoxFuture<'a, Result<(), PlatformError>> {
        Box::pin(async move { self.host.call(&format!("grant {access:?} {}", path.display())).await })
    }

    fn revoke<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, Result<(), PlatformError>> {
        Box::pin(async move { self.host.call(&format!("revoke {}", path.display())).await })
    }

    fn last_words(&self) -> LastWords {
        LastWords {
            phase: Some(format!("fake VM {} is {}", self.id, self.life.state().name())),
            ..LastWords::default()
        }
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        let counted = self.host.census.count("tasks");
        let task = async move {
            let _counted = counted;
            task.await;
        };
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        // What has ended is let go.
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(task, &self.runtime);
    }
}

/// How a change is called in the list of calls, where faults are planted: `add scsi`, `remove pipe`, `update memory`.
fn name_of(change: &Change) -> String {
    let device = |device: &Device| match device {
        Device::Scsi(_) => "scsi",
        Device::Vpmem(_) => "vpmem",
        Device::Plan9(_) => "plan9",
        Device::VirtioFs(_) => "virtio-fs",
        Device::Vsmb(_) => "vsmb",
        Device::Network(_) => "network",
        Device::Pci(_) => "pci",
        Device::Pipe(_) => "pipe",
        Device::HvSocketService(_) => "hvsocket service",
    };
    match change {
        Change::Add(added) => format!("add {}", device(added)),
        Change::Remove(removed) => format!("remove {}", device(removed)),
        Change::UndoAdd(added) => format!("undo {}", device(added)),
        Change::Update(Setting::Memory(_)) => "update memory".into(),
        Change::Update(Setting::CpuLimits(_)) => "update cpu limits".into(),
        Change::Update(Setting::CpuGroup(_)) => "update cpu group".into(),
        Change::Update(Setting::VsmbFiles(_)) => "update vsmb files".into(),
        Change::Update(Setting::ScsiSize(_)) => "update scsi size".into(),
    }
}

impl Drop for FakeVm {
    fn drop(&mut self) {
        self.life.end(ExitStatus::Terminated);
    }
}
