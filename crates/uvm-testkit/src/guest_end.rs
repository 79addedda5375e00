//! The guest's end of a VM on a host in memory, whichever that is.

use std::io;

use uvm_hcs::host::{Notification, NotificationKind};
use uvm_hcs::recording::RecordingHcs;
use uvm_platform::fake::{FakeGuestEnd, FakeStream};
use uvm_platform::{BoxFuture, ExitStatus, Port};
use uvm_wire::ports::{BRIDGE_PORT, WINDOWS_BRIDGE_SERVICE, vsock_service};
use uvm_wire::{Guid, Hresult};

/// Where a scripted guest meets its host.
pub trait GuestEnd: Send + Sync {
    /// Waits until the VM is powered on.
    fn powered_on(&self) -> BoxFuture<'_, ()>;

    /// Dials a port of the host, as the agent does.
    ///
    /// # Errors
    /// Nobody listens.
    fn dial(&self, port: Port) -> BoxFuture<'_, io::Result<FakeStream>>;

    /// Dials a port of the host by a virtual socket, as a program does.
    ///
    /// # Errors
    /// Nobody listens.
    fn dial_socket(&self, port: Port) -> BoxFuture<'_, io::Result<FakeStream>>;

    /// Listens on a virtual socket from now on, for one who dials. `None`: the VM is gone.
    fn accept_socket(&self, port: Port) -> BoxFuture<'static, Option<FakeStream>>;

    /// Waits until the VM has ended: then nothing is left of its guest. For hosts that do not cut their guests off.
    fn ended(&self) -> BoxFuture<'_, ()>;

    /// Ends the VM, as its kernel does.
    fn power_off(&self);
}

impl GuestEnd for FakeGuestEnd {
    fn powered_on(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.powered_on())
    }

    fn dial(&self, port: Port) -> BoxFuture<'_, io::Result<FakeStream>> {
        Box::pin(self.dial(port))
    }

    fn dial_socket(&self, port: Port) -> BoxFuture<'_, io::Result<FakeStream>> {
        Box::pin(self.dial_socket(port))
    }

    fn accept_socket(&self, port: Port) -> BoxFuture<'static, Option<FakeStream>> {
        let mut listener = self.listen_socket(port);
        Box::pin(async move { listener.recv().await })
    }

    /// Its streams are cut.
    fn ended(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }

    fn power_off(&self) {
        self.exit(ExitStatus::PoweredOff);
    }
}

/// The guest's end of a compute system in memory.
#[derive(Clone)]
pub struct RecordedEnd {
    host: RecordingHcs,
    system: String,
    runtime_id: Guid,
}

impl RecordedEnd {
    /// That of the system `system`, whose sockets are addressed by `runtime_id`.
    pub fn new(host: &RecordingHcs, system: &str, runtime_id: Guid) -> Self {
        Self { host: host.clone(), system: system.to_owned(), runtime_id }
    }
}

impl GuestEnd for RecordedEnd {
    fn powered_on(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.host.started(&self.system))
    }

    /// A Windows guest finds the bridge under an id of its own.
    fn dial(&self, port: Port) -> BoxFuture<'_, io::Result<FakeStream>> {
        let dialled = match self.host.dial(self.runtime_id, vsock_service(port.0)) {
            Err(_) if port == Port(BRIDGE_PORT) => self.host.dial(self.runtime_id, WINDOWS_BRIDGE_SERVICE),
            dialled => dialled,
        };
        Box::pin(async { dialled })
    }

    /// There is one kind of socket.
    fn dial_socket(&self, port: Port) -> BoxFuture<'_, io::Result<FakeStream>> {
        self.dial(port)
    }

    fn accept_socket(&self, port: Port) -> BoxFuture<'static, Option<FakeStream>> {
        let mut listener = self.host.listen_in_guest(self.runtime_id, vsock_service(port.0));
        Box::pin(async move { listener.recv().await })
    }

    fn ended(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.host.ended(&self.system))
    }

    fn power_off(&self) {
        self.host.notify(&self.system, Notification::new(NotificationKind::SystemExited, Hresult::OK));
    }
}
