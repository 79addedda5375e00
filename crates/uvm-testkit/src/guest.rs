//! A scripted guest: the other end of a real bridge, for hosts without VMs.
//!
//! It runs by itself, or a test plays it step by step, with the guest's end of a VM
//! ([`FakePlatform::guest`](uvm_platform::fake::FakePlatform::guest)).
//!
//! ```
//! use uvm_platform::fake::FakePlatform;
//! use uvm_testkit::guest::Guest;
//!
//! let host = FakePlatform::new().with_guest(|end| async move {
//!     let mut guest = Guest::boot(&end).await.expect("the host listens");
//!     guest.serve().await;
//! });
//! # drop(host);
//! ```

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uvm_platform::Port;
use uvm_platform::fake::FakeStream;
use uvm_wire::execute::{ExecuteProcess, ExecuteProcessReply, VsockStdio};
use uvm_wire::negotiate::{Capabilities, GuestDefinedCapabilities, NegotiateProtocol, NegotiateProtocolReply};
use uvm_wire::ports::{BRIDGE_PORT, ENTROPY_PORT, LOG_PORT};
use uvm_wire::process::{WaitForProcess, WaitForProcessReply};
use uvm_wire::{
    Call, ContainerNotification, Failure, FrameDecoder, Guid, MessageType, Request, Rpc, SizeLimit, decode_request,
    encode_failure, encode_response,
};

use crate::guest_end::GuestEnd;

/// A guest whose agent has connected.
pub struct Guest {
    end: Arc<dyn GuestEnd>,
    bridge: FakeStream,
    /// The log's connection, if the host listens for one.
    pub log: Option<FakeStream>,
    /// The entropy that the host gave.
    pub entropy: Vec<u8>,
    decoder: FrameDecoder,
    unread: Vec<u8>,
}

/// A request as it came, with all it takes to answer it.
#[derive(Debug)]
pub struct Received {
    /// What the header says it is.
    pub message_type: MessageType,
    /// Its id.
    pub id: u64,
    /// What it says, as far as Linux guests understand it.
    pub request: Request,
    /// Its JSON, as it came.
    pub payload: Vec<u8>,
}

