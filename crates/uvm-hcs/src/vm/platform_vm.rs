//! What every host's VM does.

use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use uvm_platform::requests::{Change, Device, HostFile, HvSocketService, VmAccess};
use uvm_platform::{
    Accelerator, BoxFuture, GuestListener, GuestStream, HostGuestConnection, HostedGuest, HvSocketServiceConfig,
    HvSocketServiceId, LastWords, PlatformError, PlatformNetwork, PlatformVm, Port, VmProperties, VmStatistics,
};
use uvm_wire::RawJson;

use super::{Access, HcsVm, Vm};
use crate::PLATFORM;
use crate::document::query::{AnswerError, PropertyType, SystemProperties};
use crate::host::{FileKind, HcsError};
use crate::life::Life;
use crate::win_path::WinPath;

impl PlatformVm for HcsVm {
    fn accelerator(&self) -> Accelerator {
        Accelerator::HyperV
    }

    fn start(&self) -> BoxFuture<'_, Result<(), PlatformError>> {
        let vm = Arc::clone(&self.vm);
        self.run(async move { vm.start().await })
    }

    fn pause(&self) -> BoxFuture<'_, Result<(), PlatformError>> {
        let vm = Arc::clone(&self.vm);
        self.run(async move { vm.pause().await })
    }

    fn resume(&self) -> BoxFuture<'_, Result<(), PlatformError>> {
        let vm = Arc::clone(&self.vm);
        self.run(async move { vm.resume().await })
    }

    fn terminate(&self) -> BoxFuture<'_, Result<(), PlatformError>> {
        let vm = Arc::clone(&self.vm);
        self.run(async move { vm.terminate().await })
    }

    fn close_after(&self, ended: Box<dyn FnOnce() + Send>) -> BoxFuture<'_, Result<(), PlatformError>> {
        let vm = Arc::clone(&self.vm);
        self.run(async move { vm.close(ended).await })
    }

    fn runtime_id(&self) -> Option<String> {
        Some(self.vm.parts.runtime_id.to_string())
    }

    fn new_guid(&self) -> Option<Result<String, PlatformError>> {
        Some(crate::platform::new_guid(&*self.vm.parts.host))
    }

    fn guest_connection(&self) -> BoxFuture<'_, Result<HostGuestConnection, PlatformError>> {
        let vm = Arc::clone(&self.vm);
        self.run(async move { vm.guest_connection().await })
    }

    fn properties(&self) -> BoxFuture<'_, Result<VmProperties, PlatformError>> {
        let vm = Arc::clone(&self.vm);
        self.run(async move { vm.properties().await })
    }

    fn statistics(&self) -> BoxFuture<'_, Result<VmStatistics, PlatformError>> {
        let vm = Arc::clone(&self.vm);
        self.run(async move { vm.statistics().await })
    }

    fn assigned_memory(&self) -> BoxFuture<'_, Result<u64, PlatformError>> {
        let vm = Arc::clone(&self.vm);
        self.run(async move { vm.assigned_memory().await })
    }

    fn listen(&self, port: Port) -> Result<GuestListener, PlatformError> {
        self.vm.listen("listen for the guest", port)
    }

    fn dial(&self, port: Port) -> BoxFuture<'_, Result<GuestStream, PlatformError>> {
        let vm = Arc::clone(&self.vm);
        self.run(async move { vm.dial(port, Some(vm.parts.deadlines.host_call)).await })
    }

    /// There is one kind of socket, so a port that the agent has is taken here too.
    fn listen_socket(&self, port: Port) -> Result<GuestListener, PlatformError> {
        self.vm.require_sockets()?;
        self.vm.listen("listen for programs in the guest", port)
    }

    fn dial_socket(&self, port: Port) -> BoxFuture<'_, Result<GuestStream, PlatformError>> {
        let vm = Arc::clone(&self.vm);
        self.run(async move {
            vm.require_sockets()?;
            vm.dial(port, None).await
        })
    }

    /// The device is there wherever the document asked for it; nothing has to be plugged.
    fn add_sockets(&self) -> BoxFuture<'_, Result<(), PlatformError>> {
        Box::pin(async { Ok(()) })
    }

    fn remove_sockets(&self) -> BoxFuture<'_, Result<(), PlatformError>> {
        let (intent, why) = ("removing the virtual sockets".into(), "they are part of every VM of this host".into());
        Box::pin(async { Err(PlatformError::NotAllowed { intent, why }) })
    }

    /// The service itself judges.
    fn check_socket_service(
        &self,
        _service: &HvSocketServiceId,
        _config: &HvSocketServiceConfig,
    ) -> Result<(), PlatformError> {
        Ok(())
    }

    fn update_socket_service<'a>(
        &'a self,
        service: &'a HvSocketServiceId,
        config: &'a HvSocketServiceConfig,
    ) -> BoxFuture<'a, Result<(), PlatformError>> {
        let service = HvSocketService { id: service.clone(), config: config.clone() };
        Box::pin(async move { HcsVm::change(self, Change::Add(Device::HvSocketService(service)), None).await })
    }

    fn remove_socket_service<'a>(&'a self, service: &'a HvSocketServiceId) -> BoxFuture<'a, Result<(), PlatformError>> {
        let service = HvSocketService { id: service.clone(), config: HvSocketServiceConfig::default() };
        Box::pin(async move { HcsVm::change(self, Change::Remove(Device::HvSocketService(service)), None).await })
    }

    fn change<'a>(&'a self, change: &'a Change, guest: Option<&'a str>) -> BoxFuture<'a, Result<(), PlatformError>> {
        Box::pin(async move {
            let guest = guest.map(raw_json).transpose()?;
            HcsVm::change(self, change.clone(), guest).await
        })
    }

    fn passes_on(&self) -> bool {
        true
    }

    fn pass_on<'a>(&'a self, request: &'a str) -> BoxFuture<'a, Result<(), PlatformError>> {
        Box::pin(async move { self.guest_request(raw_json(request)?).await })
    }

    fn hosted(&self) -> Result<&dyn HostedGuest, PlatformError> {
        Ok(self)
    }

    fn network(&self) -> Result<&dyn PlatformNetwork, PlatformError> {
        Ok(&self.network)
    }

    fn look_at<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, Result<HostFile, PlatformError>> {
        let (vm, path) = (Arc::clone(&self.vm), path.to_owned());
        self.run(async move { vm.look_at(&win_path(&path)?).await })
    }

    fn can_map_files_of<'a>(&'a self, directory: &'a Path) -> BoxFuture<'a, Result<bool, PlatformError>> {
        let (vm, directory) = (Arc::clone(&self.vm), directory.to_owned());
        self.run(async move { vm.can_map_files_of(&win_path(&directory)?).await })
    }

    fn path_key(&self, path: &Path) -> String {
        match WinPath::from_std(path) {
            Some(path) => path.clean().key(),
            None => path.to_string_lossy().into_owned(),
        }
    }

    fn grant<'a>(&'a self, path: &'a Path, access: VmAccess) -> BoxFuture<'a, Result<(), PlatformError>> {
        Box::pin(async move {
            match access {
                VmAccess::Noop => Ok(()),
                VmAccess::Group => HcsVm::grant(self, win_path(path)?, Access::Group).await,
                VmAccess::Individual => HcsVm::grant(self, win_path(path)?, Access::Individual).await,
            }
        })
    }

    fn revoke<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, Result<(), PlatformError>> {
        Box::pin(async move { HcsVm::revoke(self, win_path(path)?).await })
    }

    fn last_words(&self) -> LastWords {
        self.vm.last_words()
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.home.spawn(task);
    }
}

