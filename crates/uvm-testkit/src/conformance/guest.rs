//! The guest of hosts in memory: it does what it is told of its resources, and plays the few programs that cases run.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use uvm_platform::Port;
use uvm_platform::fake::FakeStream;
use uvm_wire::call::Done;
use uvm_wire::execute::{ExecuteProcess, ExecuteProcessReply};
use uvm_wire::modify::ModifySettings;
use uvm_wire::negotiate::{self, GuestDefinedCapabilities, GuestOs, NegotiateProtocol, NegotiateProtocolReply};
use uvm_wire::process::{ResizeConsole, SignalProcess, WaitForProcess, WaitForProcessReply};
use uvm_wire::system::{DumpStacks, DumpStacksReply, ShutdownGraceful};
use uvm_wire::{Call, Failure, Hresult};

use super::GUEST_PROGRAM;
use crate::guest::{Guest, Received};
use crate::guest_end::GuestEnd;

/// Lives from the power on to the end of the VM.
pub(super) async fn live(end: Arc<dyn GuestEnd>, os: GuestOs) {
    let Ok(guest) = Guest::boot_at(Arc::clone(&end)).await else { return };
    let (ends, mut ended) = mpsc::unbounded_channel();
    let mut agent = Agent { guest, os, ends, processes: HashMap::new(), last_id: 100 };
    loop {
        let served = tokio::select! {
            received = agent.guest.next() => match received {
                Ok(Some(received)) if matches!(received.request.call, Call::ShutdownGraceful(_)) => {
                    // Who asked may be gone.
                    let _ = agent.guest.reply::<ShutdownGraceful>(&received, Ok(Done::default())).await;
                    return end.power_off();
                }
                Ok(Some(received)) => agent.serve(received).await,
                // Its host has let go of it.
                Ok(None) | Err(_) => return,
            },
            () = end.ended() => return,
            Some((process, reply)) = ended.recv() => agent.ended(process, reply).await,
        };
        if served.is_err() {
            return;
        }
    }
}

struct Agent {
    guest: Guest,
    os: GuestOs,
    ends: mpsc::UnboundedSender<(u32, WaitForProcessReply)>,
    processes: HashMap<u32, Running>,
    last_id: u32,
}

struct Running {
    task: JoinHandle<()>,
    terminal: watch::Sender<(u16, u16)>,
    waits: Vec<Received>,
    end: Option<WaitForProcessReply>,
}

impl Agent {
    async fn serve(&mut self, received: Received) -> io::Result<()> {
        let gone = || Failure::code(Hresult::NOT_FOUND);
        match &received.request.call {
            Call::NegotiateProtocol(_) => {
                self.guest.reply::<NegotiateProtocol>(&received, Ok(capabilities(self.os))).await
            }
            Call::DumpStacks(_) => {
                let reply = DumpStacksReply { guest_stacks: "thread 1: waits".into() };
                self.guest.reply::<DumpStacks>(&received, Ok(reply)).await
            }
            Call::ModifySettings(_) => self.guest.reply::<ModifySettings>(&received, Ok(Done::default())).await,
            Call::ExecuteProcess(call) => {
                let call = (**call).clone();
                self.execute(&received, &call).await
            }
            Call::WaitForProcess(call) => match self.processes.get_mut(&call.process_id) {
                Some(Running { end: Some(reply), .. }) => {
                    let reply = *reply;
                    self.guest.reply::<WaitForProcess>(&received, Ok(reply)).await
                }
                Some(process) => {
                    process.waits.push(received);
                    Ok(())
                }
                None => self.guest.fail(&received, gone()).await,
            },
            Call::SignalProcess(call) => {
                let (id, signal) = (call.process_id, call.linux_signal());
                match (self.processes.get(&id), signal) {
                    (Some(Running { end: None, task, .. }), Ok(signal)) => {
                        task.abort();
                        self.guest.reply::<SignalProcess>(&received, Ok(Done::default())).await?;
                        let signal = Some(signal.cast_unsigned());
                        self.ended(id, WaitForProcessReply { exit_code: WaitForProcessReply::KILLED, signal }).await
                    }
                    (_, Ok(_)) => self.guest.fail(&received, gone()).await,
                    (_, Err(failure)) => self.guest.fail(&received, failure).await,
                }
            }
            Call::ResizeConsole(call) => {
                if let Some(process) = self.processes.get(&call.process_id) {
                    process.terminal.send_replace((call.height, call.width));
                }
                self.guest.reply::<ResizeConsole>(&received, Ok(Done::default())).await
            }
            _ => self.guest.fail(&received, Failure::not_implemented(received.message_type)).await,
        }
    }

