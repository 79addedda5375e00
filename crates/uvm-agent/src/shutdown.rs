//! The end of the VM: processes ended, output delivered, disks synced, power off.

use std::time::Duration;

use rustix::process::Signal;
use rustix::system::RebootCommand;

use crate::agent::Agent;
use crate::init_line::Level;
use crate::log;

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

/// Ends every process and delivers what they wrote. Only PID 1 of a VM may call it.
pub async fn end_processes(agent: &Agent, how: Shutdown) {
    if how == Shutdown::Graceful && !agent.processes.running().is_empty() {
        signal_all(Signal::TERM);
        let ended = async {
            while !agent.processes.running().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(GRACE, ended).await.is_err() {
            agent.log.add(Level::Warning, "processes did not end when asked", &[("waited", &format!("{GRACE:?}"))]);
        }
    }
    signal_all(Signal::KILL);
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

fn signal_all(signal: Signal) {
    // The "group" of PID 1 is -1 to the system call: all but this process and the kernel's. There may be none.
    let _ = rustix::process::kill_process_group(rustix::process::Pid::INIT, signal);
}

/// Syncs and powers the VM off.
pub fn power_off() -> ! {
    rustix::fs::sync();
    if let Err(e) = rustix::system::reboot(RebootCommand::PowerOff) {
        log::console(format_args!("cannot power off: {e}"));
    }
    // The end of PID 1 is a kernel panic, which ends the VM too.
    std::process::exit(1)
}
