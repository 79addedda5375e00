//! Two ends of a mux in one process, for this crate's tests.

use std::os::unix::net::UnixStream;

use uvm_mux::channel::SocketChannel;
use uvm_mux::{Config, Greeting, GuestState, Mux, Role};

/// The host's end and the guest's, up.
pub(crate) async fn link() -> (Mux, Mux) {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let greeting = Greeting::new(GuestState::Fresh).expect("random bytes");
    let end = |socket, role| {
        let (mux, driver) = Mux::new(SocketChannel::new(socket).expect("a channel"), role, Config::default());
        tokio::spawn(driver);
        mux
    };
    let (host, guest) = (end(ours, Role::Owner(greeting)), end(theirs, Role::Guest));
    host.up().await.expect("up");
    guest.up().await.expect("up");
    (host, guest)
}
