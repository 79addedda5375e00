//! Starting a VM: power on, then entropy, log and bridge, as the guest connects them; all within one deadline.
//!
//! The listeners exist before the VM is powered on, since the guest dials and does not wait. Whatever goes wrong, they are
//! closed when this ends: they are owned here.

use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use uvm_platform::{ExitStatus, GuestListener, GuestStream, PlatformError, PlatformVm, UvmId};
use uvm_wire::create::{ContainerConfig, Create};
use uvm_wire::modify::{HvSocketAddresses, Modification, ModifySettings, Resource, WindowsResource};
use uvm_wire::negotiate::{Capabilities, GuestOs, NegotiateProtocol};
use uvm_wire::ports::WINDOWS_PARENT_ADDRESS;
use uvm_wire::{ContainerId, Guid, system};

use super::driver::{OUTPUT_SETTLES, Status};
use crate::bridge::{Bridge, BridgeError};
use crate::error::{StartError, StartPhase};
use crate::options::GuestConnection;
use crate::output::{self, OutputHandler};

/// How much entropy the protocol hands a booting guest, in bytes.
const ENTROPY_BYTES: usize = 512;

/// How far the end of a connection and of its VM may lie apart.
pub(super) const SETTLE: Duration = Duration::from_secs(5);

/// What the guest will dial.
pub(crate) struct Listeners {
    pub(crate) entropy: Option<GuestListener>,
    pub(crate) log: Option<GuestListener>,
    pub(crate) bridge: Option<GuestListener>,
}

/// What a start needs.
pub(crate) struct Start {
    pub(crate) id: UvmId,
    pub(crate) os: GuestOs,
    pub(crate) vm: Arc<dyn PlatformVm>,
    pub(crate) listeners: Listeners,
    /// Without a bridge: that the host's service is asked what it knows of the guest, and where that is kept.
    pub(crate) learns: Option<(GuestConnection, Arc<OnceLock<HostConnection>>)>,
    pub(crate) output: OutputHandler,
    /// Set when the output handler is done.
    pub(crate) output_done: watch::Sender<bool>,
    /// Which agent must answer; `None` takes any.
    pub(crate) agent_version: Option<&'static str>,
    pub(crate) deadlines: uvm_platform::Deadlines,
}

/// What the host's service learnt from a guest whose connection it holds.
#[derive(Clone, Debug)]
pub(crate) struct HostConnection {
    pub(crate) protocol_version: u32,
    pub(crate) capabilities: Arc<Capabilities>,
}

/// A guest that answers.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    pub(crate) bridge: Bridge,
    pub(crate) capabilities: Arc<Capabilities>,
}

/// What ends a start early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Interruption {
    Exited(ExitStatus),
    /// Its transport is lost.
    Lost(String),
    Cancelled,
}

impl Interruption {
    pub(crate) fn into_error(self) -> StartError {
        match self {
            Self::Exited(status) => StartError::Exited(status),
            Self::Lost(why) => StartError::Host(PlatformError::host("reach the guest", why)),
            Self::Cancelled => StartError::Cancelled,
        }
    }
}

/// A start that failed, and where.
pub(crate) type Failed = (StartPhase, StartError);

impl Start {
    /// Does it. `None`: nobody holds the guest's connection. An interruption wins over whatever happens at the same time.
    pub(crate) async fn run(
        self,
        mut interrupted: watch::Receiver<Option<Interruption>>,
        status: watch::Receiver<Status>,
    ) -> Result<Option<Guest>, Failed> {
        let deadline = self.deadlines.start;
        let progress = Mutex::new(Progress::default());
        let interruption = async move {
            let why = interrupted.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
            // Without a driver there is no handle of the VM.
            why.map_or(StartError::Cancelled, Interruption::into_error)
        };
        tokio::pin!(interruption);
        let failed = |error| (progress.lock().unwrap_or_else(PoisonError::into_inner).phase(), error);
        let outcome = tokio::select! {
            biased;
            why = &mut interruption => return Err(failed(why)),
            result = self.sequence(&progress, status) => result,
            () = tokio::time::sleep(deadline) => Err(StartError::Timeout(deadline)),
        };
        let is_cut = matches!(
            outcome,
            Err(StartError::Host(_) | StartError::Io(_) | StartError::Bridge(BridgeError::Closed { .. }))
        );
        if is_cut && let Ok(why) = tokio::time::timeout(SETTLE, interruption).await {
            // A VM that ends cuts its connections first. Its end is the reason, not the cut.
            return Err(failed(why));
        }
        outcome.map_err(failed)
    }

