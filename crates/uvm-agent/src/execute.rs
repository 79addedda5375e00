//! Starting a process of the VM: outside any container, as root.
//!
//! Its program and directory may be on a share of the host, whose bytes go by way of this process: so whatever looks at
//! them, the start included, is done on threads of its own.

use std::collections::BTreeMap;
use std::ffi::{CString, NulError};
use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::termios::Winsize;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::sync::watch;
use uvm_mux::MuxStream;
use uvm_wire::execute::{ConsoleSize, ExecuteProcess, ExecuteProcessReply, ProcessParameters, VsockStdio};
use uvm_wire::{Failure, Hresult};

use crate::agent::Agent;
use crate::failure::{with_causes, with_errno};
use crate::link::{self, Link, ReadHalf, Stream, WriteHalf};
use crate::relay;
use crate::sys::{self, Spawn, Stdio};
use crate::words;

/// Where programs are looked for when the environment does not say, and after it.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Dials the streams that are asked for, then starts the process.
pub(crate) async fn execute(agent: &Agent, link: &Link, call: &ExecuteProcess) -> Result<ExecuteProcessReply, Failure> {
    let parameters = &call.settings.parameters;
    let command = {
        let parameters = parameters.clone();
        let looked = tokio::task::spawn_blocking(move || Command::new(&parameters)).await;
        Arc::new(looked.unwrap_or_else(|e| Err(Failure::plain(e)))?)
    };
    let ports = call.settings.vsock_stdio.unwrap_or_default();
    let streams = dial(link, parameters, &ports).await?;
    let started = if parameters.emulate_console {
        in_terminal(agent, &command, parameters.console_size, streams).await
    } else {
        with_streams(agent, &command, streams).await
    };
    let process_id = started.map_err(|e| command.failure(&e))?;
    Ok(ExecuteProcessReply { process_id })
}

/// What is to be run, ready for the system call.
struct Command {
    program: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    directory: CString,
}

impl Command {
    fn new(parameters: &ProcessParameters) -> Result<Self, Failure> {
        let split;
        let words = if parameters.command_args.is_empty() {
            split = words::split(&parameters.command_line).map_err(|e| Failure::wrapping(Hresult::INVALID_JSON, e))?;
            &split
        } else {
            &parameters.command_args
        };
        let Some(name) = words.first() else {
            return Err(Failure::wrapping(
                Hresult::INVALID_JSON,
                "neither CommandArgs nor CommandLine names a program",
            ));
        };
        let zero = |_: NulError| Failure::wrapping(Hresult::INVALID_JSON, "a zero byte in an argument or a variable");
        // From the root: this process might be elsewhere, and the new one goes there before its program is opened.
        let directory = &Path::new("/").join(&parameters.working_directory);
        if let Err(e) =
            std::fs::metadata(directory).and_then(|meta| if meta.is_dir() { Ok(()) } else { Err(Errno::NOTDIR.into()) })
        {
            // The request is wrong: it is not the program that is missing, which the errno alone would say.
            let said = format_args!("working directory {:?}: {e}", directory.to_string_lossy());
            return Err(with_errno(Failure::wrapping(Hresult::INVALID_ARGUMENT, said), &e));
        }
        let program = find(name, &parameters.environment, directory)
            .map_err(|e| with_errno(Failure::plain(format_args!("program {name:?}: {e}")), &e))?;
        let environment = if parameters.environment.is_empty() {
            vec![format!("PATH={PATH}"), "HOME=/root".into()]
        } else {
            parameters.environment.iter().map(|(name, value)| format!("{name}={value}")).collect()
        };
        Ok(Self {
            program: CString::new(program.as_os_str().as_bytes()).map_err(zero)?,
            arguments: words.iter().map(|word| CString::new(word.as_str())).collect::<Result<_, _>>().map_err(zero)?,
            environment: environment.into_iter().map(CString::new).collect::<Result<_, _>>().map_err(zero)?,
            directory: CString::new(directory.as_os_str().as_bytes()).map_err(zero)?,
        })
    }

    fn spawn(&self, stdio: Stdio<'_>) -> io::Result<rustix::process::Pid> {
        sys::spawn(&Spawn {
            program: &self.program,
            arguments: &self.arguments,
            environment: &self.environment,
            directory: &self.directory,
            stdio,
        })
    }

    fn failure(&self, error: &io::Error) -> Failure {
        with_errno(Failure::plain(format_args!("cannot start {}: {error}", self.program.to_string_lossy())), error)
    }
}

/// The program's path: a name with a slash is one, any other is looked for.
fn find(name: &str, environment: &BTreeMap<String, String>, directory: &Path) -> io::Result<PathBuf> {
    if name.contains('/') {
        return check(&directory.join(name));
    }
    let path = environment.get("PATH").map_or("", String::as_str);
    let mut outcome = Err(Errno::NOENT.into());
    for dir in path.split(':').chain(PATH.split(':')).filter(|dir| !dir.is_empty()) {
        match check(&directory.join(dir).join(name)) {
            Ok(found) => return Ok(found),
            // One that may not be run says more than that there is none.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => outcome = Err(e),
            Err(_) => {}
        }
    }
    outcome
}