impl Guest {
    /// Boots as a guest does, once the VM is powered on: entropy, log, bridge.
    ///
    /// # Errors
    /// The host does not listen on the bridge's port, or breaks off.
    pub async fn boot<E: GuestEnd + Clone + 'static>(end: &E) -> io::Result<Self> {
        Self::boot_at(Arc::new(end.clone())).await
    }

    /// The same, on any host in memory.
    ///
    /// # Errors
    /// As there.
    pub async fn boot_at(end: Arc<dyn GuestEnd>) -> io::Result<Self> {
        end.powered_on().await;
        let mut entropy = Vec::new();
        if let Ok(mut stream) = end.dial(Port(ENTROPY_PORT)).await {
            stream.read_to_end(&mut entropy).await?;
        }
        let log = end.dial(Port(LOG_PORT)).await.ok();
        let bridge = end.dial(Port(BRIDGE_PORT)).await?;
        let decoder = FrameDecoder::new(SizeLimit::FROM_HOST);
        Ok(Self { end, bridge, log, entropy, decoder, unread: Vec::new() })
    }

    /// The next request. `None` when the host has closed the bridge.
    ///
    /// # Errors
    /// What came is no request.
    pub async fn next(&mut self) -> io::Result<Option<Received>> {
        loop {
            let bytes = std::mem::take(&mut self.unread);
            let mut rest = bytes.as_slice();
            let frame = self.decoder.next_frame(&mut rest).map_err(io::Error::other)?;
            let received = frame.map(|frame| {
                let header = frame.header;
                let request = decode_request(header.message_type, frame.payload).map_err(io::Error::other);
                let payload = frame.payload.to_vec();
                request.map(|request| Received { message_type: header.message_type, id: header.id, request, payload })
            });
            self.unread = rest.to_vec();
            if let Some(received) = received {
                return received.map(Some);
            }
            if self.bridge.read_buf(&mut self.unread).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// The next request, which must be a call of this type.
    ///
    /// # Errors
    /// The host has closed the bridge, or something else came.
    pub async fn expect<R: Rpc>(&mut self) -> io::Result<Received> {
        let received = self.next().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if received.message_type == R::MESSAGE_TYPE {
            return Ok(received);
        }
        let what = format!("{} was expected, not {}: {:?}", R::MESSAGE_TYPE, received.message_type, received.request);
        Err(io::Error::other(what))
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    /// The host has closed the bridge.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bridge.write_all(bytes).await
    }

    /// Answers a request.
    ///
    /// # Errors
    /// The host has closed the bridge.
    pub async fn reply<R: Rpc>(&mut self, received: &Received, outcome: Result<R::Reply, Failure>) -> io::Result<()> {
        self.write(&encode_response::<R>(received.id, received.request.base.activity_id, outcome)).await
    }

    /// Answers a request of any type with a failure.
    ///
    /// # Errors
    /// The host has closed the bridge.
    pub async fn fail(&mut self, received: &Received, failure: Failure) -> io::Result<()> {
        let activity: Option<Guid> = received.request.base.activity_id;
        self.write(&encode_failure(received.message_type, received.id, activity, failure)).await
    }

    /// Expects a call of this type and answers it.
    ///
    /// # Errors
    /// The host has closed the bridge, or something else came.
    pub async fn answer<R: Rpc>(&mut self, reply: R::Reply) -> io::Result<Received> {
        let received = self.expect::<R>().await?;
        self.reply::<R>(&received, Ok(reply)).await?;
        Ok(received)
    }

    /// Expects a call of this type and refuses it.
    ///
    /// # Errors
    /// The host has closed the bridge, or something else came.
    pub async fn refuse<R: Rpc>(&mut self, failure: Failure) -> io::Result<Received> {
        let received = self.expect::<R>().await?;
        self.reply::<R>(&received, Err(failure)).await?;
        Ok(received)
    }

    /// Tells that a container has ended.
    ///
    /// # Errors
    /// The host has closed the bridge.
    pub async fn notify(&mut self, notification: &ContainerNotification) -> io::Result<()> {
        self.write(&notification.encode().map_err(io::Error::other)?).await
    }

    /// Closes the bridge.
    ///
    /// # Errors
    /// It is closed.
    pub async fn hang_up(&mut self) -> io::Result<()> {
        self.bridge.shutdown().await
    }

    /// What an agent of this project says when it is asked for the protocol.
    pub fn capabilities() -> NegotiateProtocolReply {
        let capabilities = Capabilities::linux(GuestDefinedCapabilities {
            signal_process: true,
            dump_stacks: true,
            delete_container_state: true,
            external_process_signal: true,
            exit_detail: true,
            mapped_sockets: true,
            disk_sizes: true,
            pci_ports: true,
            uvm_agent_version: env!("CARGO_PKG_VERSION").into(),
            ..Default::default()
        });
        NegotiateProtocolReply { version: 4, capabilities }
    }

    /// Answers the request for the protocol, which must come first.
    ///
    /// # Errors
    /// Something else came.
    pub async fn negotiate(&mut self) -> io::Result<()> {
        self.negotiate_as(Self::capabilities()).await
    }

    /// As [`negotiate`](Self::negotiate), with this answer.
    ///
    /// # Errors
    /// Something else came.
    pub async fn negotiate_as(&mut self, reply: NegotiateProtocolReply) -> io::Result<()> {
        let received = self.expect::<NegotiateProtocol>().await?;
        self.reply::<NegotiateProtocol>(&received, Ok(reply)).await
    }

    /// Dials the ports of a process's standard streams: input, output, error.
    ///
    /// # Errors
    /// The host does not listen.
    pub async fn dial_stdio(&self, stdio: &VsockStdio) -> io::Result<[Option<FakeStream>; 3]> {
        let mut streams = [None, None, None];
        for (stream, port) in streams.iter_mut().zip([stdio.stdin, stdio.stdout, stdio.stderr]) {
            if let Some(port) = port {
                *stream = Some(self.end.dial(Port(port.get())).await?);
            }
        }
        Ok(streams)
    }

    /// Where the guest dials the host.
    pub fn end(&self) -> &Arc<dyn GuestEnd> {
        &self.end
    }

    /// Goes on as a guest whose every process writes its own name, and a line end, and exits with code 0. Returns when the
    /// host closes the bridge or wants the VM to end.
    pub async fn serve(&mut self) {
        let mut next_process = 1000;
        while let Ok(Some(received)) = self.next().await {
            let result = match &received.request.call {
                Call::NegotiateProtocol(_) => {
                    self.reply::<NegotiateProtocol>(&received, Ok(Self::capabilities())).await
                }
                Call::ExecuteProcess(call) => {
                    next_process += 1;
                    self.run(&received, call, next_process).await
                }
                Call::WaitForProcess(_) => {
                    let reply = WaitForProcessReply { exit_code: 0, signal: None };
                    self.reply::<WaitForProcess>(&received, Ok(reply)).await
                }
                Call::ShutdownGraceful(_) | Call::ShutdownForced(_) => return,
                _ => self.fail(&received, Failure::not_implemented(received.message_type)).await,
            };
            if result.is_err() {
                return;
            }
        }
    }

    async fn run(&mut self, received: &Received, call: &ExecuteProcess, process_id: u32) -> io::Result<()> {
        let stdio = call.settings.vsock_stdio.unwrap_or_default();
        let [_stdin, stdout, _stderr] = self.dial_stdio(&stdio).await?;
        self.reply::<ExecuteProcess>(received, Ok(ExecuteProcessReply { process_id })).await?;
        if let Some(mut stdout) = stdout {
            let name = call.settings.parameters.command_args.first().map_or("", String::as_str);
            stdout.write_all(format!("{name}\n").as_bytes()).await?;
            stdout.shutdown().await?;
        }
        Ok(())
    }
}