pub(super) fn raw_json(text: &str) -> Result<RawJson, PlatformError> {
    RawJson::parse(text).map_err(|e| PlatformError::host("pass a request on to the guest", e))
}

fn win_path(path: &Path) -> Result<WinPath, PlatformError> {
    WinPath::from_std(path).ok_or_else(|| PlatformError::BadInput {
        what: "path",
        value: path.display().to_string(),
        why: "it is not Unicode".into(),
    })
}

impl Vm {
    async fn look_at(&self, path: &WinPath) -> Result<HostFile, PlatformError> {
        let bad = |why: String| PlatformError::BadInput { what: "file", value: path.to_string(), why };
        let looked = tokio::time::timeout(self.parts.deadlines.host_call, self.parts.host.stat(path)).await;
        let looked = looked.map_err(|_| self.timeout("the file system", self.parts.deadlines.host_call))?;
        let stat = looked.map_err(|e| bad(e.to_string()))?.ok_or_else(|| bad("there is no such file".into()))?;
        match stat.kind {
            FileKind::Directory => Ok(HostFile::Directory),
            FileKind::File => {
                let parts = path.file_name().zip(path.parent());
                let (name, parent) = parts.ok_or_else(|| bad("it has no name".into()))?;
                // With the separator at its end, as the service has always been given it.
                let parent = parent.as_str().trim_end_matches('\\');
                Ok(HostFile::File { bytes: stat.size, directory: format!("{parent}\\").into(), name: name.to_owned() })
            }
            FileKind::Other => Err(bad("it is neither a directory nor a regular file".into())),
        }
    }