    async fn sequence(
        self,
        progress: &Mutex<Progress>,
        mut status: watch::Receiver<Status>,
    ) -> Result<Option<Guest>, StartError> {
        let Self { id, os, vm, listeners, learns, output, output_done, agent_version, deadlines } = self;
        let Listeners { entropy, log, bridge } = listeners;
        // Some hosts do not report the VM running before its agent runs, which needs the entropy: all at once.
        let power_on = async {
            vm.start().await.map_err(StartError::Host)?;
            note(progress, |progress| progress.powered_on = true);
            Ok(())
        };
        let give_entropy = async {
            give_entropy(entropy).await?;
            note(progress, |progress| progress.entropy_given = true);
            Ok(())
        };
        let attach_log = async {
            if let Some(stream) = accept(log).await? {
                let done = OutputDone(output_done);
                let over = async move {
                    // Without a driver there is no handle of the VM.
                    let _ = status.wait_for(|status| status.exit.is_some()).await;
                    tokio::time::sleep(OUTPUT_SETTLES).await;
                };
                let stream = output::until(over, stream);
                // Not called here: whatever it does, it does not hold up the start.
                vm.spawn(Box::pin(async move {
                    let _done = done;
                    output.handle(id, stream).await;
                }));
            } else {
                output_done.send_replace(true);
            }
            note(progress, |progress| progress.log_attached = true);
            Ok(())
        };
        let connect = async {
            let stream = accept(bridge).await?;
            note(progress, |progress| progress.bridge_connected = true);
            Ok(stream)
        };
        let (stream, (), (), ()) = tokio::try_join!(connect, power_on, give_entropy, attach_log)?;
        let Some(stream) = stream else {
            if let Some((connection, kept)) = learns {
                learn(&*vm, connection, &kept).await?;
            }
            return Ok(None);
        };
        let bridge = Bridge::new(stream, |task| vm.spawn(task));
        let capabilities = negotiate(&bridge, agent_version, deadlines.rpc).await?;
        introduce(&bridge, &capabilities, deadlines.rpc).await?;
        if os == GuestOs::Windows {
            tell_addresses(&*vm, &bridge, deadlines.rpc).await?;
        }
        Ok(Some(Guest { bridge, capabilities: Arc::new(capabilities) }))
    }
}

/// What is done. Steps may be done in any order; the phase is the first that is not.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent steps, each done or not")]
struct Progress {
    powered_on: bool,
    entropy_given: bool,
    log_attached: bool,
    bridge_connected: bool,
}

impl Progress {
    fn phase(self) -> StartPhase {
        match self {
            Self { powered_on: false, .. } => StartPhase::PowerOn,
            Self { entropy_given: false, .. } => StartPhase::Entropy,
            Self { log_attached: false, .. } => StartPhase::Log,
            Self { bridge_connected: false, .. } => StartPhase::Bridge,
            _ => StartPhase::Negotiation,
        }
    }
}

fn note(progress: &Mutex<Progress>, step: impl FnOnce(&mut Progress)) {
    step(&mut progress.lock().unwrap_or_else(PoisonError::into_inner));
}

async fn negotiate(
    bridge: &Bridge,
    agent_version: Option<&'static str>,
    deadline: Duration,
) -> Result<Capabilities, StartError> {
    let call = bridge.call(ContainerId::NONE, &NegotiateProtocol::OURS, Some(deadline));
    let reply = call.await.map_err(StartError::Bridge)?;
    reply.check_version().map_err(StartError::Version)?;
    let theirs = &reply.capabilities.guest_defined.uvm_agent_version;
    match agent_version {
        Some(ours) if ours != theirs => Err(StartError::AgentVersion { ours, theirs: theirs.clone() }),
        _ => Ok(reply.capabilities),
    }
}

