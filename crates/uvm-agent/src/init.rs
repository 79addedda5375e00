//! PID 1 of a VM, from its first instruction to power-off.

use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::agent::Agent;
use crate::boot;
use crate::bridge;
use crate::carrier::{self, Carrier};
use crate::cpus;
use crate::failure::{Fatal, with_causes};
use crate::flags::{AgentFlags, Level};
use crate::host_link;
use crate::init_line::{InitLine, Program};
use crate::kmsg;
use crate::link::Link;
use crate::log::{self, Log};
use crate::log_out;
use crate::modules::{self, Modules};
use crate::process::Reap;
use crate::runtime;
use crate::settings;
use crate::shutdown;
use crate::standard_streams::StandardStreams;
use crate::transports::Transports;

/// Runs the VM; returns only by ending it.
pub fn run(arguments: &[String]) -> ! {
    std::panic::set_hook(Box::new(|panic| log::console(format_args!("panic: {panic}"))));
    match runtime::run(live(arguments)) {
        Ok(()) => shutdown::power_off(),
        Err(fatal) => {
            log::console(fatal);
            // The end of PID 1 is a kernel panic: the host sees it at once, and the line above on the console.
            std::process::exit(1)
        }
    }
}

async fn live(arguments: &[String]) -> Result<(), Fatal> {
    let orders = InitLine::parse(arguments).map_err(|e| Fatal::new("kernel command line", e))?;
    let flags = match &orders.program {
        Program::Agent(flags) => flags.clone(),
        Program::Other(_) => AgentFlags::default(),
    };
    let log = Log::new(&flags);
    boot::mount_all(&log).map_err(|e| Fatal::new("boot", e))?;
    close_on_exec();
    let modules = Arc::new(Modules::read(Path::new(modules::INDEX)).map_err(|e| Fatal::new("boot", e))?);
    modules.load("boot").map_err(|e| Fatal::new("boot", e))?;
    boot::furnish(&log);
    let ready = cpus::bring_online(log.clone());
    let agent = Agent::new(Reap::All, log.clone(), ready).map_err(|e| Fatal::new("cannot start a thread", e))?;
    let agent = Arc::new(agent.with_modules(Arc::clone(&modules)));
    agent.processes().reap_on_signals().map_err(|e| Fatal::new("cannot watch children", e))?;

    let carrier = carrier::find(&modules, &log).await.map_err(|e| Fatal::new("the way to the host", e))?;
    let transports = Transports::new(log.clone());
    let link = match carrier {
        Carrier::Serial(port) => {
            Link::Mux(transports.add(port).map_err(|e| Fatal::new("the serial port to the host", e))?)
        }
        Carrier::VirtualSockets => Link::virtual_sockets(),
    };
    if let Some(port) = orders.entropy_port {
        tokio::spawn(host_link::read_entropy(link.clone(), port, log.clone()));
    }
    tokio::spawn(kmsg::forward(log.clone(), flags.kmsg_level));
    load_later(modules, log.clone());
    match orders.program {
        Program::Agent(_) => {
            settings::apply(&flags, &log);
            let streams = StandardStreams::new(orders.streams, &flags);
            let log_port = begin_log(&flags, &streams, &link, &log)?;
            let bridge = if flags.bridge_on_stdio {
                link.up().await.map_err(|e| Fatal::new("the bridge", e))?;
                if let Some(port) = log_port {
                    tokio::spawn(log_out::send(link.clone(), port, log.clone(), Arc::default()));
                }
                let bridge = streams.bridge(&link).await.map_err(|e| Fatal::new("the bridge", e))?;
                tokio::spawn(bridge::serve_once(Arc::clone(&agent), link, bridge))
            } else {
                tokio::spawn(transports.clone().serve(Arc::clone(&agent), link, log_port))
            };
            shutdown::when_wanted(&agent, bridge).await;
        }
        Program::Other(command) => {
            // It has its ports to itself.
            tokio::spawn(log_out::print(log.clone()));
            crate::other::run(&agent, &link, &command, orders.streams).await;
        }
    }
    // Streams that carried something are closed now; this waits until the host's end has taken what is on its way.
    if tokio::time::timeout(shutdown::FAREWELL, transports.quiesce()).await.is_err() {
        log::console("the host did not take all that was sent");
    }
    Ok(())
}

/// Lets the log go where the flags say. Gives the port that it is to be sent to, if it is to be sent.
fn begin_log(flags: &AgentFlags, streams: &StandardStreams, link: &Link, log: &Log) -> Result<Option<u32>, Fatal> {
    let hold = |port: u32| drop(tokio::spawn(host_link::hold(link.clone(), port, log.clone())));
    streams.unused().into_iter().for_each(hold);
    match (&flags.log_file, streams.log()) {
        (Some(path), port) => {
            let file = log_out::open(path).map_err(|e| Fatal::new(format_args!("log file {}", path.display()), e))?;
            tokio::spawn(log_out::write(file, log.clone()));
            port.into_iter().for_each(hold);
            Ok(None)
        }
        (None, Some(port)) => Ok(Some(port)),
        (None, None) => {
            tokio::spawn(log_out::print(log.clone()));
            Ok(None)
        }
    }
}

/// What the kernel gave PID 1 as standard streams is not for its children.
fn close_on_exec() {
    for fd in [std::io::stdin().as_fd(), std::io::stdout().as_fd(), std::io::stderr().as_fd()] {
        if let Err(e) = rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC) {
            log::console(format_args!("descriptor {} stays open in children: {e}", fd.as_raw_fd()));
        }
    }
}

/// What the VM has besides its transport and can wait for.
/// Devices for virtual sockets may be plugged in at any time.
const LATER: [&str; 6] = ["vsock", "pvpanic", "balloon", "rng", "scsi", "power"];
/// Programs that the host starts at once come first.
const LATER_AFTER: Duration = Duration::from_secs(2);

fn load_later(modules: Arc<Modules>, log: Log) {
    tokio::spawn(async move {
        tokio::time::sleep(LATER_AFTER).await;
        let load = move || {
            for group in LATER {
                if let Err(e) = modules.load(group) {
                    log.add(Level::Warning, "a feature is missing", &[("group", &group), ("error", &with_causes(&e))]);
                }
            }
        };
        if let Err(e) = tokio::task::spawn_blocking(load).await {
            log::console(format_args!("loading modules: {e}"));
        }
    });
}