    /// Only some builds have to ask the file system.
    async fn can_map_files_of(&self, directory: &WinPath) -> Result<bool, PlatformError> {
        if !self.parts.build.must_probe_direct_map() {
            return Ok(true);
        }
        let limit = self.parts.deadlines.host_call;
        let asked = tokio::time::timeout(limit, self.parts.host.has_file_ids(directory)).await;
        let asked = asked.map_err(|_| self.timeout("the file system", limit))?;
        asked.map_err(|e| PlatformError::BadInput {
            what: "directory",
            value: directory.to_string(),
            why: e.to_string(),
        })
    }

    fn require_sockets(&self) -> Result<(), PlatformError> {
        if self.parts.virtual_sockets { Ok(()) } else { Err(PlatformError::no_virtual_sockets(PLATFORM)) }
    }

    fn listen(&self, intent: &'static str, port: Port) -> Result<GuestListener, PlatformError> {
        self.require_open(intent)?;
        let address = (self.parts.runtime_id, self.parts.guest.service(port));
        self.ports.listen(&*self.parts.host, address, port, self.ending())
    }

    /// Dials until the guest answers, the VM ends, or the deadline passes if there is one.
    async fn dial(&self, port: Port, deadline: Option<Duration>) -> Result<GuestStream, PlatformError> {
        let intent = "dial the guest";
        self.require_open(intent)?;
        let dialled = self.parts.host.connect(self.parts.runtime_id, self.parts.guest.service(port));
        let expired = async {
            match deadline {
                Some(deadline) => tokio::time::sleep(deadline).await,
                None => std::future::pending().await,
            }
        };
        let failed = |error: HcsError| PlatformError::host(format!("dial port {port}"), error);
        tokio::select! {
            biased;
            status = self.ending() => Err(self.ended(intent, status)),
            stream = dialled => stream.map_err(failed),
            () = expired => {
                Err(self.timeout(&format!("the guest to answer on port {port}"), deadline.unwrap_or_default()))
            }
        }
    }

    async fn guest_connection(&self) -> Result<HostGuestConnection, PlatformError> {
        let intent = "learn of its guest connection";
        self.require_open(intent)?;
        let failed = |error| PlatformError::host(intent, error);
        let told = self.system_properties(&[PropertyType::GuestConnection]).await?;
        let info =
            told.guest_connection_info.ok_or_else(|| failed(AnswerError::Missing { what: "guest connection" }))?;
        let capabilities = RawJson::of(&info.guest_defined_capabilities)
            .map_err(|error| PlatformError::host(intent, error))?
            .get()
            .to_owned();
        Ok(HostGuestConnection { protocol_version: info.protocol_version, capabilities })
    }

    /// What the service knows. Of a VM that has ended it is not asked any more.
    async fn properties(&self) -> Result<VmProperties, PlatformError> {
        let mut properties = VmProperties::default();
        let life = self.life.borrow().clone();
        life.name().clone_into(&mut properties.state);
        if life == Life::Created || life.has_ended() || self.closed.initialized() {
            return Ok(properties);
        }
        let told = self.system_properties(&[PropertyType::Statistics, PropertyType::Memory]).await?;
        properties.uptime = self.started.lock().unwrap_or_else(PoisonError::into_inner).map(|at| at.elapsed());
        properties.processor_time = processor_time(&told);
        properties.working_set_bytes = told.assigned_memory_bytes().ok();
        Ok(properties)
    }
}

fn processor_time(properties: &SystemProperties) -> Option<Duration> {
    let processor = properties.statistics.as_ref()?.processor.as_ref()?;
    Some(Duration::from_nanos(processor.total_runtime_100ns.saturating_mul(100)))
}
