//! One connection of the bridge: reads requests, answers them, in any order.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uvm_wire::call::{Done, Rpc};
use uvm_wire::create::Create;
use uvm_wire::execute::ExecuteProcess;
use uvm_wire::modify::ModifySettings;
use uvm_wire::negotiate::{
    Capabilities, GuestDefinedCapabilities, NegotiateProtocol, NegotiateProtocolReply, is_served,
};
use uvm_wire::ports::BRIDGE_PORT;
use uvm_wire::process::{ResizeConsole, SignalProcess, WaitForProcess, WaitForProcessReply};
use uvm_wire::properties::GetProperties;
use uvm_wire::system::{
    DeleteContainerState, DumpStacks, DumpStacksReply, ShutdownForced, ShutdownGraceful, Start, UpdateContainer,
};
use uvm_wire::{
    Call, ContainerId, Failure, Frame, FrameDecoder, FrameError, Guid, Hresult, MessageType, Request, RequestError,
    SizeLimit, decode_request, encode_failure, encode_response,
};

use crate::agent::Agent;
use crate::execute::execute;
use crate::failure::with_causes;
use crate::flags::Level;
use crate::link::{Link, ReadHalf, WriteHalf};
use crate::not_yet;
use crate::outbox::{OpenRequest, Outbox};
use crate::process::{Exit, ProcessError};
use crate::shutdown::{FAREWELL, Shutdown};
use crate::stacks;

/// Between a lost connection and the next attempt, as the original has it.
const REDIAL_AFTER: Duration = Duration::from_millis(100);
/// Bytes of answers that wait for the host to read them; further requests are not read meanwhile.
const MAX_UNREAD: usize = 4 << 20;

/// Serves the bridge over `link` for ever: dials, serves, and dials again.
pub async fn serve(agent: Arc<Agent>, link: Link) {
    let mut refused = false;
    loop {
        if link.up().await.is_err() {
            // This transport will not come back; another may.
            return;
        }
        // While another transport carries the bridge, this one waits.
        if let Some(_seat) = agent.take_seat() {
            match link.dial(BRIDGE_PORT).await {
                Ok(stream) => {
                    refused = false;
                    stream.hurry();
                    serve_connection(&agent, &link, stream.into_split()).await;
                }
                // Between two hosts nobody listens, for as long as it takes: it is said once.
                Err(e) if !refused => {
                    refused = true;
                    let cause = with_causes(&e);
                    agent.log.add(Level::Warning, "the bridge is dialled until it is taken", &[("error", &cause)]);
                }
                Err(_) => {}
            }
        }
        if agent.shutdown().is_some() {
            return;
        }
        tokio::time::sleep(REDIAL_AFTER).await;
    }
}

/// Serves the bridge on one connection that is there already; streams of processes are dialled over `link`.
pub async fn serve_once(agent: Arc<Agent>, link: Link, connection: (ReadHalf, WriteHalf)) {
    if let Some(_seat) = agent.take_seat() {
        serve_connection(&agent, &link, connection).await;
    }
}

async fn serve_connection(agent: &Arc<Agent>, link: &Link, (mut read, write): (ReadHalf, WriteHalf)) {
    agent.log.add(Level::Info, "bridge connected", &[]);
    let mut connection = Connection { agent, link, version: None, negotiated: None };
    let ended = connection.run(&mut read, write).await;
    agent.outbox.connection_ended();
    match ended {
        Ok(Ended::ByHost) => agent.log.add(Level::Info, "bridge closed by the host", &[]),
        Ok(Ended::Here) => {
            // Once the host has closed its end too, it has read what was sent, here and before it elsewhere: all virtual
            // sockets go through one queue. The multiplexer has its own way to know.
            if matches!(link, Link::Sockets(_)) {
                let mut nowhere = tokio::io::sink();
                let closed = tokio::io::copy(&mut read, &mut nowhere);
                // Whether it closed, cut the connection or did nothing in time, the VM ends.
                let _ = tokio::time::timeout(FAREWELL, closed).await;
            }
        }
        Err(e) => agent.log.error("bridge lost", &with_causes(&e)),
    }
}

/// Why a connection ended early.
#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// Who ended a connection that came to a good end.
enum Ended {
    ByHost,
    Here,
}

struct Connection<'a> {
    agent: &'a Arc<Agent>,
    link: &'a Link,
    /// The negotiated version of the protocol: each connection begins without one.
    version: Option<u32>,
    /// The answer that says so, while the guest is not complete.
    negotiated: Option<Vec<u8>>,
}

