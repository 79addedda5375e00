//! Two ends, joined.

use std::io;
use std::os::unix::net::UnixStream;

use tokio::task::JoinHandle;
use uvm_mux::channel::SocketChannel;
use uvm_mux::{Config, Down, Greeting, GuestState, Mux, Role};

/// Two ends whose link is up, and the tasks that run them.
pub(crate) struct Pair {
    pub(crate) owner: Mux,
    pub(crate) guest: Mux,
    pub(crate) owner_driver: JoinHandle<Down>,
    pub(crate) guest_driver: JoinHandle<Down>,
}

impl Pair {
    pub(crate) async fn new() -> Self {
        Self::with(Config::default(), Config::default()).await
    }

    pub(crate) async fn with(owner: Config, guest: Config) -> Self {
        let (near, far) = UnixStream::pair().expect("socket pair");
        let greeting = Greeting::new(GuestState::Fresh).expect("random bytes");
        let (owner, owner_driver) = Mux::new(channel(near), Role::Owner(greeting), owner);
        let (guest, guest_driver) = Mux::new(channel(far), Role::Guest, guest);
        let pair =
            Self { owner, guest, owner_driver: tokio::spawn(owner_driver), guest_driver: tokio::spawn(guest_driver) };
        assert_eq!((pair.owner.up().await, pair.guest.up().await), (Ok(1), Ok(1)));
        pair
    }
}

pub(crate) fn channel(socket: UnixStream) -> SocketChannel {
    SocketChannel::new(socket).expect("a socket")
}

/// What a result's error is, for comparison.
pub(crate) fn kind<T>(result: io::Result<T>) -> Option<io::ErrorKind> {
    result.err().map(|error| error.kind())
}
