//! The guest of a VM: it dials the host for entropy, the log and the bridge, and serves the bridge.
//!
//! It has no programs but a few that it plays, by the first word of what a process is to run:
//!
//! | word | what it does |
//! | --- | --- |
//! | `echo`, `complain` | writes its arguments and a line end, on standard output or error |
//! | `cat` | writes what it reads |
//! | `exit` | exits with this code |
//! | `sleep` | waits for a signal |
//! | `listen` | listens on this port for the host, and gives each stream back what it sends |
//! | `dial` | dials this port of the host, and sends the other arguments and a line end |
//! | `crash`, `disconnect` | once its input has ended, has the VM end unexpectedly, or the compute service |
//!
//! A shell (`sh -c`) runs one of these.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use uvm_wire::call::Done;
use uvm_wire::execute::{ExecuteProcess, ExecuteProcessReply};
use uvm_wire::modify::ModifySettings;
use uvm_wire::negotiate::{Capabilities, GuestDefinedCapabilities, NegotiateProtocol, NegotiateProtocolReply};
use uvm_wire::ports::{BRIDGE_PORT, ENTROPY_PORT, LOG_PORT, vsock_service};
use uvm_wire::process::{SignalProcess, WaitForProcess, WaitForProcessReply};
use uvm_wire::system::ShutdownGraceful;
use uvm_wire::{
    Call, Failure, FrameDecoder, MessageType, Request, Rpc, SizeLimit, decode_request, encode_failure, encode_response,
};

use crate::books::with;
use crate::{as_handle, sockets, system};

/// Boots the guest of a system that is a VM. It goes by itself, and ends with its VM.
pub(crate) fn boot(system: usize) {
    if with(|books| books.systems.get(&system).is_some_and(|system| system.is_vm)) {
        // A host that does not listen has no use for it.
        thread::spawn(move || drop(live(system)));
    }
}

fn live(system: usize) -> io::Result<()> {
    let dial = |port: u32| sockets::dial(system, vsock_service(port));
    let mut entropy = Vec::new();
    dial(ENTROPY_PORT)?.read_to_end(&mut entropy)?;
    if entropy.len() != ENTROPY_BYTES || entropy.iter().all(|byte| *byte == 0) {
        with(|books| books.violation("the guest was given too little entropy, or none:", as_handle(system)));
    }
    let mut log = dial(LOG_PORT)?;
    log.write_all(LOG_LINE)?;
    let bridge = dial(BRIDGE_PORT)?;
    let guest = Guest { system, bridge: bridge.try_clone()?, processes: Arc::default() };
    guest.serve(bridge)
}

/// A guest that is connected. Clones are the same.
struct Guest {
    system: usize,
    bridge: TcpStream,
    processes: Arc<Mutex<Processes>>,
}

/// What runs or has run.
#[derive(Default)]
struct Processes {
    last_id: u32,
    by_id: BTreeMap<u32, Process>,
}

#[derive(Default)]
struct Process {
    /// Once it has ended.
    exit: Option<WaitForProcessReply>,
    /// Who wants to be told.
    waits: Vec<Received>,
}

/// A request, with all it takes to answer it.
struct Received {
    id: u64,
    request: Request,
}

impl Guest {
    fn share(&self) -> io::Result<Self> {
        let bridge = self.bridge.try_clone()?;
        Ok(Self { system: self.system, bridge, processes: Arc::clone(&self.processes) })
    }

