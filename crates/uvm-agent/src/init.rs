//! PID 1 of a VM, from its first instruction to power-off.

use std::fmt::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use uvm_mux::Mux;

use crate::agent::Agent;
use crate::boot;
use crate::cpus;
use crate::host_link;
use crate::init_line::{AgentFlags, InitLine, Level, Program};
use crate::kmsg;
use crate::log::{self, Log};
use crate::modules::{self, Modules};
use crate::port;
use crate::process::Reap;
use crate::shutdown;
use crate::transports::Transports;

/// Runs the VM; returns only by ending it.
pub fn run(arguments: &[String]) -> ! {
    std::panic::set_hook(Box::new(|panic| log::console(format_args!("panic: {panic}"))));
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Fatal::new("cannot make a runtime", e))
        .and_then(|runtime| runtime.block_on(live(arguments)));
    match outcome {
        Ok(()) => shutdown::power_off(),
        Err(fatal) => {
            log::console(fatal);
            // The end of PID 1 is a kernel panic: the host sees it at once, and the line above on the console.
            std::process::exit(1)
        }
    }
}

/// The VM cannot go on. The text names the step and its cause.
struct Fatal(String);

impl Fatal {
    fn new(step: impl fmt::Display, cause: impl std::error::Error) -> Self {
        let mut text = format!("{step}: {cause}");
        let mut source = cause.source();
        while let Some(cause) = source {
            let _ = write!(text, ": {cause}");
            source = cause.source();
        }
        Self(text)
    }
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

async fn live(arguments: &[String]) -> Result<(), Fatal> {
    let line = InitLine::parse(arguments).map_err(|e| Fatal::new("kernel command line", e))?;
    let flags = match &line.program {
        Program::Agent(flags) => flags.clone(),
        Program::Other(_) => AgentFlags::default(),
    };
    let log = Log::new(&flags);
    boot::mount_all(&log).map_err(|e| Fatal::new("boot", e))?;
    close_on_exec();
    let modules = Modules::read(Path::new(modules::INDEX)).map_err(|e| Fatal::new("boot", e))?;
    modules.load("boot").map_err(|e| Fatal::new("boot", e))?;
    if boot::has_virtual_sockets()
        && let Err(e) = modules.load("vsock")
    {
        log.error("virtual sockets cannot be used", &e);
    }
    boot::furnish(&log);
    let ready = cpus::bring_online(log.clone());
    let agent = Arc::new(Agent::new(Reap::All, log.clone(), ready));
    let mut children = signal(SignalKind::child()).map_err(|e| Fatal::new("cannot watch children", e))?;
    tokio::spawn({
        let processes = agent.processes().clone();
        async move {
            while children.recv().await.is_some() {
                processes.reap();
            }
        }
    });

    let port = port::open().await.map_err(|e| Fatal::new("the serial port to the host", e))?;
    let transports = Transports::new(log.clone());
    let mux = transports.add(port).map_err(|e| Fatal::new("the serial port to the host", e))?;
    if let Some(port) = line.entropy_port {
        tokio::spawn(host_link::read_entropy(mux.clone(), port, log.clone()));
    }
    // A program in the agent's place has these ports to itself.
    let is_agent = matches!(line.program, Program::Agent(_));
    let log_port = line.streams[1].or(line.streams[2]).filter(|_| is_agent);
    if log_port.is_none() {
        tokio::spawn(host_link::print_log(log.clone()));
    }
    tokio::spawn({
        let log = log.clone();
        async move {
            if let Err(e) = kmsg::forward(log.clone(), flags.kmsg_level).await {
                log.error("kernel messages are not forwarded", &e);
            }
        }
    });
    load_later(modules, log.clone());
    match line.program {
        Program::Agent(_) => serve(agent, &transports, mux, log_port).await,
        Program::Other(command) => crate::other::run(&agent, &mux, &command, line.streams).await,
    }
    // Streams that carried something are closed now; this waits until the host's end has taken what is on its way.
    if tokio::time::timeout(FAREWELL, transports.quiesce()).await.is_err() {
        log::console("the host did not take all that was sent");
    }
    Ok(())
}

async fn serve(agent: Arc<Agent>, transports: &Transports, first: Mux, log_port: Option<u32>) {
    let bridge = tokio::spawn(transports.clone().serve(Arc::clone(&agent), first, log_port));
    let how = agent.shutdown_wanted().await;
    shutdown::end_processes(&agent, how).await;
    agent.last_call();
    if tokio::time::timeout(FAREWELL, bridge).await.is_err() {
        log::console("the host did not take the last answers");
    }
}

/// How long the host may take to read what is left, at each of the last steps.
const FAREWELL: Duration = Duration::from_secs(2);

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

fn load_later(modules: Modules, log: Log) {
    tokio::spawn(async move {
        tokio::time::sleep(LATER_AFTER).await;
        let load = move || {
            for group in LATER {
                if let Err(e) = modules.load(group) {
                    let cause = std::error::Error::source(&e).map(ToString::to_string).unwrap_or_default();
                    log.add(Level::Warning, &e, &[("group", &group), ("error", &cause)]);
                }
            }
        };
        if let Err(e) = tokio::task::spawn_blocking(load).await {
            log::console(format_args!("loading modules: {e}"));
        }
    });
}
