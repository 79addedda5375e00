//! The VM as the library asks for it.

use std::path::Path;
use std::sync::{Arc, PoisonError};

use tokio::time::Instant;
use uvm_platform::hvsocket::HvSocketServices;
use uvm_platform::requests::{Change, Device, HostFile, LayerPlace, PciAssignment, Setting, VmAccess};
use uvm_platform::{
    Accelerator, BoxFuture, Feature, GuestListener, GuestStream, HostGuestConnection, HostedGuest,
    HvSocketServiceConfig, HvSocketServiceId, LastWords, PlatformError, PlatformNetwork, PlatformVm, Port,
    VmProperties, VmStatistics,
};

use crate::process_info::ProcessInfo;
use crate::step_limit::within;
use crate::vm::{CANNOT_YET, Life, NO_HOST_SERVICE, QemuVm, Vm, not_here};

impl PlatformVm for QemuVm {
    fn accelerator(&self) -> Accelerator {
        self.vm.accelerator
    }

    fn start(&self) -> BoxFuture<'_, Result<(), PlatformError>> {
        let vm = Arc::clone(&self.vm);
        self.run(async move {
            vm.enter("start it", "cont", Life::Created, Life::Running).await?;
            *vm.started.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            Ok(())
        })
    }

    fn pause(&self) -> BoxFuture<'_, Result<(), PlatformError>> {
        let vm = Arc::clone(&self.vm);
        self.run(async move { vm.enter("pause it", "stop", Life::Running, Life::Paused).await })
    }

    fn resume(&self) -> BoxFuture<'_, Result<(), PlatformError>> {
        let vm = Arc::clone(&self.vm);
        self.run(async move { vm.enter("resume it", "cont", Life::Paused, Life::Running).await })
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
        None
    }

    fn new_guid(&self) -> Option<Result<String, PlatformError>> {
        None
    }

    fn guest_connection(&self) -> BoxFuture<'_, Result<HostGuestConnection, PlatformError>> {
        Box::pin(async { Err(not_here(Feature::HostOwnedGuestConnection, NO_HOST_SERVICE)) })
    }

    fn properties(&self) -> BoxFuture<'_, Result<VmProperties, PlatformError>> {
        let vm = Arc::clone(&self.vm);
        Box::pin(async move {
            let info = ProcessInfo::of(vm.child.id());
            let mut properties = VmProperties::default();
            properties.host_pid = info.is_some().then(|| vm.child.id());
            properties.state = match vm.life() {
                Life::Running if vm.full_disk.image().is_some() => "waiting for room on the host".into(),
                life => life.name().into(),
            };
            properties.uptime = vm.started.lock().unwrap_or_else(PoisonError::into_inner).map(|at| at.elapsed());
            properties.processor_time = info.as_ref().map(|info| info.processor_time);
            properties.working_set_bytes = info.as_ref().map(|info| info.resident_bytes);
            Ok(properties)
        })
    }

    /// Those of its process. QEMU counts nodes and pages no further.
    fn statistics(&self) -> BoxFuture<'_, Result<VmStatistics, PlatformError>> {
        let info = ProcessInfo::of(self.vm.child.id());
        let runtime = info.as_ref().map(|info| u64::try_from(info.processor_time.as_nanos()).unwrap_or(u64::MAX));
        let working_set_bytes = info.map(|info| info.resident_bytes);
        let statistics = VmStatistics { processor_runtime_ns: runtime, working_set_bytes, ..VmStatistics::default() };
        Box::pin(async { Ok(statistics) })
    }

    /// What its process has in memory.
    fn assigned_memory(&self) -> BoxFuture<'_, Result<u64, PlatformError>> {
        let info = ProcessInfo::of(self.vm.child.id());
        let gone = PlatformError::WrongState { intent: "read its memory", state: "gone" };
        Box::pin(async { info.map(|info| info.resident_bytes).ok_or(gone) })
    }

    fn listen(&self, port: Port) -> Result<GuestListener, PlatformError> {
        self.vm.transport.get().listen(port)
    }

    fn dial(&self, port: Port) -> BoxFuture<'_, Result<GuestStream, PlatformError>> {
        self.vm.transport.get().dial(port)
    }

    fn add_sockets(&self) -> BoxFuture<'_, Result<(), PlatformError>> {
        let vm = Arc::clone(&self.vm);
        self.run(async move { vm.add_sockets().await })
    }

    fn remove_sockets(&self) -> BoxFuture<'_, Result<(), PlatformError>> {
        let vm = Arc::clone(&self.vm);
        self.run(async move { vm.remove_sockets().await })
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
        Box::pin(async move { self.vm.sockets.gate.update(service, config) })
    }

    fn remove_socket_service<'a>(&'a self, service: &'a HvSocketServiceId) -> BoxFuture<'a, Result<(), PlatformError>> {
        Box::pin(async move { self.vm.sockets.gate.remove(service) })
    }

    fn listen_socket(&self, port: Port) -> Result<GuestListener, PlatformError> {
        self.vm.sockets.listen(port)
    }

    fn dial_socket(&self, port: Port) -> BoxFuture<'_, Result<GuestStream, PlatformError>> {
        Box::pin(self.vm.sockets.dial(port))
    }

    fn change<'a>(&'a self, change: &'a Change, _guest: Option<&'a str>) -> BoxFuture<'a, Result<(), PlatformError>> {
        let (vm, change) = (Arc::clone(&self.vm), change.clone());
        self.run(async move { vm.change(change).await })
    }

    /// Its kernel does not look for units 0, and not for what was there before its driver.
    fn guest_notices_disks(&self) -> bool {
        false
    }

    /// Its agent listens for them, and dials the host.
    fn guest_reaches_pipes(&self) -> bool {
        false
    }

    fn pci_ports(&self) -> Option<Vec<String>> {
        Some(self.vm.pci.addresses())
    }

    fn pci_address<'a>(&'a self, device: &'a PciAssignment) -> BoxFuture<'a, Result<Option<String>, PlatformError>> {
        let (vm, device) = (Arc::clone(&self.vm), device.clone());
        self.run(async move { vm.pci_address(&device).await })
    }

    fn layer_place(&self, slot: u32) -> Option<LayerPlace> {
        self.vm.layer_place(slot)
    }

    fn pass_on<'a>(&'a self, _request: &'a str) -> BoxFuture<'a, Result<(), PlatformError>> {
        Box::pin(async { Err(not_here(Feature::HostOwnedGuestConnection, NO_HOST_SERVICE)) })
    }

    fn hosted(&self) -> Result<&dyn HostedGuest, PlatformError> {
        Err(not_here(Feature::HostOwnedGuestConnection, NO_HOST_SERVICE))
    }

    fn network(&self) -> Result<&dyn PlatformNetwork, PlatformError> {
        Err(not_here(Feature::NetworkAdapters, CANNOT_YET))
    }

    fn look_at<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, Result<HostFile, PlatformError>> {
        let path = path.to_owned();
        self.run(async move {
            let looked = tokio::task::spawn_blocking(move || HostFile::at(&path)).await;
            looked.unwrap_or_else(|e| Err(PlatformError::host("look at a file", e)))
        })
    }

    fn can_map_files_of<'a>(&'a self, _directory: &'a Path) -> BoxFuture<'a, Result<bool, PlatformError>> {
        Box::pin(async { Err(not_here(Feature::VsmbShares, "Windows guests have them")) })
    }

    fn path_key(&self, path: &Path) -> String {
        key_of(&std::path::absolute(path).unwrap_or_else(|_| path.to_owned()))
    }

    fn grant<'a>(&'a self, _path: &'a Path, _access: VmAccess) -> BoxFuture<'a, Result<(), PlatformError>> {
        // Files are opened by their owner, and QEMU gets the descriptor.
        Box::pin(async { Ok(()) })
    }

    fn revoke<'a>(&'a self, _path: &'a Path) -> BoxFuture<'a, Result<(), PlatformError>> {
        Box::pin(async { Ok(()) })
    }

    fn last_words(&self) -> LastWords {
        self.vm.last_words()
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.thread.handle().spawn(task);
    }
}

