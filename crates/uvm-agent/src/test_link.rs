//! Both ends of a link in one process, for this crate's tests.

use std::os::unix::net::UnixStream;

use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use uvm_mux::channel::SocketChannel;
use uvm_mux::{Config, Greeting, GuestState, Mux, MuxListener, MuxStream, Role};

use crate::link::{Link, Sockets, Stream};

/// The host's end, and what carries it to the guest.
pub(crate) fn host_end() -> (Mux, SocketChannel) {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let greeting = Greeting::new(GuestState::Fresh).expect("random bytes");
    let channel = |socket| SocketChannel::new(socket).expect("a channel");
    let (host, driver) = Mux::new(channel(ours), Role::Owner(greeting), Config::default());
    tokio::spawn(driver);
    (host, channel(theirs))
}

/// The host's end and the guest's of a multiplexer, up.
pub(crate) async fn link() -> (Mux, Mux) {
    let (host, channel) = host_end();
    let (guest, driver) = Mux::new(channel, Role::Guest, Config::default());
    tokio::spawn(driver);
    host.up().await.expect("up");
    guest.up().await.expect("up");
    (host, guest)
}

/// The guest's end and the host's of a stream of a multiplexer, which the guest has dialled.
pub(crate) async fn stream() -> (MuxStream, MuxStream) {
    let (host, guest) = link().await;
    let mut listener = host.listen(1).expect("free");
    let (dialled, accepted) = tokio::join!(guest.dial(1), listener.accept());
    (dialled.expect("dialled"), accepted.expect("accepted"))
}

/// Sockets as the carrier: the host listens on the sockets of a directory that have their ports as names.
pub(crate) fn sockets() -> (Link, TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_owned();
    let begin = move |port: u32| {
        let socket = UnixStream::connect(path.join(port.to_string()))?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    (Link::Sockets(Sockets::new(begin)), dir)
}

/// The host's end of a stream.
pub(crate) type HostStream = Box<dyn Duplex>;

/// Both directions.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// The host's end of either carrier.
pub(crate) enum HostEnd {
    Mux(Mux),
    Sockets(TempDir),
}

impl HostEnd {
    pub(crate) fn listen(&self, port: u32) -> Listener {
        match self {
            Self::Mux(mux) => Listener::Mux(mux.listen(port).expect("free")),
            Self::Sockets(dir) => {
                Listener::Sockets(UnixListener::bind(dir.path().join(port.to_string())).expect("free"))
            }
        }
    }
}

/// A port of the host.
pub(crate) enum Listener {
    Mux(MuxListener),
    Sockets(UnixListener),
}

impl Listener {
    pub(crate) async fn accept(&mut self) -> HostStream {
        match self {
            Self::Mux(listener) => Box::new(listener.accept().await.expect("accepted")),
            Self::Sockets(listener) => Box::new(listener.accept().await.expect("accepted").0),
        }
    }
}

/// Both ends of each carrier.
pub(crate) async fn each() -> [(HostEnd, Link); 2] {
    let (host, guest) = link().await;
    let (over_sockets, dir) = sockets();
    [(HostEnd::Mux(host), Link::Mux(guest)), (HostEnd::Sockets(dir), over_sockets)]
}

/// A stream.
pub(crate) struct Pair {
    pub(crate) host: HostStream,
    pub(crate) guest: Stream,
}

/// A stream to `port` over each carrier.
pub(crate) async fn pairs(port: u32) -> [Pair; 2] {
    let [first, second] = each().await;
    [pair(first, port).await, pair(second, port).await]
}

async fn pair((host, guest): (HostEnd, Link), port: u32) -> Pair {
    let mut listener = host.listen(port);
    let (guest, host) = tokio::join!(guest.dial(port), listener.accept());
    Pair { host, guest: guest.expect("dialled") }
}
