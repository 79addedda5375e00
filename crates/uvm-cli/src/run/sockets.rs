//! Virtual sockets of programs in the guest, each connection relayed to a Unix socket of the host.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::Instant;
use uvm::{GuestListener, HvSocketServiceConfig, HvSocketServiceId, UtilityVm, UvmError};

use crate::args::VirtualSocket;
use crate::report;

/// The ports that are relayed. Dropping it closes them and cuts their connections.
pub(crate) struct Sockets {
    _ports: JoinSet<()>,
}

impl Sockets {
    /// Lets the guest's programs dial the ports from now on.
    pub(crate) async fn open(vm: &UtilityVm, wanted: &[VirtualSocket]) -> Result<Self, UvmError> {
        if !wanted.is_empty() {
            raise_descriptor_limit();
        }
        let mut ports = JoinSet::new();
        for VirtualSocket { port, socket } in wanted {
            let service = HvSocketServiceId::of_port(*port);
            vm.update_hvsocket_service(&service, &HvSocketServiceConfig::guest_dials()).await?;
            ports.spawn(serve(vm.listen(*port)?, socket.clone()));
        }
        Ok(Self { _ports: ports })
    }
}

/// Each connection takes a descriptor, and the usual limit is 1024: takes as many as this program may have.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(e) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::debug!(error = %e, "the limit of open files stays as it is");
    }
}

/// Relays what comes until the VM is gone, and then what is still open.
async fn serve(mut listener: GuestListener, socket: PathBuf) {
    let mut connections = JoinSet::new();
    let mut has_warned = false;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(stream) => {
                    let socket = socket.clone();
                    connections.spawn(async move { relay(stream, &socket).await });
                }
                Err(e) => {
                    tracing::debug!(error = report::chain(&e), "nobody can dial any more");
                    break;
                }
            },
            Some(ended) = connections.join_next() => {
                let Ok(Err(NotConnected(e))) = ended else { continue };
                let (port, socket) = (listener.port(), socket.display());
                if has_warned {
                    tracing::debug!(%port, %socket, error = report::chain(&e), "refused a connection");
                    continue;
                }
                has_warned = true;
                tracing::warn!(%port, %socket, error = report::chain(&e), "connections to this port are refused");
            }
        }
    }
    while connections.join_next().await.is_some() {}
}

/// Nobody takes connections of the socket.
#[derive(Debug)]
struct NotConnected(io::Error);

/// Relays one connection until both directions have ended, each by itself, or one was cut. Dropping `guest` before that
/// resets it.
async fn relay(mut guest: impl AsyncRead + AsyncWrite + Unpin, socket: &Path) -> Result<(), NotConnected> {
    let mut host = connect(socket).await.map_err(NotConnected)?;
    if let Err(e) = tokio::io::copy_bidirectional(&mut guest, &mut host).await {
        tracing::debug!(socket = %socket.display(), error = report::chain(&e), "a connection was cut");
    }
    Ok(())
}

/// Connects to the socket; if as many wait as its listener allows, when there is room.
async fn connect(socket: &Path) -> io::Result<UnixStream> {
    let give_up = Instant::now() + BUSY;
    loop {
        match UnixStream::connect(socket).await {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && Instant::now() < give_up => {
                tokio::time::sleep(RETRY).await;
            }
            result => return result,
        }
    }
}

/// How long a listener may have no room.
const BUSY: Duration = Duration::from_secs(10);
/// When to look again.
const RETRY: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll};

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::net::UnixListener;
    use tokio::sync::mpsc;
    use uvm::GuestStream;
    use uvm::platform::{PlatformError, Port, stream::PollAccept};

    use super::*;

    /// What the guest dials.
    struct Dialled(mpsc::UnboundedReceiver<GuestStream>);

    impl PollAccept for Dialled {
        fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Result<GuestStream, PlatformError>> {
            self.0.poll_recv(cx).map(|stream| stream.ok_or_else(|| PlatformError::host("listen", "the VM is gone")))
        }
    }

    struct Guest(mpsc::UnboundedSender<GuestStream>);

    impl Guest {
        /// Dials.
        fn dial(&self) -> DuplexStream {
            let (program, stream) = tokio::io::duplex(4096);
            self.0.send(GuestStream::new(stream)).expect("it is served");
            program
        }
    }

    fn served(socket: &Path) -> (Guest, tokio::task::JoinHandle<()>) {
        let (sender, dialled) = mpsc::unbounded_channel();
        let listener = GuestListener::new(Port(5000), Dialled(dialled));
        (Guest(sender), tokio::spawn(serve(listener, socket.to_owned())))
    }

    async fn all(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.expect("readable");
        bytes
    }

    #[tokio::test]
    async fn both_directions_end_by_themselves_and_connections_do_not_mix() {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("socket");
        let listener = UnixListener::bind(&socket).expect("it is free");
        let (guest, served) = served(&socket);
        // This one stalls all the time.
        let stalled = guest.dial();
        let (stalled_host, _) = listener.accept().await.expect("it connects");
        let mut program = guest.dial();
        let (mut host, _) = listener.accept().await.expect("it connects");
        // The program's direction ends first...
        let question = vec![b'q'; 100_000];
        let ask = async {
            program.write_all(&question).await.expect("it goes on");
            program.shutdown().await.expect("it goes on");
        };
        let ((), heard) = tokio::join!(ask, all(&mut host));
        assert_eq!(heard, question);
        // ...and the other goes on.
        host.write_all(b"answer").await.expect("it goes on");
        drop(host);
        assert_eq!(all(&mut program).await, b"answer");
        // The other way round.
        let mut program = guest.dial();
        let (mut host, _) = listener.accept().await.expect("it connects");
        host.write_all(b"welcome").await.expect("it goes on");
        host.shutdown().await.expect("it goes on");
        assert_eq!(all(&mut program).await, b"welcome");
        program.write_all(b"thanks").await.expect("it goes on");
        program.shutdown().await.expect("it goes on");
        assert_eq!(all(&mut host).await, b"thanks");
        drop((stalled, stalled_host, guest));
        served.await.expect("it ends with the VM");
    }

    #[tokio::test]
    async fn a_socket_that_is_not_there_cuts_the_connection_and_only_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("socket");
        let (guest, served) = served(&socket);
        for _ in 0..3 {
            let mut program = guest.dial();
            assert_eq!(all(&mut program).await, b"", "missing");
        }
        drop(UnixListener::bind(&socket).expect("it is free"));
        assert_eq!(all(&mut guest.dial()).await, b"", "refused");
        std::fs::remove_file(&socket).expect("it is there");
        let listener = UnixListener::bind(&socket).expect("it is free");
        let mut program = guest.dial();
        let (mut host, _) = listener.accept().await.expect("it connects");
        host.write_all(b"at last").await.expect("it goes on");
        drop(host);
        assert_eq!(all(&mut program).await, b"at last");
        drop((program, guest));
        served.await.expect("it ends with the VM");
    }
}
