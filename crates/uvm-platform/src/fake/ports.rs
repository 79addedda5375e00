//! Ports of a fake VM: pairs of in-memory pipes.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::DuplexStream;
use tokio::sync::mpsc;

use crate::error::PlatformError;
use crate::stream::{GuestListener, GuestStream, PollAccept, Port};

/// Bytes in flight per direction of one stream.
const WINDOW: usize = 64 * 1024;
/// Streams waiting to be accepted on one port.
const BACKLOG: usize = 64;

type Table = Arc<Mutex<HashMap<Port, mpsc::Sender<DuplexStream>>>>;

/// Who listens where: one table for the host's listeners, one for the guest's.
#[derive(Clone, Default)]
pub(super) struct Ports {
    host: Table,
    guest: Table,
}

impl Ports {
    pub(super) fn listen_on_host(&self, port: Port) -> Result<GuestListener, PlatformError> {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let mut table = self.host.lock().unwrap_or_else(PoisonError::into_inner);
        if table.get(&port).is_some_and(|listener| !listener.is_closed()) {
            return Err(PlatformError::host(
                format!("listen on port {port}"),
                io::Error::from(io::ErrorKind::AddrInUse),
            ));
        }
        table.insert(port, sender);
        Ok(GuestListener::new(port, HostListener(receiver)))
    }

    pub(super) async fn dial_guest(&self, port: Port) -> Result<GuestStream, PlatformError> {
        dial(&self.guest, port)
            .await
            .map(GuestStream::new)
            .map_err(|e| PlatformError::host(format!("dial port {port}"), e))
    }

    pub(super) fn guest_end(&self) -> FakeGuestEnd {
        FakeGuestEnd { ports: self.clone() }
    }

    /// Cuts whatever would still be dialled: the VM has ended.
    pub(super) fn clear(&self) {
        for table in [&self.host, &self.guest] {
            table.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }
}

async fn dial(table: &Table, port: Port) -> io::Result<DuplexStream> {
    let listener = table.lock().unwrap_or_else(PoisonError::into_inner).get(&port).cloned();
    let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
    let (near, far) = tokio::io::duplex(WINDOW);
    listener.ok_or_else(refused)?.send(far).await.map_err(|_| refused())?;
    Ok(near)
}

struct HostListener(mpsc::Receiver<DuplexStream>);

impl PollAccept for HostListener {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Result<GuestStream, PlatformError>> {
        self.0.poll_recv(cx).map(|stream| {
            stream.map(GuestStream::new).ok_or(PlatformError::WrongState { intent: "accept", state: "gone" })
        })
    }
}

/// The guest's end of a fake VM's ports: what a scripted guest is given.
#[derive(Clone)]
pub struct FakeGuestEnd {
    ports: Ports,
}

impl FakeGuestEnd {
    /// Dials a port of the host.
    ///
    /// # Errors
    /// `ConnectionRefused` when nobody listens.
    pub async fn dial(&self, port: Port) -> io::Result<DuplexStream> {
        dial(&self.ports.host, port).await
    }

    /// Listens for the host.
    pub fn listen(&self, port: Port) -> mpsc::Receiver<DuplexStream> {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        self.ports.guest.lock().unwrap_or_else(PoisonError::into_inner).insert(port, sender);
        receiver
    }
}