impl Connection<'_> {
    /// Reads and writes until the host closes the connection. When the VM is to end, nothing more is read; what is owed,
    /// such as how processes ended, is still written, and the end of the connection is the answer to the wish.
    async fn run(&mut self, read: &mut ReadHalf, mut write: WriteHalf) -> Result<Ended, ConnectionError> {
        let mut decoder = FrameDecoder::new(SizeLimit::FROM_HOST);
        let mut buffer = vec![0; 8 * 1024];
        loop {
            let agent = self.agent;
            let reads = agent.shutdown().is_none() && agent.outbox.bytes() < MAX_UNREAD;
            tokio::select! {
                biased;
                frame = agent.outbox.next() => {
                    write.write_all(&frame).await?;
                    write.flush().await?;
                    agent.outbox.sent();
                }
                () = agent.ready.wait(), if self.negotiated.is_some() => {
                    self.negotiated.take().into_iter().for_each(|frame| agent.outbox.push_for_this_connection(frame));
                }
                () = agent.is_last_call() => {
                    write.shutdown().await?;
                    return Ok(Ended::Here);
                }
                count = read.read(&mut buffer), if reads => {
                    let mut bytes = &buffer[..count?];
                    if bytes.is_empty() {
                        return Ok(Ended::ByHost);
                    }
                    // What comes behind the wish to end is not looked at.
                    while agent.shutdown().is_none()
                        && let Some(frame) = decoder.next_frame(&mut bytes)?
                    {
                        self.receive(&frame);
                    }
                }
            }
        }
    }

    fn receive(&mut self, frame: &Frame<'_>) {
        let (message_type, id) = (frame.header.message_type, frame.header.id);
        // The newer agents do not know `UpdateContainer`, and nobody reads the body of what nobody knows.
        if !is_served(self.version, message_type) || message_type == MessageType::UPDATE_CONTAINER {
            let refused = RequestError::not_served(message_type, frame.payload);
            return self.refuse(message_type, id, refused.activity_id(), refused.failure());
        }
        match decode_request(message_type, frame.payload) {
            Ok(request) => self.handle(message_type, id, request),
            Err(e) => self.refuse(message_type, id, e.activity_id(), e.failure()),
        }
    }

    fn refuse(&self, message_type: MessageType, id: u64, activity: Option<Guid>, failure: Failure) {
        self.agent.log.add(
            Level::Debug,
            "request failed",
            &[("request", &message_type), ("id", &id), ("result", &failure.result), ("error", &failure.message)],
        );
        let frame = encode_failure(message_type, id, activity, failure);
        match self.version {
            Some(_) => self.agent.outbox.push(frame),
            None => self.agent.outbox.push_for_this_connection(frame),
        }
    }

    fn handle(&mut self, message_type: MessageType, id: u64, request: Request) {
        let Request { base, call } = request;
        // What is answered at once needs no place, so that a host can always end what it waits for.
        let takes_time = matches!(
            call,
            Call::WaitForProcess(_) | Call::ExecuteProcess(_) | Call::DumpStacks(_) | Call::ModifySettings(_)
        );
        let open = takes_time.then(|| self.agent.outbox.open());
        if let Some(None) = open {
            let why = format_args!("{} requests are open already, more are not taken", Outbox::MAX_OPEN);
            return self.refuse(message_type, id, base.activity_id, Failure::plain(why));
        }
        let open = open.flatten();
        let reply = Reply { agent: Arc::clone(self.agent), id, activity: base.activity_id, _open: open };
        let container = base.container_id;
        match call {
            Call::NegotiateProtocol(call) => self.negotiate(*call, id, base.activity_id),
            Call::ExecuteProcess(call) => {
                if !container.is_uvm() && !call.settings.parameters.create_in_utility_vm {
                    return reply.send::<ExecuteProcess>(Err(no_container()));
                }
                let (agent, link) = (Arc::clone(self.agent), self.link.clone());
                tokio::spawn(async move { reply.send::<ExecuteProcess>(execute(&agent, &link, &call).await) });
            }
            Call::WaitForProcess(call) => {
                if let Err(failure) = the_vm(&container) {
                    return reply.send::<WaitForProcess>(Err(failure));
                }
                let agent = Arc::clone(self.agent);
                tokio::spawn(async move { reply.send::<WaitForProcess>(wait(&agent, *call).await) });
            }
            Call::SignalProcess(call) => reply.send::<SignalProcess>(self.signal(&container, &call)),
            Call::ResizeConsole(call) => reply.send::<ResizeConsole>(self.resize(&container, *call)),
            Call::DumpStacks(_) => {
                let agent = Arc::clone(self.agent);
                // Reads files of every process, which may take a while.
                tokio::task::spawn_blocking(move || {
                    let guest_stacks = stacks::dump(&agent);
                    reply.send::<DumpStacks>(Ok(DumpStacksReply { guest_stacks }));
                });
            }
            Call::GetProperties(_) => reply.send::<GetProperties>(Err(match the_vm(&container) {
                Ok(()) => Failure::plain("the VM itself has no properties, only containers have"),
                Err(failure) => failure,
            })),
            Call::ShutdownGraceful(_) => self.shut_down::<ShutdownGraceful>(&container, Shutdown::Graceful, &reply),
            Call::ShutdownForced(_) => self.shut_down::<ShutdownForced>(&container, Shutdown::Forced, &reply),
            Call::Start(_) => reply.send::<Start>(Ok(Done {})),
            Call::DeleteContainerState(_) => reply.send::<DeleteContainerState>(Err(no_container())),
            Call::Create(call) => reply.send::<Create>(Err(not_yet::create(&call))),
            Call::ModifySettings(call) => {
                let (agent, link) = (Arc::clone(self.agent), self.link.clone());
                tokio::spawn(async move {
                    let changed = agent.storage.modify(&link, &container, call.modification).await;
                    reply.send::<ModifySettings>(changed);
                });
            }
            // Refused before it is read, see `receive`.
            Call::UpdateContainer(_) => reply.send::<UpdateContainer>(Err(Failure::not_implemented(message_type))),
        }
    }

    fn negotiate(&mut self, call: NegotiateProtocol, id: u64, activity: Option<Guid>) {
        let version = match call.choose_version() {
            Ok(version) => version,
            Err(failure) => return self.refuse(MessageType::NEGOTIATE_PROTOCOL, id, activity, failure),
        };
        self.version = Some(version);
        let capabilities = Capabilities::linux(GuestDefinedCapabilities {
            signal_process: true,
            dump_stacks: true,
            delete_container_state: true,
            external_process_signal: true,
            exit_detail: true,
            mapped_sockets: true,
            disk_sizes: true,
            virtio_fs: true,
            pci_ports: true,
            uvm_agent_version: env!("CARGO_PKG_VERSION").into(),
            ..Default::default()
        });
        let reply = NegotiateProtocolReply { version, capabilities };
        self.negotiated = Some(encode_response::<NegotiateProtocol>(id, activity, Ok(reply)));
    }

    fn signal(&self, container: &ContainerId, call: &SignalProcess) -> Result<Done, Failure> {
        the_vm(container)?;
        let signal = call.linux_signal()?;
        self.agent.processes.signal(call.process_id, signal).map(|()| Done {}).map_err(process_failure)
    }

    fn resize(&self, container: &ContainerId, call: ResizeConsole) -> Result<Done, Failure> {
        the_vm(container)?;
        let resized = self.agent.processes.resize(call.process_id, call.height, call.width);
        resized.map(|()| Done {}).map_err(process_failure)
    }

    fn shut_down<R: Rpc<Reply = Done>>(&self, container: &ContainerId, how: Shutdown, reply: &Reply) {
        if container.is_uvm() {
            // No answer: the connection ends.
            self.agent.shut_down(how);
        } else {
            reply.send::<R>(Err(no_container()));
        }
    }
}

