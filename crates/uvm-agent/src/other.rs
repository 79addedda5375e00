//! A program in the agent's place: what the kernel's command line names instead of the agent.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::watch;
use uvm_mux::{MuxReadHalf, MuxWriteHalf};

use crate::agent::Agent;
use crate::failure::with_causes;
use crate::flags::Level;
use crate::link::{self, Link, Stream};
use crate::relay;
use crate::shutdown::FAREWELL;
use crate::sys::{Spawn, Stdio};

/// Runs `command` with its standard streams on the given ports (input, output, error), and waits for its end and for its
/// output to be read.
pub(crate) async fn run(agent: &Agent, link: &Link, command: &[String], ports: [Option<u32>; 3]) {
    if let Err(e) = try_run(agent, link, command, ports).await {
        let cause = e.get_ref().map_or_else(|| e.to_string(), |e| with_causes(e));
        agent.log.add(Level::Error, format_args!("cannot run {command:?}"), &[("error", &cause)]);
        crate::log::console(format_args!("cannot run {command:?}: {cause}"));
    }
    agent.relays.idle().await;
}

async fn try_run(agent: &Agent, link: &Link, command: &[String], ports: [Option<u32>; 3]) -> io::Result<()> {
    let strings: Vec<CString> = command.iter().map(|word| CString::new(word.as_str())).collect::<Result<_, _>>()?;
    let program = strings.first().ok_or(io::ErrorKind::InvalidInput)?;
    link.up().await.map_err(io::Error::other)?;
    // A port has one stream, however often it is named.
    let mut places: BTreeMap<u32, [bool; 3]> = BTreeMap::new();
    for (place, port) in ports.into_iter().enumerate().filter_map(|(place, port)| Some((place, port?))) {
        places.entry(port).or_default()[place] = true;
    }
    let mut given = Vec::new();
    for (port, places) in places {
        let stream = link.dial(port).await.map_err(io::Error::other)?;
        given.push((places, Given::new(stream, places)?));
    }
    let mut descriptors = [None; 3];
    for (places, given) in &given {
        for (place, descriptor) in descriptors.iter_mut().enumerate().filter(|(place, _)| places[*place]) {
            *descriptor = given.descriptor(place);
        }
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
    let sockets: Vec<OwnedFd> = given.into_iter().filter_map(|(_, given)| given.begin(agent)).collect();
    let exit = agent.processes.wait(id, None).await;
    agent.log.add(Level::Info, format_args!("program ended: {exit:?}"), &[]);
    for socket in sockets {
        // What it wrote may be on its way, and the VM ends next.
        let _ = tokio::time::timeout(FAREWELL, farewell(socket)).await;
    }
    Ok(())
}

/// Ends what is sent, and waits until the host closes its end too: then it has read everything.
async fn farewell(socket: OwnedFd) -> io::Result<()> {
    let socket = std::os::unix::net::UnixStream::from(socket);
    socket.set_nonblocking(true)?;
    let mut socket = UnixStream::from_std(socket)?;
    socket.shutdown().await?;
    tokio::io::copy(&mut socket, &mut tokio::io::sink()).await?;
    Ok(())
}

/// What the program is given for one port.
enum Given {
    /// The stream, which is a descriptor itself.
    Socket(OwnedFd),
    /// Pipes, which relays join with the halves of the stream.
    Pipes { read: MuxReadHalf, write: MuxWriteHalf, input: Option<Pipe>, output: Option<Pipe> },
}

/// Our end of a pipe, which never blocks, and the program's.
struct Pipe {
    ours: OwnedFd,
    theirs: OwnedFd,
}

impl Given {
    fn new(stream: Stream, [input, output, error]: [bool; 3]) -> io::Result<Self> {
        let stream = match stream {
            Stream::Socket(socket) => return link::into_descriptor(socket).map(Self::Socket),
            Stream::Mux(stream) => stream,
        };
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
        let input = input.then(pipe).transpose()?.map(|(theirs, ours)| Pipe { ours, theirs });
        let output = (output || error).then(pipe).transpose()?.map(|(ours, theirs)| Pipe { ours, theirs });
        for pipe in input.iter().chain(&output) {
            relay::non_blocking(&pipe.ours)?;
        }
        let (read, write) = stream.into_split();
        Ok(Self::Pipes { read, write, input, output })
    }

    /// What stands at this place of the program's descriptors.
    fn descriptor(&self, place: usize) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Socket(socket) => Some(socket.as_fd()),
            Self::Pipes { input, output, .. } => {
                let pipe = if place == 0 { input } else { output };
                pipe.as_ref().map(|pipe| pipe.theirs.as_fd())
            }
        }
    }

    /// The program runs: relays begin, or there is a socket that it shares with us.
    fn begin(self, agent: &Agent) -> Option<OwnedFd> {
        let (read, write, input, output) = match self {
            Self::Socket(socket) => return Some(socket),
            Self::Pipes { read, write, input, output } => (read, write, input, output),
        };
        // A half without a pipe is kept as long as the other one: without it the stream would end.
        let (read_unused, write_unused) = (input.is_none(), output.is_none());
        let (mut read, mut write) = (Some(read), Some(write));
        if let Some(input) = input
            && let Some(from) = read.take()
        {
            let kept = write.take_if(|_| write_unused);
            agent.relays.spawn("program input", async move {
                let _kept = kept;
                relay::inwards(from, input.ours).await
            });
        }
        if let Some(output) = output
            && let Some(to) = write.take()
        {
            let kept = read.take_if(|_| read_unused);
            agent.relays.spawn("program output", async move {
                let _kept = kept;
                relay::outwards(output.ours, to).await
            });
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::sync::oneshot;

    use super::*;
    use crate::flags::AgentFlags;
    use crate::log::Log;
    use crate::process::Reap;
    use crate::test_link;

    fn agent() -> Agent {
        let (_, ready) = oneshot::channel();
        let agent = Agent::new(Reap::Known, Log::new(&AgentFlags::default()), ready).expect("an agent");
        agent.processes().reap_on_signals().expect("watched");
        agent
    }

    #[tokio::test]
    async fn its_streams_are_where_the_line_says_and_end_with_it() {
        let command = ["/bin/sh", "-c", "cat; echo wrong >&2"].map(str::to_owned);
        for (host, link) in test_link::each().await {
            let agent = agent();
            let (mut input, mut both) = (host.listen(7), host.listen(8));
            let playing_host = async {
                let (mut input, mut both) = tokio::join!(input.accept(), both.accept());
                input.write_all(b"typed\n").await.expect("written");
                input.shutdown().await.expect("half-closed");
                let mut text = String::new();
                both.read_to_string(&mut text).await.expect("read");
                text
            };
            let (text, ()) = tokio::join!(playing_host, run(&agent, &link, &command, [Some(7), Some(8), Some(8)]));
            assert_eq!(text, "typed\nwrong\n");
        }
    }

    #[tokio::test]
    async fn what_cannot_run_is_an_entry_of_the_log() {
        for (host, link) in test_link::each().await {
            let agent = agent();
            let mut listener = host.listen(8);
            let missing = ["/no/such/program".to_owned()];
            let ((), _output) = tokio::join!(run(&agent, &link, &missing, [None, Some(8), None]), listener.accept());
            let entry = agent.log.try_next().expect("an entry");
            assert!(entry.contains("/no/such/program") && entry.contains("No such file"), "{entry}");
            run(&agent, &link, &["/bin/true".to_owned()], [None, Some(9), None]).await;
            let entry = agent.log.try_next().expect("an entry");
            assert!(entry.contains("port 9 of the host"), "{entry}");
        }
    }
}