fn check(path: &Path) -> io::Result<PathBuf> {
    let meta = path.metadata()?;
    if meta.is_dir() || meta.permissions().mode() & 0o111 == 0 {
        return Err(Errno::ACCESS.into());
    }
    Ok(path.to_owned())
}

/// Input, output, error.
type Streams = [Option<Stream>; 3];

/// Dials the streams that are asked for, in this order and without one waiting for the other, until the host has accepted
/// them.
async fn dial(link: &Link, parameters: &ProcessParameters, ports: &VsockStdio) -> Result<Streams, Failure> {
    let dial = async |name: &str, wanted: bool, port: Option<NonZeroU32>| {
        if !wanted {
            return Ok(None);
        }
        let port = port.ok_or_else(|| Failure::plain(format_args!("{name} is asked for, but without a port")))?;
        let dialled = link.dial(port.get()).await;
        dialled.map(Some).map_err(|e| Failure::plain(format_args!("{name}: {}", with_causes(&e))))
    };
    let (stdin, stdout, stderr) = tokio::try_join!(
        dial("stdin", parameters.create_stdin_pipe, ports.stdin),
        dial("stdout", parameters.create_stdout_pipe, ports.stdout),
        dial("stderr", parameters.create_stderr_pipe, ports.stderr),
    )?;
    Ok([stdin, stdout, stderr])
}

/// Starts the process with the streams as its descriptors. Those that were not asked for are closed in it, over either
/// carrier, as the originals do it.
async fn with_streams(agent: &Agent, command: &Arc<Command>, streams: Streams) -> io::Result<u32> {
    let [stdin, stdout, stderr] = streams;
    let give = |stream: Option<Stream>, end| stream.map(|stream| give(stream, end)).transpose();
    let (stdin, first) = give(stdin, End::Write)?.unzip();
    let (stdout, second) = give(stdout, End::Read)?.unzip();
    let (stderr, third) = give(stderr, End::Read)?.unzip();
    let theirs = [first, second, third];
    // Nothing has to be drained before the end is told: the streams go on by themselves.
    let (_, drained) = watch::channel(true);
    let command = Arc::clone(command);
    let spawn = move || command.spawn(Stdio::Descriptors(theirs.each_ref().map(|fd| fd.as_ref().map(OwnedFd::as_fd))));
    let id = agent.processes.start_apart(None, drained, spawn).await?;
    if let Some(Joined { stream, ours }) = stdin.flatten() {
        agent.relays.spawn("stdin", relay_in(stream, ours));
    }
    for (name, output) in [("stdout", stdout), ("stderr", stderr)] {
        if let Some(Joined { stream, ours }) = output.flatten() {
            agent.relays.spawn(name, relay_out(stream, ours));
        }
    }
    Ok(id)
}

/// A stream, and our end of the pipe that joins it with a process, which never blocks.
struct Joined {
    stream: MuxStream,
    ours: OwnedFd,
}

/// What a process is given for a stream: a pipe, which a relay joins with the stream; or the stream itself, where that is a
/// socket, whose both ends the process and the host then hold, and nobody in between. `end` is the end of a pipe that is ours.
fn give(stream: Stream, end: End) -> io::Result<(Option<Joined>, OwnedFd)> {
    let stream = match stream {
        Stream::Mux(stream) => stream,
        Stream::Socket(socket) => return Ok((None, link::into_descriptor(socket)?)),
    };
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let (ours, theirs) = match end {
        End::Read => (read, write),
        End::Write => (write, read),
    };
    relay::non_blocking(&ours)?;
    Ok((Some(Joined { stream, ours }), theirs))
}

/// Which end of the pipe is ours.
#[derive(Clone, Copy)]
enum End {
    Read,
    Write,
}

async fn relay_in(stream: MuxStream, to: OwnedFd) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let result = relay::inwards(read, to).await;
    // The host sees here that nobody reads its input any more.
    write.shutdown().await?;
    result
}

async fn relay_out(stream: MuxStream, from: OwnedFd) -> io::Result<()> {
    let (_read, write) = stream.into_split();
    relay::outwards(from, write).await
}

