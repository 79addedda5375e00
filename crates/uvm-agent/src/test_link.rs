//! Two ends of a mux in one process, for this crate's tests.

use std::os::unix::net::UnixStream;

use uvm_mux::channel::SocketChannel;
use uvm_mux::{Config, Greeting, GuestState, Mux, Role};

/// The host's end, and what carries it to the guest.
pub(crate) fn host_end() -> (Mux, SocketChannel) {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let greeting = Greeting::new(GuestState::Fresh).expect("random bytes");
    let channel = |socket| SocketChannel::new(socket).expect("a channel");
    let (host, driver) = Mux::new(channel(ours), Role::Owner(greeting), Config::default());
    tokio::spawn(driver);
    (host, channel(theirs))
}

/// The host's end and the guest's, up.
pub(crate) async fn link() -> (Mux, Mux) {
    let (host, channel) = host_end();
    let (guest, driver) = Mux::new(channel, Role::Guest, Config::default());
    tokio::spawn(driver);
    host.up().await.expect("up");
    guest.up().await.expect("up");
    (host, guest)
}
