//! Creating a VM: checked options, boot files, the host's VM, its listeners, its driver.

use std::sync::Arc;

use tokio::sync::watch;
use uvm_platform::spec::GuestAgent;
use uvm_platform::{Deadlines, Feature, GuestListener, Platform, PlatformError, PlatformVm, Port, UvmId};
use uvm_wire::ports::{BRIDGE_PORT, ENTROPY_PORT, LOG_PORT};

use super::UtilityVm;
use super::driver::Driver;
use super::plugged::Plugged;
use super::start::{Listeners, Start};
use crate::error::UvmError;
use crate::host::{self, Hold};
use crate::options::{BootPlan, GuestConnection, LcowOptions};
use crate::resources::Limits;

/// The parts of a [`UtilityVm`] that are known when it is created.
pub(crate) struct Parts {
    pub(crate) id: UvmId,
    pub(crate) vm: Arc<dyn PlatformVm>,
    pub(crate) deadlines: Deadlines,
    pub(crate) output_done: watch::Receiver<bool>,
    pub(crate) processor_count: u32,
    pub(crate) physically_backed: bool,
    pub(crate) boot_files: Option<Hold>,
}

pub(super) async fn create_lcow(host: &dyn Platform, options: &LcowOptions) -> Result<UtilityVm, UvmError> {
    options.check()?;
    let (boot, boot_files) = boot_plan(options.clone()).await?;
    let id = match &options.id {
        Some(id) => id.clone(),
        None => random_id().map_err(UvmError::Host)?,
    };
    let ours = boot.info.agent == GuestAgent::Ours;
    let create_error = |source| UvmError::Create { id: id.clone(), source };
    host.capabilities().require(Feature::LinuxGuests).map_err(create_error)?;
    if options.guest_connection == GuestConnection::HostService {
        host.capabilities().require(Feature::HostOwnedGuestConnection).map_err(create_error)?;
    }
    let spec = options.lower(id.clone(), boot, host);
    // Whatever fails from here on drops the VM, which ends it.
    let (vm, events) = host.create(&spec).await.map_err(create_error)?;
    let listen = |wanted: bool, port: u32| -> Result<Option<GuestListener>, UvmError> {
        if wanted { vm.listen(Port(port)).map(Some).map_err(create_error) } else { Ok(None) }
    };
    let listeners = Listeners {
        entropy: listen(true, ENTROPY_PORT)?,
        log: listen(options.forward_stdout || options.forward_stderr, LOG_PORT)?,
        bridge: listen(options.guest_connection == GuestConnection::Library, BRIDGE_PORT)?,
    };
    let deadlines = options.deadlines.on(vm.accelerator());
    let (output_done, output_done_receiver) = watch::channel(false);
    let start = Start {
        id: id.clone(),
        vm: Arc::clone(&vm),
        listeners,
        output: options.output_handler.clone().unwrap_or_default(),
        output_done,
        agent_version: ours.then_some(env!("CARGO_PKG_VERSION")),
        deadlines,
    };
    let plugged = Plugged::new(&vm, Limits::of(options, &spec.boot.root), options.guest_connection);
    let handles = Driver::spawn(start, events, plugged);
    let parts = Parts {
        id,
        vm,
        deadlines,
        output_done: output_done_receiver,
        processor_count: spec.processors.count,
        physically_backed: options.backing.is_physical(),
        boot_files,
    };
    Ok(UtilityVm::new(parts, handles))
}

/// The boot files to use; makes the default ones if none are named.
async fn boot_plan(options: LcowOptions) -> Result<(BootPlan, Option<Hold>), UvmError> {
    let choose = move || {
        let path = options.boot_files.clone();
        let directory = host::boot_directory(path.as_deref()).map_err(|source| UvmError::BootFiles { path, source })?;
        let plan = BootPlan::choose(&options, &directory.path, directory.info)?;
        Ok((plan, directory.hold))
    };
    host::blocking(choose).await.map_err(UvmError::Host)?
}

/// A random GUID (version 4).
fn random_id() -> Result<UvmId, PlatformError> {
    UvmId::new(random_guid()?).map_err(|e| PlatformError::host("draw a random id", e))
}

/// A random GUID (version 4), as text.
pub(crate) fn random_guid() -> Result<String, PlatformError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|e| PlatformError::host("draw a random id", std::io::Error::from(e)))?;
    let bits = u128::from_be_bytes(bytes) & !(0xf000 << 64) & !(0xc000 << 48) | (0x4000 << 64) | (0x8000 << 48);
    Ok(uvm_wire::Guid::from_u128(bits).to_string())
}
