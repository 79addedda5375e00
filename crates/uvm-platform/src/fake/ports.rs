//! Ports of a fake VM, and the guest's end of them.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::mpsc;

use super::census::{Census, Counted};
use super::stream::{FakeStream, Wire};
use crate::error::PlatformError;
use crate::stream::{GuestListener, GuestStream, PollAccept, Port};

/// Streams waiting to be accepted on one port.
const BACKLOG: usize = 64;

type Listeners = HashMap<Port, mpsc::Sender<FakeStream>>;

/// Who listens where, and what is connected. Clones share it.
#[derive(Clone)]
pub(super) struct Ports {
    shared: Arc<Mutex<Shared>>,
    census: Census,
}

#[derive(Default)]
struct Shared {
    host: Listeners,
    guest: Listeners,
    wires: Vec<Wire>,
}

impl Ports {
    pub(super) fn new(census: Census) -> Self {
        Self { shared: Arc::default(), census }
    }

    pub(super) fn listen_on_host(&self, port: Port) -> Result<GuestListener, PlatformError> {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let mut shared = self.lock();
        if shared.host.get(&port).is_some_and(|listener| !listener.is_closed()) {
            return Err(PlatformError::host(
                format!("listen on port {port}"),
                io::Error::from(io::ErrorKind::AddrInUse),
            ));
        }
        shared.host.insert(port, sender);
        Ok(GuestListener::new(port, HostListener { receiver, _counted: self.census.count("ports") }))
    }

    pub(super) fn listen_in_guest(&self, port: Port) -> mpsc::Receiver<FakeStream> {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        self.lock().guest.insert(port, sender);
        receiver
    }

    pub(super) async fn dial_guest(&self, port: Port) -> Result<GuestStream, PlatformError> {
        let (near, far) = self.connect();
        let listener = self.lock().guest.get(&port).cloned();
        hand_over(listener, far)
            .await
            .map(|()| GuestStream::new(near))
            .map_err(|e| PlatformError::host(format!("dial port {port}"), e))
    }

    pub(super) async fn dial_host(&self, port: Port) -> io::Result<FakeStream> {
        let (far, near) = self.connect();
        let listener = self.lock().host.get(&port).cloned();
        hand_over(listener, far).await.map(|()| near)
    }

    /// A stream: the host's end and the guest's.
    fn connect(&self) -> (FakeStream, FakeStream) {
        let (host, guest, wire) = FakeStream::pair(self.census.count("streams"));
        let mut shared = self.lock();
        shared.wires.retain(Wire::is_connected);
        shared.wires.push(wire);
        (host, guest)
    }

    /// Cuts whatever is connected or would still be dialled: the VM has ended.
    pub(super) fn clear(&self) {
        let Shared { host, guest, wires } = std::mem::take(&mut *self.lock());
        wires.iter().for_each(Wire::cut);
        drop((host, guest));
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn hand_over(listener: Option<mpsc::Sender<FakeStream>>, stream: FakeStream) -> io::Result<()> {
    let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
    listener.ok_or_else(refused)?.send(stream).await.map_err(|_| refused())
}

struct HostListener {
    receiver: mpsc::Receiver<FakeStream>,
    _counted: Counted,
}

impl PollAccept for HostListener {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Result<GuestStream, PlatformError>> {
        self.receiver.poll_recv(cx).map(|stream| {
            stream.map(GuestStream::new).ok_or(PlatformError::WrongState { intent: "accept", state: "gone" })
        })
    }
}