    fn processes(&self) -> MutexGuard<'_, Processes> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves requests until the host closes the bridge, or wants the VM to end.
    fn serve(&self, mut requests: TcpStream) -> io::Result<()> {
        let mut decoder = FrameDecoder::new(SizeLimit::FROM_HOST);
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let count = requests.read(&mut buffer)?;
            let mut bytes = buffer.get(..count).unwrap_or_default();
            if bytes.is_empty() {
                return Ok(());
            }
            while let Some(frame) = decoder.next_frame(&mut bytes).map_err(io::Error::other)? {
                let (message_type, id) = (frame.header.message_type, frame.header.id);
                let request = decode_request(message_type, frame.payload).map_err(io::Error::other)?;
                self.answer(message_type, Received { id, request })?;
            }
        }
    }

    fn answer(&self, message_type: MessageType, received: Received) -> io::Result<()> {
        match &received.request.call {
            Call::NegotiateProtocol(_) => {
                let able =
                    GuestDefinedCapabilities { external_process_signal: true, ..GuestDefinedCapabilities::linux() };
                let capabilities = Capabilities::linux(able);
                self.reply::<NegotiateProtocol>(&received, NegotiateProtocolReply { version: 4, capabilities })
            }
            Call::ExecuteProcess(call) => self.execute(&received, call),
            Call::WaitForProcess(call) => {
                let id = call.process_id;
                let mut processes = self.processes();
                let Some(process) = processes.by_id.get_mut(&id) else {
                    return self.fail(message_type, &received, "there is no such process");
                };
                let Some(exit) = process.exit else {
                    process.waits.push(received);
                    return Ok(());
                };
                self.reply::<WaitForProcess>(&received, exit)
            }
            Call::SignalProcess(call) => {
                let killed = WaitForProcessReply { exit_code: WaitForProcessReply::KILLED, signal: None };
                self.reply::<SignalProcess>(&received, Done::default())?;
                self.exit(call.process_id, killed)
            }
            Call::ModifySettings(_) => self.reply::<ModifySettings>(&received, Done::default()),
            Call::ShutdownGraceful(_) => {
                self.reply::<ShutdownGraceful>(&received, Done::default())?;
                system::end(self.system, system::GRACEFUL);
                Ok(())
            }
            _ => self.fail(message_type, &received, "this guest cannot do that"),
        }
    }

    fn reply<R: Rpc>(&self, to: &Received, reply: R::Reply) -> io::Result<()> {
        (&self.bridge).write_all(&encode_response::<R>(to.id, to.request.base.activity_id, Ok(reply)))
    }

    fn fail(&self, message_type: MessageType, to: &Received, why: &str) -> io::Result<()> {
        let failure = Failure::plain(why);
        (&self.bridge).write_all(&encode_failure(message_type, to.id, to.request.base.activity_id, failure))
    }

    fn execute(&self, received: &Received, call: &ExecuteProcess) -> io::Result<()> {
        let words = match call.settings.parameters.command_args.as_slice() {
            [shell, option, line] if shell == "sh" && option == "-c" => line.split(' ').map(str::to_owned).collect(),
            words => words.to_vec(),
        };
        let Some(program) = Program::named(&words) else {
            return self.fail(MessageType::EXECUTE_PROCESS, received, "there is no such program");
        };
        let ports = call.settings.vsock_stdio.unwrap_or_default();
        let dial = |port: Option<NonZeroU32>| {
            port.map(|port| sockets::dial(self.system, vsock_service(port.get()))).transpose()
        };
        let stdio = Stdio { stdin: dial(ports.stdin)?, stdout: dial(ports.stdout)?, stderr: dial(ports.stderr)? };
        let process_id = {
            let mut processes = self.processes();
            processes.last_id += 1;
            let id = processes.last_id;
            processes.by_id.insert(id, Process::default());
            id
        };
        self.reply::<ExecuteProcess>(received, ExecuteProcessReply { process_id })?;
        let guest = self.share()?;
        thread::spawn(move || {
            // A process whose streams are cut ends, as one that SIGPIPE kills.
            let code = program.run(&guest, &stdio).unwrap_or(Some(141));
            stdio.close();
            if let Some(exit_code) = code {
                // Nobody is told by a guest that was cut off.
                let _ = guest.exit(process_id, WaitForProcessReply { exit_code, signal: None });
            }
        });
        Ok(())
    }

    /// Notes that a process has ended, the first time, and tells who waits for it.
    fn exit(&self, process_id: u32, exit: WaitForProcessReply) -> io::Result<()> {
        let mut processes = self.processes();
        let Some(process) = processes.by_id.get_mut(&process_id) else { return Ok(()) };
        let exit = *process.exit.get_or_insert(exit);
        process.waits.drain(..).try_for_each(|wait| self.reply::<WaitForProcess>(&wait, exit))
    }
}