/// Makes the VM itself known to a guest that wants to be told of it.
async fn introduce(bridge: &Bridge, capabilities: &Capabilities, deadline: Duration) -> Result<(), StartError> {
    if !capabilities.send_host_create_message {
        return Ok(());
    }
    let create = Create { config: ContainerConfig::uvm() };
    bridge.call(ContainerId::UVM, &create, Some(deadline)).await.map_err(StartError::Bridge)?;
    if capabilities.send_host_start_message {
        let start = system::Start::default();
        bridge.call(ContainerId::UVM, &start, Some(deadline)).await.map_err(StartError::Bridge)?;
    }
    Ok(())
}

/// Tells a Windows guest the addresses of its Hyper-V sockets.
async fn tell_addresses(vm: &dyn PlatformVm, bridge: &Bridge, deadline: Duration) -> Result<(), StartError> {
    let intent = "tell the guest its socket addresses";
    let failed = |cause: &str| StartError::Host(PlatformError::host(intent, cause.to_owned()));
    let runtime_id = vm.runtime_id().ok_or_else(|| failed("the host addresses its sockets otherwise"))?;
    let local_address = runtime_id.parse::<Guid>().map_err(|_| failed("the host's id of the VM is no GUID"))?;
    let addresses =
        HvSocketAddresses { local_address: Some(local_address), parent_address: Some(WINDOWS_PARENT_ADDRESS) };
    let update = Modification::update(Resource::Windows(WindowsResource::HvSocket(addresses)));
    let call = ModifySettings { modification: update };
    bridge.call(ContainerId::UVM, &call, Some(deadline)).await.map_err(StartError::Bridge)?;
    Ok(())
}

/// Asks the host's service what it learnt from the guest. Where nobody is to hold the guest connection it may know nothing.
async fn learn(
    vm: &dyn PlatformVm,
    connection: GuestConnection,
    kept: &OnceLock<HostConnection>,
) -> Result<(), StartError> {
    let told = match vm.guest_connection().await {
        Ok(told) => told,
        Err(error) if connection == GuestConnection::None => {
            tracing::debug!(%error, "the host's service knows nothing of the guest");
            return Ok(());
        }
        Err(error) => return Err(StartError::Host(error)),
    };
    let guest_defined = serde_json::from_str(&told.capabilities)
        .map_err(|e| StartError::Host(PlatformError::host("learn what the guest can do", e)))?;
    let capabilities = Arc::new(Capabilities { guest_defined, ..Capabilities::default() });
    // A start happens once, so this is the first time.
    let _ = kept.set(HostConnection { protocol_version: told.protocol_version, capabilities });
    Ok(())
}

/// Tells that the output handler is done, also when it panicked or its host ended.
struct OutputDone(watch::Sender<bool>);

impl Drop for OutputDone {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

/// Accepts one connection and closes the port.
async fn accept(listener: Option<GuestListener>) -> Result<Option<GuestStream>, StartError> {
    match listener {
        Some(mut listener) => listener.accept().await.map(Some).map_err(StartError::Host),
        None => Ok(None),
    }
}

async fn give_entropy(listener: Option<GuestListener>) -> Result<(), StartError> {
    let Some(mut stream) = accept(listener).await? else { return Ok(()) };
    let mut bytes = [0; ENTROPY_BYTES];
    let drawn = getrandom::fill(&mut bytes).map_err(io::Error::from);
    drawn.map_err(|e| StartError::Host(PlatformError::host("draw entropy for the guest", e)))?;
    // The guest reads to the end of the stream, so it must end, not merely stop.
    stream.write_all(&bytes).await.map_err(StartError::Io)?;
    stream.shutdown().await.map_err(StartError::Io)
}
