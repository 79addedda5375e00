//! The guest of a case: boots when its VM is started, answers what the bridge brings, fails where a fault is planted, and
//! has all of it written down among the host's calls.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, from_slice, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use uvm::platform::fake::FakeStream;
use uvm::wire::call::Done;
use uvm::wire::create::{Create, CreateReply};
use uvm::wire::execute::{ExecuteProcess, ExecuteProcessReply};
use uvm::wire::modify::ModifySettings;
use uvm::wire::negotiate::{Capabilities, NegotiateProtocol, NegotiateProtocolReply};
use uvm::wire::ports::{BRIDGE_PORT, ENTROPY_PORT, LOG_PORT, WINDOWS_BRIDGE_SERVICE, vsock_service};
use uvm::wire::process::{ResizeConsole, SignalProcess, WaitForProcess, WaitForProcessReply};
use uvm::wire::properties::{GetProperties, GetPropertiesReply};
use uvm::wire::system::{
    DeleteContainerState, DumpStacks, DumpStacksReply, ShutdownForced, ShutdownGraceful, Start, UpdateContainer,
};
use uvm::wire::{
    ContainerNotification, Failure, FrameDecoder, Guid, Hresult, MessageType, RawJson, SizeLimit, encode_failure,
    encode_response,
};
use uvm_hcs::recording::{RecordedCall, RecordingHcs};

use super::host;

/// A fault of the guest.
struct GuestFault {
    op: String,
    containing: String,
    skip: u64,
    times: u64,
    code: Hresult,
    message: String,
}

/// What a test tells the guest while it runs.
#[derive(Clone)]
pub(super) struct Script {
    faults: Arc<Mutex<Vec<GuestFault>>>,
    notifications: mpsc::UnboundedSender<ContainerNotification>,
    log_closes: Arc<Notify>,
}

impl Script {
    /// The guest writes its log and closes it.
    pub(super) fn close_log(&self) {
        self.log_closes.notify_one();
    }

    fn faults(&self) -> MutexGuard<'_, Vec<GuestFault>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn plant(&self, args: &Value) -> Result<(), String> {
        let text = |key: &str| args[key].as_str().unwrap_or_default().to_owned();
        self.faults().push(GuestFault {
            op: text("op"),
            containing: text("match"),
            skip: args["skip"].as_u64().unwrap_or_default(),
            times: args["times"].as_u64().unwrap_or(1),
            code: host::hresult(&args["code"])?,
            message: text("result"),
        });
        Ok(())
    }

    /// Tells the host that a container has ended. `false` if no guest is there.
    pub(super) fn notify(&self, notification: ContainerNotification) -> bool {
        self.notifications.send(notification).is_ok()
    }

    /// How the message fails, if a fault fits it.
    fn failing(&self, op: &str, body: &str) -> Option<(Hresult, String)> {
        let mut faults = self.faults();
        let fits = |fault: &GuestFault| fault.times > 0 && fault.op == op && body.contains(&fault.containing);
        let fault = faults.iter_mut().find(|fault| fits(fault))?;
        if fault.skip > 0 {
            fault.skip -= 1;
            return None;
        }
        fault.times -= 1;
        Some((fault.code, fault.message.clone()))
    }
}

/// The guest of one VM.
pub(super) struct Guest {
    host: RecordingHcs,
    vm: Guid,
    script: Script,
    version: u32,
    capabilities: Capabilities,
    notifications: mpsc::UnboundedReceiver<ContainerNotification>,
    /// What it logs.
    log: String,
    processes: Processes,
}

/// Its processes, none of which does anything.
#[derive(Default)]
struct Processes {
    /// They do not end before they are told to.
    stay: bool,
    started: u32,
    /// Waits that are not answered yet: the id of the message, and the process.
    waits: Vec<(u64, u32)>,
    streams: Vec<FakeStream>,
}