    async fn execute(&mut self, received: &Received, call: &ExecuteProcess) -> io::Result<()> {
        let parameters = &call.settings.parameters;
        let Some(program) = Program::of(&parameters.command_args) else {
            let name = parameters.command_args.first().map_or("", String::as_str);
            let failure = Failure::plain(format_args!("no program {name}")).with_errno(2);
            return self.guest.fail(received, failure).await;
        };
        let streams = self.guest.dial_stdio(&call.settings.vsock_stdio.unwrap_or_default()).await?;
        self.last_id += 1;
        let process_id = self.last_id;
        let size = parameters.console_size.map_or((0, 0), |size| (size.height, size.width));
        let (terminal, size) = watch::channel(size);
        let (ends, end) = (self.ends.clone(), Arc::clone(self.guest.end()));
        let is_terminal = parameters.emulate_console;
        let task = tokio::spawn(async move {
            let mut world = World::new(streams, end, size, is_terminal);
            // A stream that was cut is the end of a program.
            let exit_code = program.run(&mut world).await.unwrap_or(1);
            world.leave().await;
            // The agent may be gone.
            let _ = ends.send((process_id, WaitForProcessReply { exit_code, signal: None }));
        });
        self.processes.insert(process_id, Running { task, terminal, waits: Vec::new(), end: None });
        self.guest.reply::<ExecuteProcess>(received, Ok(ExecuteProcessReply { process_id })).await
    }

    async fn ended(&mut self, id: u32, reply: WaitForProcessReply) -> io::Result<()> {
        let Some(process) = self.processes.get_mut(&id) else { return Ok(()) };
        process.end.get_or_insert(reply);
        for wait in std::mem::take(&mut process.waits) {
            self.guest.reply::<WaitForProcess>(&wait, Ok(reply)).await?;
        }
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.processes.values().for_each(|process| process.task.abort());
    }
}

fn capabilities(os: GuestOs) -> NegotiateProtocolReply {
    match os {
        GuestOs::Linux => {
            let mut reply = Guest::capabilities();
            reply.capabilities.guest_defined.namespace_add_request = true;
            reply
        }
        GuestOs::Windows => {
            let guest_defined = GuestDefinedCapabilities { dump_stacks: true, ..GuestDefinedCapabilities::default() };
            let capabilities = negotiate::Capabilities { guest_defined, ..negotiate::Capabilities::default() };
            NegotiateProtocolReply { version: 4, capabilities }
        }
    }
}

/// What a program has.
struct World {
    stdin: Option<BufReader<FakeStream>>,
    stdout: Option<FakeStream>,
    stderr: Option<FakeStream>,
    end: Arc<dyn GuestEnd>,
    size: watch::Receiver<(u16, u16)>,
    line_end: &'static str,
}

impl World {
    fn new(
        [stdin, stdout, stderr]: [Option<FakeStream>; 3],
        end: Arc<dyn GuestEnd>,
        size: watch::Receiver<(u16, u16)>,
        is_terminal: bool,
    ) -> Self {
        let line_end = if is_terminal { "\r\n" } else { "\n" };
        Self { stdin: stdin.map(BufReader::new), stdout, stderr, end, size, line_end }
    }

    async fn say(&mut self, line: &str) -> io::Result<()> {
        write(self.stdout.as_mut(), &format!("{line}{}", self.line_end)).await
    }

