//! The guest's end of a fake VM: what a scripted guest is given, and what a test plays the guest with.

use std::io;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::life::Life;
use super::stream::FakeStream;
use crate::stream::Port;
use crate::vm::{ExitStatus, VmEvent};

/// The guest's end of a fake VM. Clones are the same end; it does not keep the VM.
#[derive(Clone)]
pub struct FakeGuestEnd {
    pub(super) life: Arc<Life>,
}

impl FakeGuestEnd {
    /// Waits until the VM is powered on.
    pub async fn powered_on(&self) {
        self.life.powered_on().await;
    }

    /// Dials a port of the host.
    ///
    /// # Errors
    /// `ConnectionRefused` when nobody listens.
    pub async fn dial(&self, port: Port) -> io::Result<FakeStream> {
        self.life.ports.dial_host(port).await
    }

    /// Listens for the host.
    pub fn listen(&self, port: Port) -> mpsc::Receiver<FakeStream> {
        self.life.ports.listen_in_guest(port)
    }

    /// Dials a port of the host by a virtual socket.
    ///
    /// # Errors
    /// `ConnectionRefused` when nobody listens.
    pub async fn dial_socket(&self, port: Port) -> io::Result<FakeStream> {
        self.life.sockets.dial_host(port).await
    }

    /// Listens for the host on a virtual socket.
    pub fn listen_socket(&self, port: Port) -> mpsc::Receiver<FakeStream> {
        self.life.sockets.listen_in_guest(port)
    }

    /// Ends the VM. Its streams are cut; a script that runs is not polled again.
    pub fn exit(&self, status: ExitStatus) {
        self.life.end(status);
    }

    /// Tells of something that happened to the VM, short of its end.
    pub fn tell(&self, event: VmEvent) {
        self.life.tell(event);
    }
}
