//! Creating a VM: checked options, boot files, the host's VM, its listeners, its driver.

use std::sync::{Arc, OnceLock};

use tokio::sync::watch;
use uvm_platform::spec::GuestAgent;
use uvm_platform::{CreatedVm, Deadlines, Feature, GuestListener, Platform, PlatformError, PlatformVm, Port, UvmId};
use uvm_wire::negotiate::GuestOs;
use uvm_wire::ports::{BRIDGE_PORT, ENTROPY_PORT, LOG_PORT};

use super::UtilityVm;
use super::driver::Driver;
use super::plugged::Plugged;
use super::start::{HostConnection, Listeners, Start};
use crate::error::UvmError;
use crate::host::{self, BootDirectory, Hold};
use crate::options::{BootInfo, BootPlan, GuestConnection, LcowOptions, MemoryBacking, WcowOptions};
use crate::output::OutputHandler;
use crate::resources::Limits;

/// The parts of a [`UtilityVm`] that are known when it is created.
pub(crate) struct Parts {
    pub(crate) id: UvmId,
    pub(crate) os: GuestOs,
    pub(crate) vm: Arc<dyn PlatformVm>,
    pub(crate) deadlines: Deadlines,
    pub(crate) output_done: watch::Receiver<bool>,
    pub(crate) processor_count: u32,
    pub(crate) backing: MemoryBacking,
    pub(crate) host_connection: Arc<OnceLock<HostConnection>>,
    pub(crate) cpu_group: Option<String>,
    pub(crate) boot_files: Option<Hold>,
    /// The host has shares that are virtio-fs devices.
    pub(crate) virtio_fs: bool,
}

pub(super) async fn create_lcow(host: &dyn Platform, options: &LcowOptions) -> Result<UtilityVm, UvmError> {
    options.check()?;
    let (boot, boot_files) = boot_plan(host, options).await?;
    let id = id_or_random(host, options.id.as_ref())?;
    let ours = boot.info.agent == GuestAgent::Ours;
    require(host, &id, Feature::LinuxGuests, options.guest_connection)?;
    let spec = options.lower(id.clone(), boot, host);
    // Whatever fails from here on drops the VM, which ends it.
    let created = host.create(&spec).await.map_err(|source| UvmError::Create { id: id.clone(), source })?;
    let ports = Ports {
        entropy: true,
        log: options.forward_stdout || options.forward_stderr,
        bridge: options.guest_connection == GuestConnection::Library,
    };
    let made = Made {
        id,
        os: GuestOs::Linux,
        ports,
        connection: options.guest_connection,
        asks_host: host.capabilities().has(Feature::HostOwnedGuestConnection),
        output: options.output_handler.clone().unwrap_or_default(),
        agent_version: ours.then_some(env!("CARGO_PKG_VERSION")),
        deadlines: options.deadlines,
        processor_count: spec.processors.count,
        backing: options.backing,
        limits: Limits::of(options, &spec.boot.root),
        cpu_group: spec.cpu_group,
        boot_files,
        virtio_fs: host.capabilities().has(Feature::VirtioFsShares),
    };
    made.finish(created).await
}

pub(super) async fn create_wcow(host: &dyn Platform, options: &WcowOptions) -> Result<UtilityVm, UvmError> {
    options.check()?;
    let id = id_or_random(host, options.id.as_ref())?;
    require(host, &id, Feature::WindowsGuests, options.guest_connection)?;
    let spec = options.lower(id.clone(), host)?;
    // Whatever fails from here on drops the VM, which ends it.
    let created = host.create_wcow(&spec).await.map_err(|source| UvmError::Create { id: id.clone(), source })?;
    let made = Made {
        id,
        os: GuestOs::Windows,
        ports: Ports { entropy: false, log: false, bridge: options.guest_connection == GuestConnection::Library },
        connection: options.guest_connection,
        asks_host: host.capabilities().has(Feature::HostOwnedGuestConnection),
        output: OutputHandler::default(),
        agent_version: None,
        deadlines: options.deadlines,
        processor_count: spec.processors.count,
        backing: options.backing,
        limits: Limits::of_windows(&spec.boot.scratch),
        cpu_group: spec.cpu_group,
        boot_files: None,
        virtio_fs: false,
    };
    made.finish(created).await
}

fn id_or_random(host: &dyn Platform, id: Option<&UvmId>) -> Result<UvmId, UvmError> {
    match id {
        Some(id) => Ok(id.clone()),
        None => random_id(host).map_err(UvmError::Host),
    }
}

fn require(host: &dyn Platform, id: &UvmId, guests: Feature, connection: GuestConnection) -> Result<(), UvmError> {
    let by_host = (connection == GuestConnection::HostService).then_some(Feature::HostOwnedGuestConnection);
    for feature in [Some(guests), by_host].into_iter().flatten() {
        host.capabilities().require(feature).map_err(|source| UvmError::Create { id: id.clone(), source })?;
    }
    Ok(())
}