    async fn complain(&mut self, line: &str) -> io::Result<()> {
        write(self.stderr.as_mut(), &format!("{line}{}", self.line_end)).await
    }

    /// Ends its outputs. The host may have let go of them.
    async fn leave(&mut self) {
        for output in [self.stdout.as_mut(), self.stderr.as_mut()].into_iter().flatten() {
            let _ = output.shutdown().await;
        }
    }
}

async fn write(output: Option<&mut FakeStream>, text: &str) -> io::Result<()> {
    match output {
        Some(output) => output.write_all(text.as_bytes()).await,
        None => Ok(()),
    }
}

/// A program that a case runs.
enum Program {
    True,
    Echo(String),
    Cat,
    Sleep,
    /// Commands of a shell, in order.
    Shell(Vec<Command>),
    Dial {
        port: Port,
        bytes: usize,
    },
    EchoOn(Port),
}

enum Command {
    Say(String),
    Complain(String),
    Size,
    ReadLine,
    Exit(u32),
}

impl Program {
    fn of(arguments: &[String]) -> Option<Self> {
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["true"] => Some(Self::True),
            ["echo", words @ ..] => Some(Self::Echo(words.join(" "))),
            ["cat"] => Some(Self::Cat),
            ["sleep", _] => Some(Self::Sleep),
            ["sh", "-c", script] => {
                script.split(';').map(|text| Command::of(text.trim())).collect::<Option<_>>().map(Self::Shell)
            }
            [GUEST_PROGRAM, "dial", port, "1", bytes] => {
                Some(Self::Dial { port: Port(port.parse().ok()?), bytes: bytes.parse().ok()? })
            }
            [GUEST_PROGRAM, "echo", port] => Some(Self::EchoOn(Port(port.parse().ok()?))),
            _ => None,
        }
    }

    async fn run(self, world: &mut World) -> io::Result<u32> {
        match self {
            Self::True => {}
            Self::Echo(words) => world.say(&words).await?,
            Self::Cat => {
                if let (Some(stdin), Some(stdout)) = (&mut world.stdin, &mut world.stdout) {
                    tokio::io::copy(stdin, stdout).await?;
                }
            }
            Self::Sleep => std::future::pending().await,
            Self::Shell(commands) => {
                for command in commands {
                    match command {
                        Command::Say(words) => world.say(&words).await?,
                        Command::Complain(words) => world.complain(&words).await?,
                        Command::Size => {
                            let (rows, columns) = *world.size.borrow();
                            world.say(&format!("{rows} {columns}")).await?;
                        }
                        Command::ReadLine => {
                            if let Some(stdin) = &mut world.stdin {
                                stdin.read_line(&mut String::new()).await?;
                            }
                        }
                        Command::Exit(code) => return Ok(code),
                    }
                }
            }
            Self::Dial { port, bytes } => {
                let mut stream = world.end.dial_socket(port).await?;
                stream.write_all(&vec![1; bytes]).await?;
                stream.shutdown().await?;
                let mut came = Vec::new();
                stream.read_to_end(&mut came).await?;
                world.say(&came.len().to_string()).await?;
            }
            Self::EchoOn(port) => {
                let dialled = world.end.accept_socket(port);
                world.say("ready").await?;
                let mut stream = dialled.await.ok_or(io::ErrorKind::ConnectionReset)?;
                let mut came = Vec::new();
                stream.read_to_end(&mut came).await?;
                stream.write_all(&came).await?;
                stream.shutdown().await?;
            }
        }
        Ok(0)
    }
}

impl Command {
    fn of(text: &str) -> Option<Self> {
        match text.split(' ').collect::<Vec<_>>().as_slice() {
            ["stty", "size"] => Some(Self::Size),
            ["read", "line"] => Some(Self::ReadLine),
            ["exit", code] => code.parse().ok().map(Self::Exit),
            ["echo", words @ .., ">&2"] => Some(Self::Complain(words.join(" "))),
            ["echo", words @ ..] => Some(Self::Say(words.join(" "))),
            _ => None,
        }
    }
}