impl Guest {
    pub(super) fn new(case: &Value, host: RecordingHcs) -> Result<(Self, Script), String> {
        let vm = case["host"]["runtime_id"].as_str().and_then(|id| id.parse().ok()).ok_or("no runtime id")?;
        let guest = &case["guest"];
        let mut capabilities = Capabilities {
            send_host_create_message: guest["send_host_create"] == true,
            send_host_start_message: guest["send_host_start"] == true,
            ..Capabilities::default()
        };
        capabilities.guest_defined =
            serde_json::from_value(host::capabilities(case)).map_err(|e| format!("capabilities: {e}"))?;
        if case["os"] == "lcow" {
            capabilities.runtime_os_type = "linux".into();
        }
        let version = guest["protocol_version"].as_u64().and_then(|version| u32::try_from(version).ok()).unwrap_or(4);
        let (sender, notifications) = mpsc::unbounded_channel();
        let script = Script { faults: Arc::default(), notifications: sender, log_closes: Arc::default() };
        let log = guest["log"].as_str().unwrap_or_default().to_owned();
        let processes = Processes { stay: guest["hold_wait"] == true, ..Processes::default() };
        Ok((Self { host, vm, script: script.clone(), version, capabilities, notifications, log, processes }, script))
    }

    /// Boots when this system is started. Lives as long as it, and its bridge until the host closes it.
    pub(super) async fn run(mut self, system: String) {
        self.host.started(&system).await;
        if let Ok(mut entropy) = self.dial(ENTROPY_PORT) {
            let mut bytes = Vec::new();
            let ended = entropy.read_to_end(&mut bytes).await.is_ok();
            if ended && !bytes.is_empty() {
                self.host.note_down(RecordedCall::new("guest", "entropy"));
            }
        }
        let log = self.dial(LOG_PORT).ok();
        if log.is_some() {
            self.host.note_down(RecordedCall::new("guest", "log connected"));
        }
        let bridge = self.dial(BRIDGE_PORT).or_else(|_| self.host.dial(self.vm, WINDOWS_BRIDGE_SERVICE));
        let host = self.host.clone();
        let (log_closes, words) = (Arc::clone(&self.script.log_closes), std::mem::take(&mut self.log));
        let hold_log = async move {
            let closes = tokio::select! {
                () = host.ended(&system) => false,
                () = log_closes.notified() => true,
            };
            if let Some(mut log) = log {
                // The host may have let go of it first.
                if closes {
                    let _ = log.write_all(words.as_bytes()).await;
                }
                let _ = log.shutdown().await;
            }
        };
        let serve = async {
            if let Ok(bridge) = bridge {
                // It ends with its VM in any way. One that the host never said a word on was never a bridge.
                let mut was_used = false;
                let _ = self.serve(bridge, &mut was_used).await;
                if was_used {
                    self.host.note_down(RecordedCall::new("guest", "bridge closed"));
                }
            }
        };
        tokio::join!(hold_log, serve);
    }

    fn dial(&self, port: u32) -> io::Result<FakeStream> {
        self.host.dial(self.vm, vsock_service(port))
    }

    async fn serve(&mut self, mut bridge: FakeStream, was_used: &mut bool) -> io::Result<()> {
        let mut decoder = FrameDecoder::new(SizeLimit::FROM_HOST);
        let mut unread = Vec::new();
        loop {
            let mut bytes = unread.as_slice();
            while let Some(frame) = decoder.next_frame(&mut bytes).map_err(io::Error::other)? {
                *was_used = true;
                let (header, payload) = (frame.header, frame.payload.to_vec());
                let answer = self.answer(header.message_type, header.id, &payload);
                bridge.write_all(&answer).await?;
            }
            unread.clear();
            tokio::select! {
                read = bridge.read_buf(&mut unread) => if read? == 0 {
                    return Ok(());
                },
                Some(told) = self.notifications.recv() => {
                    bridge.write_all(&told.encode().map_err(io::Error::other)?).await?;
                }
            }
        }
    }

    /// Writes the message down and answers it.
    fn answer(&mut self, message: MessageType, id: u64, payload: &[u8]) -> Vec<u8> {
        let op = message.name().unwrap_or("unknown").to_owned();
        let mut body: Value = from_slice(payload).unwrap_or_default();
        if let Value::Object(body) = &mut body {
            body.remove("ocsc");
        }
        let text = body.to_string();
        let failing = self.script.failing(&op, &text);
        self.host.note_down(RecordedCall {
            json: RawJson::parse(&text).ok(),
            failure: failing.as_ref().map(|(code, message)| format!("{code} {message}")),
            message_type: Some(format!("0x{:08x}", message.bits())),
            message_id: Some(id),
            ..RecordedCall::new("guest", &op)
        });
        if let Some((result, message_text)) = failing {
            let failure = Failure { message: message_text, ..Failure::code(result) };
            return encode_failure(message, id, None, failure);
        }
        match message {
            MessageType::EXECUTE_PROCESS => self.execute(id, &body),
            MessageType::WAIT_FOR_PROCESS if self.processes.stay => {
                let process = body["ProcessId"].as_u64().and_then(|id| u32::try_from(id).ok()).unwrap_or_default();
                self.processes.waits.push((id, process));
                Vec::new()
            }
            MessageType::SIGNAL_PROCESS => {
                let mut answer = self.succeed(message, id);
                answer.extend(self.end(body["ProcessId"].as_u64().unwrap_or_default()));
                answer
            }
            _ => self.succeed(message, id),
        }
    }