/// Where the answer to one request goes, whichever connection takes it.
struct Reply {
    agent: Arc<Agent>,
    id: u64,
    activity: Option<Guid>,
    /// Its place among those that take time.
    _open: Option<OpenRequest>,
}

impl Reply {
    fn send<R: Rpc>(&self, outcome: Result<R::Reply, Failure>) {
        if let Err(failure) = &outcome {
            self.agent.log.add(
                Level::Debug,
                "request failed",
                &[
                    ("request", &R::MESSAGE_TYPE),
                    ("id", &self.id),
                    ("result", &failure.result),
                    ("error", &failure.message),
                ],
            );
        }
        self.agent.outbox.push(encode_response::<R>(self.id, self.activity, outcome));
    }
}

async fn wait(agent: &Agent, call: WaitForProcess) -> Result<WaitForProcessReply, Failure> {
    match agent.processes.wait(call.process_id, call.timeout()).await {
        Ok(Some(Exit::Code(exit_code))) => Ok(WaitForProcessReply { exit_code, signal: None }),
        Ok(Some(Exit::Signal(signal))) => {
            Ok(WaitForProcessReply { exit_code: WaitForProcessReply::KILLED, signal: Some(signal) })
        }
        Ok(None) => Err(Failure::code(Hresult::TIMEOUT)),
        Err(e) => Err(process_failure(e)),
    }
}

fn process_failure(error: ProcessError) -> Failure {
    match error {
        ProcessError::Unknown | ProcessError::Ended => Failure::wrapping(Hresult::NOT_FOUND, error),
        ProcessError::NoTerminal => Failure::plain(error),
        ProcessError::Os(errno) => Failure::plain(error).with_errno(errno.raw_os_error()),
    }
}

fn the_vm(container: &ContainerId) -> Result<(), Failure> {
    if container.is_uvm() { Ok(()) } else { Err(no_container()) }
}

fn no_container() -> Failure {
    Failure::code(Hresult::SYSTEM_NOT_FOUND)
}
