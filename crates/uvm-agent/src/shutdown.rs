//! The end of the VM: processes ended, output delivered, disks synced, power off.

use std::time::Duration;

use rustix::process::Signal;
use rustix::system::RebootCommand;
use tokio::task::JoinHandle;

use crate::agent::Agent;
use crate::flags::Level;
use crate::log;
use crate::storage;

/// How the VM is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Processes are asked to end, and have 10 s to do so.
    Graceful,
    /// Processes are killed.
    Forced,
}

/// How long processes may take to end when asked.
const GRACE: Duration = Duration::from_secs(10);
/// How long output that is on its way may take to be read by the host.
const DRAIN: Duration = Duration::from_secs(2);

/// How long the host may take to read what is left, at each of the last steps.
pub(crate) const FAREWELL: Duration = Duration::from_secs(2);

/// Waits until the host wants the VM to end; then ends what runs, and lets the `bridge` deliver what is owed. `false`: the
/// bridge ended by itself, and nobody can want anything any more.
pub(crate) async fn when_wanted(agent: &Agent, mut bridge: JoinHandle<()>) -> bool {
    let how = tokio::select! {
        biased;
        how = agent.shutdown_wanted() => how,
        _ = &mut bridge => return false,
    };
    end_processes(agent, how).await;
    agent.last_call();
    // It waits by itself for the host to close its end.
    if tokio::time::timeout(FAREWELL + Duration::from_secs(1), bridge).await.is_err() {
        log::console("the host did not take the last answers");
    }
    true
}

/// Ends every process and delivers what they wrote: all of the VM if this is its PID 1, else those started through the
/// bridge, with their sessions.
async fn end_processes(agent: &Agent, how: Shutdown) {
    if how == Shutdown::Graceful && !agent.processes.running().is_empty() {
        agent.processes.signal_all(Signal::TERM);
        let ended = async {
            while !agent.processes.running().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(GRACE, ended).await.is_err() {
            agent.log.add(Level::Warning, "processes did not end when asked", &[("waited", &format!("{GRACE:?}"))]);
        }
    }
    agent.processes.signal_all(Signal::KILL);
    // With their writers gone the relays come to their end by themselves, if the host reads.
    if tokio::time::timeout(DRAIN, agent.relays.idle()).await.is_err() {
        log::console(format_args!("{} streams were not read to their end", agent.relays.count()));
    }
    // Its end is noticed by SIGCHLD, and then told to whoever waits for it.
    let noticed = async {
        while !agent.processes.running().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    if tokio::time::timeout(DRAIN, noticed).await.is_err() {
        log::console("processes outlived SIGKILL");
    }
}

/// Brings what was written to the disks, unmounts them, and powers the VM off.
pub fn power_off() -> ! {
    storage::unmount_disks();
    if let Err(e) = rustix::system::reboot(RebootCommand::PowerOff) {
        log::console(format_args!("cannot power off: {e}"));
    }
    // The end of PID 1 is a kernel panic, which ends the VM too.
    std::process::exit(1)
}