/// The path as text. One that is not Unicode begins with what none of a file does, and has its bytes spelt out: no two paths
/// have one key.
fn key_of(path: &Path) -> String {
    let spelt_out = || format!("\0{}", path.as_os_str().as_encoded_bytes().escape_ascii());
    path.to_str().map_or_else(spelt_out, str::to_owned)
}

impl Vm {
    /// Makes a change. Its steps have the limit of one altogether: who asked for it waits no longer.
    async fn change(self: Arc<Self>, change: Change) -> Result<(), PlatformError> {
        let limit = self.deadlines.host_call;
        // It kills a helper that does not answer, and goes on with a limit anew.
        let renews_limit = matches!(
            change,
            Change::Add(Device::VirtioFs(_))
                | Change::Remove(Device::VirtioFs(_))
                | Change::UndoAdd(Device::VirtioFs(_))
        );
        let changed = Box::pin(self.change_in_turn(change));
        if renews_limit { changed.await } else { within(limit, changed).await }
    }

    async fn change_in_turn(self: Arc<Self>, change: Change) -> Result<(), PlatformError> {
        let _turn = self.step("an earlier change of the same device", self.turns.take(&change)).await?;
        match change {
            Change::Add(Device::Scsi(disk)) => self.add_disk(&disk).await,
            Change::Remove(Device::Scsi(disk)) | Change::UndoAdd(Device::Scsi(disk)) => {
                self.remove_disk(disk.slot).await
            }
            Change::Update(Setting::ScsiSize(size)) => self.resize_disk(size).await,
            Change::Add(Device::Vpmem(layer)) => self.add_layer(&layer).await,
            Change::Remove(Device::Vpmem(layer)) | Change::UndoAdd(Device::Vpmem(layer)) => {
                self.remove_layer(layer.slot).await
            }
            Change::Add(Device::Plan9(export)) => self.add_share(export).await,
            Change::Remove(Device::Plan9(export)) | Change::UndoAdd(Device::Plan9(export)) => {
                self.remove_share(&export);
                Ok(())
            }
            Change::Add(Device::Pci(device)) => self.add_pci(&device).await,
            Change::Remove(Device::Pci(device)) | Change::UndoAdd(Device::Pci(device)) => {
                self.remove_pci(&device).await
            }
            Change::Add(Device::Pipe(pipe)) => self.add_pipe(pipe).await,
            Change::Remove(Device::Pipe(pipe)) | Change::UndoAdd(Device::Pipe(pipe)) => {
                self.remove_pipe(&pipe);
                Ok(())
            }
            Change::Add(Device::VirtioFs(export)) => self.add_virtio_fs(&export).await,
            Change::Remove(Device::VirtioFs(export)) | Change::UndoAdd(Device::VirtioFs(export)) => {
                self.remove_virtio_fs(&export).await
            }
            other => Err(not_here(other.feature(), CANNOT_YET)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn no_two_paths_have_one_key() {
        let paths: [&[u8]; 7] = [
            b"/d/\xff.img",
            b"/d/\xfe.img",
            b"/d/\xff\xfe.img",
            b"/d/\\xff.img",
            b"/d/\xff\\xfe.img",
            "/d/\u{fffd}.img".as_bytes(),
            b"/d/a.img",
        ];
        let keys = paths.map(|path| key_of(Path::new(OsStr::from_bytes(path))));
        let known: std::collections::HashSet<_> = keys.iter().collect();
        assert_eq!(known.len(), paths.len(), "{keys:?}");
        assert_eq!(keys[6], "/d/a.img");
    }
}
