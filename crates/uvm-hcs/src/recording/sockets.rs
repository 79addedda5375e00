//! Sockets between a host in memory and the guest that a test plays.

use std::io;
use std::task::{Context, Poll};

use tokio::sync::mpsc;
use uvm_platform::fake::FakeStream;
use uvm_platform::stream::PollAccept;
use uvm_platform::{BoxFuture, GuestStream, PlatformError};
use uvm_wire::{Guid, Hresult};

use super::{RecordedCall, RecordingHcs};
use crate::host::{HcsError, HvSockets};

impl RecordingHcs {
    /// Plays the guest of the VM: dials a service that the host listens on.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn dial(&self, vm: Guid, service: Guid) -> io::Result<FakeStream> {
        let listener = self.lock().host_listeners.get(&(vm, service)).cloned();
        connect(listener)
    }

    /// Plays the guest of the VM: listens on a service that the host may dial.
    pub fn listen_in_guest(&self, vm: Guid, service: Guid) -> mpsc::UnboundedReceiver<FakeStream> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.lock().guest_listeners.insert((vm, service), sender);
        receiver
    }

    /// The services that the host listens on for the VM.
    pub fn listened_services(&self, vm: Guid) -> Vec<Guid> {
        let state = self.lock();
        let open = state.host_listeners.iter().filter(|(_, listener)| !listener.is_closed());
        let mut services: Vec<Guid> = open.filter(|((of, _), _)| *of == vm).map(|((_, service), _)| *service).collect();
        services.sort_unstable();
        services
    }
}

/// Hands one end to the listener and gives the other.
fn connect(listener: Option<mpsc::UnboundedSender<FakeStream>>) -> io::Result<FakeStream> {
    let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
    let (near, far) = FakeStream::unowned_pair();
    listener.ok_or_else(refused)?.send(far).map_err(|_| refused())?;
    Ok(near)
}

impl HvSockets for RecordingHcs {
    fn listen(&self, vm: Guid, service: Guid) -> Result<Box<dyn PollAccept>, HcsError> {
        let intent = "listen on hvsocket";
        let id = format!("{vm}:{service}");
        self.note(RecordedCall::new("hvsock", "listen").on(&id), intent)
            .map_err(|error| error.unwrap_or_else(|| HcsError::new(intent, &id, Hresult::TIMEOUT, "")))?;
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut state = self.lock();
        if state.host_listeners.get(&(vm, service)).is_some_and(|listener| !listener.is_closed()) {
            return Err(HcsError::new(intent, id, ADDRESS_IN_USE, ""));
        }
        state.host_listeners.insert((vm, service), sender);
        Ok(Box::new(MemoryListener { receiver }))
    }

    fn connect(&self, vm: Guid, service: Guid) -> BoxFuture<'_, Result<GuestStream, HcsError>> {
        Box::pin(async move {
            let intent = "dial hvsocket";
            let id = format!("{vm}:{service}");
            self.call(RecordedCall::new("hvsock", "connect").on(&id), intent).await?;
            let listener = self.lock().guest_listeners.get(&(vm, service)).cloned();
            connect(listener).map(GuestStream::new).map_err(|_| HcsError::new(intent, id, CONNECTION_REFUSED, ""))
        })
    }
}

struct MemoryListener {
    receiver: mpsc::UnboundedReceiver<FakeStream>,
}

impl PollAccept for MemoryListener {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Result<GuestStream, PlatformError>> {
        self.receiver.poll_recv(cx).map(|stream| {
            stream.map(GuestStream::new).ok_or(PlatformError::WrongState { intent: "accept", state: "gone" })
        })
    }
}

/// The results of the system's socket errors.
const ADDRESS_IN_USE: Hresult = Hresult::from_bits(0x8007_2740);
const CONNECTION_REFUSED: Hresult = Hresult::from_bits(0x8007_274d);