/// Which ports the guest will dial.
struct Ports {
    entropy: bool,
    log: bool,
    bridge: bool,
}

impl Ports {
    fn listen(&self, vm: &dyn PlatformVm) -> Result<Listeners, PlatformError> {
        let listen = |wanted: bool, port: u32| -> Result<Option<GuestListener>, PlatformError> {
            if wanted { vm.listen(Port(port)).map(Some) } else { Ok(None) }
        };
        Ok(Listeners {
            entropy: listen(self.entropy, ENTROPY_PORT)?,
            log: listen(self.log, LOG_PORT)?,
            bridge: listen(self.bridge, BRIDGE_PORT)?,
        })
    }
}

/// What is known of a VM that the host has made.
struct Made {
    id: UvmId,
    os: GuestOs,
    ports: Ports,
    connection: GuestConnection,
    asks_host: bool,
    output: OutputHandler,
    agent_version: Option<&'static str>,
    deadlines: Deadlines,
    processor_count: u32,
    backing: MemoryBacking,
    limits: Limits,
    cpu_group: Option<String>,
    boot_files: Option<Hold>,
    virtio_fs: bool,
}

impl Made {
    async fn finish(self, (vm, events): CreatedVm) -> Result<UtilityVm, UvmError> {
        let listeners = match self.ports.listen(&*vm) {
            Ok(listeners) => listeners,
            Err(source) => {
                // Dropping it would end it too, but in the background.
                if let Err(error) = vm.close().await {
                    tracing::warn!(vm = %self.id, %error, "a VM that is not used was not closed");
                }
                return Err(UvmError::Create { id: self.id, source });
            }
        };
        let deadlines = self.deadlines.on(vm.accelerator());
        let (output_done, output_done_receiver) = watch::channel(false);
        let host_connection = Arc::<OnceLock<HostConnection>>::default();
        let start = Start {
            id: self.id.clone(),
            os: self.os,
            vm: Arc::clone(&vm),
            listeners,
            // A host without such a service has nothing to tell.
            learns: (self.connection != GuestConnection::Library && self.asks_host)
                .then(|| (self.connection, Arc::clone(&host_connection))),
            output: self.output,
            output_done,
            agent_version: self.agent_version,
            deadlines,
        };
        let plugged = Plugged::new(&vm, self.limits, self.connection);
        let handles = Driver::spawn(start, events, plugged);
        let parts = Parts {
            id: self.id,
            os: self.os,
            vm,
            deadlines,
            output_done: output_done_receiver,
            processor_count: self.processor_count,
            backing: self.backing,
            host_connection,
            cpu_group: self.cpu_group,
            boot_files: self.boot_files,
            virtio_fs: self.virtio_fs,
        };
        Ok(UtilityVm::new(parts, handles))
    }
}

/// The boot files to use. Where the host has no place for them and none are named, makes those of this system.
async fn boot_plan(host: &dyn Platform, options: &LcowOptions) -> Result<(BootPlan, Option<Hold>), UvmError> {
    let named = options.boot_files.clone();
    let failed = |path: Option<std::path::PathBuf>| move |source| UvmError::BootFiles { path, source };
    let there = host.files().boot_files(named.as_deref()).await;
    let directory = if let Some(path) = there.map_err(|e| failed(named.clone())(e.into()))? {
        // What is in there on such a host is not written down, so any agent is taken.
        let info = BootInfo { agent: GuestAgent::Original, kernel_hz: None };
        BootDirectory { path, info, hold: None }
    } else {
        let path = named.clone();
        let find = move || host::boot_directory(path.as_deref());
        host::blocking(find).await.map_err(UvmError::Host)?.map_err(failed(named))?
    };
    let resolved = LcowOptions { kernel_boot: options.kernel_boot_on(host), ..options.clone() };
    let plan = BootPlan::choose(&resolved, host.files(), &directory.path, directory.info).await?;
    Ok((plan, directory.hold))
}

/// A random GUID (version 4).
fn random_id(host: &dyn Platform) -> Result<UvmId, PlatformError> {
    UvmId::new(host.new_guid().unwrap_or_else(random_guid)?).map_err(|e| PlatformError::host("draw a random id", e))
}

/// A random GUID (version 4), as text.
pub(crate) fn random_guid() -> Result<String, PlatformError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|e| PlatformError::host("draw a random id", std::io::Error::from(e)))?;
    let bits = u128::from_be_bytes(bytes) & !(0xf000 << 64) & !(0xc000 << 48) | (0x4000 << 64) | (0x8000 << 48);
    Ok(uvm_wire::Guid::from_u128(bits).to_string())
}