    /// Starts a process: dials its streams, which it never uses.
    fn execute(&mut self, id: u64, body: &Value) -> Vec<u8> {
        let settings = &body["Settings"];
        for stream in ["StdIn", "StdOut", "StdErr"] {
            let port = settings["VsockStdioRelaySettings"][stream].as_u64().and_then(|port| u32::try_from(port).ok());
            let service = settings["StdioRelaySettings"][stream].as_str().and_then(|service| service.parse().ok());
            let Some(service) = port.map(vsock_service).or(service) else { continue };
            match self.host.dial(self.vm, service) {
                Ok(stream) => self.processes.streams.push(stream),
                Err(_) => self.host.note_down(RecordedCall::new("guest", "stdio refused")),
            }
        }
        self.processes.started += 1;
        let reply = ExecuteProcessReply { process_id: FIRST_PROCESS + self.processes.started };
        encode_response::<ExecuteProcess>(id, None, Ok(reply))
    }

    /// The process ends, by a signal: whoever waits for it is told.
    fn end(&mut self, process: u64) -> Vec<u8> {
        let (over, waits): (Vec<_>, Vec<_>) =
            self.processes.waits.drain(..).partition(|(_, waited)| u64::from(*waited) == process);
        self.processes.waits = waits;
        let reply = WaitForProcessReply { exit_code: KILLED, signal: None };
        over.into_iter().flat_map(|(id, _)| encode_response::<WaitForProcess>(id, None, Ok(reply))).collect()
    }

    fn succeed(&self, message: MessageType, id: u64) -> Vec<u8> {
        macro_rules! done {
            ($($message_type:ident => $call:ty, $reply:expr;)*) => {
                match message {
                    $(MessageType::$message_type => encode_response::<$call>(id, None, Ok($reply)),)*
                    _ => encode_failure(message, id, None, Failure::not_implemented(message)),
                }
            };
        }
        done! {
            NEGOTIATE_PROTOCOL => NegotiateProtocol, NegotiateProtocolReply {
                version: self.version,
                capabilities: self.capabilities.clone(),
            };
            CREATE => Create, CreateReply::default();
            START => Start, Done {};
            SHUTDOWN_GRACEFUL => ShutdownGraceful, Done {};
            SHUTDOWN_FORCED => ShutdownForced, Done {};
            SIGNAL_PROCESS => SignalProcess, Done {};
            RESIZE_CONSOLE => ResizeConsole, Done {};
            MODIFY_SETTINGS => ModifySettings, Done {};
            DUMP_STACKS => DumpStacks, DumpStacksReply { guest_stacks: STACKS.to_owned() };
            DELETE_CONTAINER_STATE => DeleteContainerState, Done {};
            UPDATE_CONTAINER => UpdateContainer, Done {};
            GET_PROPERTIES => GetProperties, GetPropertiesReply::Linux(Box::default());
            WAIT_FOR_PROCESS => WaitForProcess, WaitForProcessReply { exit_code: 0, signal: None };
        }
    }
}

/// Processes of the recordings count up from here.
const FIRST_PROCESS: u32 = 100;
/// What a process that was killed exits with.
const KILLED: u32 = 137;
/// What the guest's agent says it does.
const STACKS: &str = "goroutine 1 [running]:\nmain.main()\n";

/// A container's end, as a guest tells it.
pub(super) fn exit_of(id: &str) -> Result<ContainerNotification, String> {
    let notification = json!({
        "ContainerId": id, "ActivityId": "00000000-0000-0000-0000-000000000000", "Type": "GracefulExit",
        "Operation": "None", "Result": 0
    });
    serde_json::from_value(notification).map_err(|e| e.to_string())
}
