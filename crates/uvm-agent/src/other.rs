//! A program in the agent's place: what the kernel's command line names instead of the agent.

use std::ffi::CString;
use std::os::fd::AsFd;

use tokio::sync::watch;
use uvm_mux::{Mux, MuxStream};

use crate::agent::Agent;
use crate::init_line::Level;
use crate::relay;
use crate::sys::{Spawn, Stdio};

/// Runs `command` with its standard streams on the given ports (input, output, error), and waits for its end and for its
/// output to be read.
pub(crate) async fn run(agent: &Agent, mux: &Mux, command: &[String], ports: [Option<u32>; 3]) {
    if let Err(e) = try_run(agent, mux, command, ports).await {
        agent.log.add(Level::Error, format_args!("cannot run {command:?}"), &[("error", &e)]);
        crate::log::console(format_args!("cannot run {command:?}: {e}"));
    }
    agent.relays.idle().await;
}

async fn try_run(agent: &Agent, mux: &Mux, command: &[String], ports: [Option<u32>; 3]) -> std::io::Result<()> {
    let strings: Vec<CString> = command.iter().map(|word| CString::new(word.as_str())).collect::<Result<_, _>>()?;
    let program = strings.first().ok_or(std::io::ErrorKind::InvalidInput)?;
    mux.up().await.map_err(std::io::Error::other)?;
    let mut pipes = Vec::new();
    for (index, port) in ports.into_iter().enumerate().filter_map(|(index, port)| Some((index, port?))) {
        let stream: MuxStream = mux.dial(port).await.map_err(std::io::Error::other)?;
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let (ours, theirs) = if index == 0 { (write, read) } else { (read, write) };
        relay::non_blocking(&ours)?;
        pipes.push((index, stream, ours, theirs));
    }
    let mut descriptors = [None; 3];
    for (index, _, _, theirs) in &pipes {
        descriptors[*index] = Some(theirs.as_fd());
    }
    let environment = [c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()];
    let spawn = Spawn {
        program,
        arguments: &strings,
        environment: &environment,
        directory: c"/",
        stdio: Stdio::Descriptors(descriptors),
    };
    let (_, drained) = watch::channel(true);
    let id = agent.processes.start(None, drained, || crate::sys::spawn(&spawn))?;
    for (index, stream, ours, theirs) in pipes {
        drop(theirs);
        let (read, write) = stream.into_split();
        if index == 0 {
            agent.relays.spawn("program input", async move {
                let _write = write;
                relay::inwards(read, ours).await
            });
        } else {
            agent.relays.spawn("program output", async move {
                let _read = read;
                relay::outwards(ours, write).await
            });
        }
    }
    let exit = agent.processes.wait(id, None).await;
    agent.log.add(Level::Info, format_args!("program ended: {exit:?}"), &[]);
    Ok(())
}