/// The streams of a process.
struct Stdio {
    stdin: Option<TcpStream>,
    stdout: Option<TcpStream>,
    stderr: Option<TcpStream>,
}

impl Stdio {
    /// Also for whoever cuts them at the VM's end.
    fn close(&self) {
        for stream in [&self.stdin, &self.stdout, &self.stderr].into_iter().flatten() {
            // The host may have closed it.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// What a process runs.
enum Program {
    Echo(String),
    Complain(String),
    Cat,
    Exit(u32),
    Sleep,
    Listen(u32),
    Dial(u32, String),
    Crash,
    Disconnect,
}

impl Program {
    fn named(words: &[String]) -> Option<Self> {
        let (name, arguments) = words.split_first()?;
        let number = || arguments.first()?.parse().ok();
        Some(match name.as_str() {
            "echo" => Self::Echo(format!("{}\n", arguments.join(" "))),
            "complain" => Self::Complain(format!("{}\n", arguments.join(" "))),
            "cat" => Self::Cat,
            "exit" => Self::Exit(number()?),
            "sleep" => Self::Sleep,
            "listen" => Self::Listen(number()?),
            "dial" => Self::Dial(number()?, format!("{}\n", arguments.get(1..)?.join(" "))),
            "crash" => Self::Crash,
            "disconnect" => Self::Disconnect,
            _ => return None,
        })
    }

    /// Runs it to its exit code. `None`: a signal ends it.
    fn run(self, guest: &Guest, stdio: &Stdio) -> io::Result<Option<u32>> {
        let Stdio { stdin, stdout, stderr } = stdio;
        match self {
            Self::Echo(text) => write(stdout.as_ref(), &text)?,
            Self::Complain(text) => write(stderr.as_ref(), &text)?,
            Self::Cat => {
                if let (Some(mut from), Some(mut to)) = (stdin.as_ref(), stdout.as_ref()) {
                    io::copy(&mut from, &mut to)?;
                }
            }
            Self::Exit(code) => return Ok(Some(code)),
            Self::Sleep => return Ok(None),
            Self::Listen(port) => {
                let listener = sockets::listen(guest.system, vsock_service(port))?;
                write(stdout.as_ref(), "listening\n")?;
                let (mut stream, _) = listener.accept()?;
                sockets::belongs_to(guest.system, &stream)?;
                io::copy(&mut stream.try_clone()?, &mut stream)?;
                stream.shutdown(Shutdown::Write)?;
            }
            Self::Dial(port, text) => {
                let stream = sockets::dial(guest.system, vsock_service(port))?;
                write(Some(&stream), &text)?;
                stream.shutdown(Shutdown::Write)?;
            }
            Self::Crash => {
                read_to_end(stdin.as_ref())?;
                system::end(guest.system, system::UNEXPECTED);
            }
            Self::Disconnect => {
                read_to_end(stdin.as_ref())?;
                system::disconnect(guest.system);
            }
        }
        Ok(Some(0))
    }
}

fn read_to_end(from: Option<&TcpStream>) -> io::Result<()> {
    from.map_or(Ok(()), |mut from| io::copy(&mut from, &mut io::sink()).map(drop))
}

fn write(to: Option<&TcpStream>, text: &str) -> io::Result<()> {
    to.map_or(Ok(()), |mut to| to.write_all(text.as_bytes()))
}

/// How much entropy the protocol hands a booting guest.
const ENTROPY_BYTES: usize = 512;
/// What the guest's agent says in the log.
const LOG_LINE: &[u8] = b"{\"time\":\"2026-01-01T00:00:00Z\",\"level\":\"warning\",\"msg\":\"the guest has booted\"}\n";
