//! What carries the agent's streams: the multiplexed serial port, or virtual sockets for an agent that knows only those.

mod mux;
mod vsock;

use tokio::runtime::Handle;
use tokio::sync::watch;
use uvm_platform::stream::StreamIo;
use uvm_platform::{GuestStream, GuestTransport, Link, Port};

pub(crate) use mux::MuxTransport;
pub(crate) use vsock::{SOCKET, VsockTransport, connection, device, dial, listen};

/// The port of the bridge.
const CONTROL_PORT: Port = Port(0x4000_0000);

/// A stream that the guest dialled on `port`. What the bridge sends, `hasten` has go before what others send.
fn accepted<S: StreamIo + 'static>(port: Port, stream: S, hasten: fn(&S)) -> GuestStream {
    if port == CONTROL_PORT {
        hasten(&stream);
    }
    GuestStream::new(stream)
}

/// The one transport of the agent's streams.
pub(crate) enum AgentTransport {
    Mux(MuxTransport),
    Vsock(VsockTransport),
}

impl AgentTransport {
    pub(crate) fn get(&self) -> &dyn GuestTransport {
        match self {
            Self::Mux(mux) => mux,
            Self::Vsock(vsock) => vsock,
        }
    }

    /// Waits until it is down for good, and tells why.
    pub(crate) async fn lost(&self) -> String {
        let mut lost = match self {
            Self::Mux(mux) => mux.lost(),
            Self::Vsock(vsock) => vsock.lost(),
        };
        match lost.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => "its thread has ended".into(),
        }
    }

    /// What being up tells of the guest.
    pub(crate) fn up_means(&self) -> &'static str {
        match self {
            Self::Mux(_) => "the guest agent is connected",
            Self::Vsock(_) => "the guest's driver for virtual sockets is there",
        }
    }
}

/// Follows `links` on `runtime`, in the words of the layer above.
fn follow<L: Send + Sync + 'static>(
    mut links: watch::Receiver<L>,
    runtime: &Handle,
    translate: fn(&L) -> Link,
) -> watch::Receiver<Link> {
    let (sender, receiver) = watch::channel(translate(&links.borrow_and_update()));
    runtime.spawn(async move {
        while links.changed().await.is_ok() {
            sender.send_replace(translate(&links.borrow_and_update()));
        }
    });
    receiver
}
