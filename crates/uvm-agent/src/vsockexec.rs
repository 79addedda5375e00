//! `/bin/vsockexec [-i PORT] [-o PORT] [-e PORT] PROGRAM ARGUMENTS...`: connects standard streams to ports of the host and
//! becomes the program. PID 1 of this project needs none, but an init of others may call it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::failure::Fatal;
use crate::init_line::ExecLine;
use crate::link::{self, Link, Stream};

/// Connects and becomes the program. Returns only by ending this process, where that cannot be done.
pub fn run(arguments: &[String]) -> ! {
    let outcome = ExecLine::parse(arguments).map_err(|e| Fatal::new("the command line", e)).and_then(|line| {
        connect(&Link::virtual_sockets(), line.streams)?;
        Ok(line)
    });
    let fatal = match outcome {
        Ok(line) => {
            let (program, arguments) = line.command.split_first().map_or(("", &[][..]), |(p, a)| (p.as_str(), a));
            Fatal::new(format_args!("cannot become {program:?}"), Command::new(program).args(arguments).exec())
        }
        Err(fatal) => fatal,
    };
    eprintln!("vsockexec: {fatal}");
    std::process::exit(1)
}

/// Puts streams to these ports in the place of input, output and error. A port has one stream, however often it is named.
fn connect(link: &Link, ports: [Option<u32>; 3]) -> Result<(), Fatal> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Fatal::new("cannot make a runtime", e))?;
    let streams = runtime.block_on(dial(link, ports))?;
    let [input, output, error] = ports.map(|port| port.and_then(|port| streams.get(&port)));
    let put = || {
        input.map(rustix::stdio::dup2_stdin).transpose()?;
        output.map(rustix::stdio::dup2_stdout).transpose()?;
        error.map(rustix::stdio::dup2_stderr).transpose()
    };
    put().map(drop).map_err(|e| Fatal::new("cannot put a stream in its place", e))
}

async fn dial(link: &Link, ports: [Option<u32>; 3]) -> Result<BTreeMap<u32, OwnedFd>, Fatal> {
    let mut streams = BTreeMap::new();
    for port in ports.into_iter().flatten() {
        if let Entry::Vacant(place) = streams.entry(port) {
            let stream = link.dial(port).await.map_err(|e| Fatal::new("a standard stream", e))?;
            let descriptor = match stream {
                Stream::Socket(socket) => link::into_descriptor(socket),
                // A program cannot hold a stream that this process would have to carry.
                Stream::Mux(_) => Err(io::ErrorKind::Unsupported.into()),
            };
            place.insert(descriptor.map_err(|e| Fatal::new("a standard stream", e))?);
        }
    }
    Ok(streams)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use tokio::net::UnixListener;

    use super::*;
    use crate::test_link;

    #[tokio::test]
    async fn a_port_has_one_stream_however_often_it_is_named() {
        let (link, dir) = test_link::sockets();
        let listen = |port: u32| UnixListener::bind(dir.path().join(port.to_string())).expect("free");
        let (both, input) = (listen(109), listen(7));
        let mut streams =
            dial(&link, [Some(7), Some(109), Some(109)]).await.map_err(|e| e.to_string()).expect("dialled");
        let accept =
            async |listener: UnixListener| listener.accept().await.expect("accepted").0.into_std().expect("std");
        let mut host = accept(both).await;
        accept(input).await;
        assert_eq!(streams.keys().copied().collect::<Vec<_>>(), [7, 109]);
        // It blocks, as a program expects it.
        let mut guest = UnixStream::from(streams.remove(&109).expect("there"));
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 5];
            guest.read_exact(&mut bytes).map(|()| bytes)
        });
        host.set_nonblocking(false).expect("set");
        host.write_all(b"hello").expect("written");
        assert_eq!(reader.join().expect("joined").expect("read"), *b"hello");
    }

    #[tokio::test]
    async fn a_port_that_nobody_listens_on_is_named() {
        let (link, _dir) = test_link::sockets();
        let error = dial(&link, [None, None, Some(109)]).await.map(drop).map_err(|e| e.to_string());
        assert!(error.expect_err("nobody listens").contains("port 109 of the host: No such file"));
    }
}
