//! Starting a VM: power on, then entropy, log and bridge, as the guest connects them; all within one deadline.
//!
//! The listeners exist before the VM is powered on, since the guest dials and does not wait. Whatever goes wrong, they are
//! closed when this ends: they are owned here.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use uvm_platform::{ExitStatus, GuestListener, GuestStream, PlatformError, PlatformVm, UvmId};
use uvm_wire::ContainerId;
use uvm_wire::negotiate::{Capabilities, NegotiateProtocol};

use crate::bridge::Bridge;
use crate::error::{StartError, StartPhase};
use crate::output::OutputHandler;

/// How much entropy the protocol hands a booting guest, in bytes.
const ENTROPY_BYTES: usize = 512;

/// How far the end of a connection and of its VM may lie apart.
const SETTLE: Duration = Duration::from_secs(2);

/// What the guest will dial.
pub(crate) struct Listeners {
    pub(crate) entropy: Option<GuestListener>,
    pub(crate) log: Option<GuestListener>,
    pub(crate) bridge: Option<GuestListener>,
}

/// What a start needs.
pub(crate) struct Start {
    pub(crate) id: UvmId,
    pub(crate) vm: Arc<dyn PlatformVm>,
    pub(crate) listeners: Listeners,
    pub(crate) output: OutputHandler,
    /// Set when the output handler is done.
    pub(crate) output_done: watch::Sender<bool>,
    /// Which agent must answer; `None` takes any.
    pub(crate) agent_version: Option<&'static str>,
    pub(crate) deadlines: uvm_platform::Deadlines,
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
    Cancelled,
}

/// A start that failed, and where.
pub(crate) type Failed = (StartPhase, StartError);

impl Start {
    /// Does it. `None`: nobody holds the guest's connection. An interruption wins over whatever happens at the same time.
    pub(crate) async fn run(
        self,
        mut interrupted: watch::Receiver<Option<Interruption>>,
    ) -> Result<Option<Guest>, Failed> {
        let deadline = self.deadlines.start;
        let phase = watch::Sender::new(StartPhase::PowerOn);
        let interruption = async move {
            match interrupted.wait_for(Option::is_some).await.ok().and_then(|why| why.clone()) {
                Some(Interruption::Exited(status)) => StartError::Exited(status),
                Some(Interruption::Cancelled) | None => StartError::Cancelled,
            }
        };
        tokio::pin!(interruption);
        let mut outcome = tokio::select! {
            biased;
            why = &mut interruption => Err(why),
            result = self.sequence(&phase) => result,
            () = tokio::time::sleep(deadline) => Err(StartError::Timeout(deadline)),
        };
        if matches!(outcome, Err(StartError::Host(_) | StartError::Io(_) | StartError::Bridge(_)))
            && let Ok(why) = tokio::time::timeout(SETTLE, interruption).await
        {
            // A VM that ends cuts its connections first. Its end is the reason, not the cut.
            outcome = Err(why);
        }
        outcome.map_err(|error| (*phase.borrow(), error))
    }

    async fn sequence(self, phase: &watch::Sender<StartPhase>) -> Result<Option<Guest>, StartError> {
        let Self { id, vm, listeners, output, output_done, agent_version, deadlines } = self;
        let Listeners { entropy, log, bridge } = listeners;
        let (no_entropy, no_log) = (entropy.is_none(), log.is_none());
        // Some hosts do not report the VM running before its agent runs, which needs the entropy: all at once.
        let power_on = async {
            vm.start().await.map_err(StartError::Host)?;
            phase.send_replace(if no_entropy { StartPhase::Bridge } else { StartPhase::Entropy });
            Ok(())
        };
        let give_entropy = async {
            give_entropy(entropy).await?;
            phase.send_if_modified(|phase| {
                let next = *phase == StartPhase::Entropy;
                if next {
                    *phase = if no_log { StartPhase::Bridge } else { StartPhase::Log };
                }
                next
            });
            Ok(())
        };
        let attach_log = async {
            let Some(stream) = accept(log).await? else {
                output_done.send_replace(true);
                return Ok(());
            };
            let (handling, done) = (output.handle(id, stream), OutputDone(output_done));
            vm.spawn(Box::pin(async move {
                let _done = done;
                handling.await;
            }));
            Ok(())
        };
        let (stream, (), (), ()) = tokio::try_join!(accept(bridge), power_on, give_entropy, attach_log)?;
        let Some(stream) = stream else { return Ok(None) };
        phase.send_replace(StartPhase::Negotiation);
        let bridge = Bridge::new(stream, |task| vm.spawn(task));
        let capabilities = negotiate(&bridge, agent_version, deadlines.rpc).await?;
        Ok(Some(Guest { bridge, capabilities: Arc::new(capabilities) }))
    }
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
