//! The agent under an init that is not this project's: started as `/bin/gcs` with the original's flags.
//!
//! It then leaves mounts, modules, processors and orphans to that init, logs to standard error, and talks to the host over
//! virtual sockets. What it shares with PID 1 is everything else, the end of the VM included.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::sync::oneshot;

use crate::agent::Agent;
use crate::bridge;
use crate::failure::Fatal;
use crate::flags::AgentFlags;
use crate::kmsg;
use crate::link::Link;
use crate::log::Log;
use crate::log_out;
use crate::process::Reap;
use crate::runtime;
use crate::settings;
use crate::shutdown::{self, FAREWELL};
use crate::standard_streams::StandardStreams;

/// Serves the VM with these flags; returns only by ending the VM or this process.
pub fn run(arguments: &[String]) -> ! {
    let flags = match AgentFlags::parse(arguments.iter().map(String::as_str)) {
        Ok(flags) => flags,
        Err(e) => {
            eprintln!("{e}");
            std::process::exit(2)
        }
    };
    match runtime::run(live(&flags)) {
        Ok(End::OfTheVm) => shutdown::power_off(),
        Ok(End::OfTheBridge) => std::process::exit(0),
        Err(fatal) => {
            eprintln!("gcs: {fatal}");
            std::process::exit(1)
        }
    }
}

/// What has come to its end.
enum End {
    /// The host wants it so.
    OfTheVm,
    /// It was on standard input and output, and cannot be dialled again.
    OfTheBridge,
}

async fn live(flags: &AgentFlags) -> Result<End, Fatal> {
    let log = Log::new(flags);
    let file = if let Some(path) = &flags.log_file {
        log_out::open(path).map_err(|e| Fatal::new(format_args!("log file {}", path.display()), e))?
    } else {
        let error = std::io::stderr().as_fd().try_clone_to_owned();
        File::from(error.map_err(|e| Fatal::new("standard error", e))?)
    };
    tokio::spawn(log_out::write(file, log.clone()));
    settings::apply(flags, &log);

    // That init has made the guest complete.
    let (ready, is_ready) = oneshot::channel();
    drop(ready);
    let agent = Agent::new(Reap::Known, log.clone(), is_ready).map_err(|e| Fatal::new("cannot start a thread", e))?;
    let agent = Arc::new(agent);
    agent.processes().reap_on_signals().map_err(|e| Fatal::new("cannot watch children", e))?;
    tokio::spawn(kmsg::forward(log.clone(), flags.kmsg_level));

    let link = Link::virtual_sockets();
    let bridge = if flags.bridge_on_stdio {
        let streams = StandardStreams::new([None; 3], flags);
        let bridge = streams.bridge(&link).await.map_err(|e| Fatal::new("the bridge", e))?;
        tokio::spawn(bridge::serve_once(Arc::clone(&agent), link, bridge))
    } else {
        // A kernel without them will not get them, and then nobody could tell why nothing happens.
        rustix::net::socket_with(AddressFamily::VSOCK, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(|e| Fatal::new("this kernel has no virtual sockets, on which the host is dialled", e))?;
        tokio::spawn(bridge::serve(Arc::clone(&agent), link))
    };
    let end = if shutdown::when_wanted(&agent, bridge).await { End::OfTheVm } else { End::OfTheBridge };
    // Whoever does not read it loses the rest.
    let _ = tokio::time::timeout(FAREWELL, log.all_written()).await;
    Ok(end)
}