async fn in_terminal(
    agent: &Agent,
    command: &Arc<Command>,
    size: Option<ConsoleSize>,
    streams: Streams,
) -> io::Result<u32> {
    let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY | rustix::pty::OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags)?;
    rustix::pty::grantpt(&master)?;
    rustix::pty::unlockpt(&master)?;
    let name = rustix::pty::ptsname(&master, Vec::new())?;
    let size = size.unwrap_or(ConsoleSize { height: 24, width: 80 });
    let window = Winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&master, window)?;
    relay::non_blocking(&master)?;
    let master = Arc::new(master);
    let relayed = Arc::new(sys::watch(Arc::clone(&master), Interest::READABLE | Interest::WRITABLE)?);
    let (drained_sender, drained) = watch::channel(false);
    let command = Arc::clone(command);
    let spawn = move || command.spawn(Stdio::Terminal(&name));
    let id = agent.processes.start_apart(Some(master), drained, spawn).await?;
    let [stdin, stdout, stderr] = streams;
    // A terminal has one output.
    drop(stderr);
    let exit = agent.processes.follow(id);
    if let Some(stream) = stdin {
        let (read, write) = stream.into_split();
        let terminal = Arc::clone(&relayed);
        agent.relays.spawn("terminal input", async move {
            let ended = async {
                if let Some(mut exit) = exit {
                    drop(exit.wait_for(Option::is_some).await);
                }
            };
            tokio::select! {
                result = typed(read, &terminal) => result,
                () = ended => end_input(write).await,
            }
        });
    }
    let output = stdout.map(|stream| stream.into_split().1);
    agent.relays.spawn("terminal output", async move {
        let result = match output {
            Some(write) => {
                let result = relay::outwards_from_terminal(&relayed, write).await;
                if result.is_err() {
                    // The host reads no more, but its processes write on: a terminal has no way to tell them.
                    relay::swallow(&relayed).await?;
                }
                result
            }
            None => relay::swallow(&relayed).await,
        };
        // Nobody may be waiting for the process.
        let _ = drained_sender.send(true);
        result
    });
    Ok(id)
}

/// What the user types. The end of it is not the end of the terminal, so this never returns but by an error.
async fn typed(read: ReadHalf, terminal: &AsyncFd<Arc<OwnedFd>>) -> io::Result<()> {
    relay::inwards_to_terminal(read, terminal).await?;
    std::future::pending().await
}

async fn end_input(mut write: WriteHalf) -> io::Result<()> {
    write.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(args: &[&str]) -> ProcessParameters {
        ProcessParameters { command_args: args.iter().map(|&arg| arg.to_owned()).collect(), ..Default::default() }
    }

    #[test]
    fn a_command_without_a_program_does_not_decode() {
        for line in ["", "  ", "'unfinished"] {
            let parameters = ProcessParameters { command_line: line.into(), ..Default::default() };
            let failure = Command::new(&parameters).map(|_| ()).expect_err(line);
            assert_eq!(failure.result, Hresult::INVALID_JSON, "{line:?}");
        }
        let zero = Command::new(&parameters(&["/bin/sh", "a\0b"])).map(|_| ()).expect_err("a zero byte");
        assert_eq!(zero.result, Hresult::INVALID_JSON);
    }

    #[test]
    fn what_is_missing_is_named_with_its_errno() {
        let failure = |parameters: &ProcessParameters| {
            let failure = Command::new(parameters).map(|_| ()).expect_err("something is missing");
            (failure.result, failure.errno, failure.message)
        };
        let (result, errno, message) = failure(&parameters(&["no-such-program"]));
        assert_eq!((result, errno), (Hresult::FAIL, Some(2)));
        assert!(message.contains("no-such-program") && message.contains("No such file"), "{message}");
        let (_, errno, message) = failure(&parameters(&["/etc/passwd"]));
        assert_eq!(errno, Some(13), "{message}");
        let elsewhere = ProcessParameters { working_directory: "/nonexistent".into(), ..parameters(&["/bin/sh"]) };
        let (result, errno, message) = failure(&elsewhere);
        assert_eq!((result, errno), (Hresult::INVALID_ARGUMENT, Some(2)));
        assert!(message.contains("working directory \"/nonexistent\""), "{message}");
        let file = ProcessParameters { working_directory: "/etc/passwd".into(), ..parameters(&["/bin/sh"]) };
        let (result, errno, _) = failure(&file);
        assert_eq!((result, errno), (Hresult::INVALID_ARGUMENT, Some(20)));
    }

    #[test]
    fn programs_are_found_as_a_shell_finds_them() {
        let dir = tempfile::tempdir().expect("a directory");
        let program = dir.path().join("program");
        std::fs::write(&program, "").expect("written");
        let environment = BTreeMap::from([("PATH".to_owned(), dir.path().display().to_string())]);
        let find = |name: &str| find(name, &environment, dir.path()).map_err(|e| e.kind());
        assert_eq!(find("program"), Err(io::ErrorKind::PermissionDenied));
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("changed");
        assert_eq!(find("program"), Ok(program.clone()));
        assert_eq!(find("./program").map(|path| path.canonicalize().expect("there")), Ok(program));
        assert_eq!(find("sh").map(|path| path.file_name().map(ToOwned::to_owned)), Ok(Some("sh".into())));
        assert_eq!(find("nothing"), Err(io::ErrorKind::NotFound));
        assert_eq!(find("/tmp/"), Err(io::ErrorKind::PermissionDenied), "a directory");
    }
}
