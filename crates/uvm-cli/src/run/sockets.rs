//! Virtual sockets of programs in the guest, each connection relayed to a Unix socket of the host.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use uvm::{GuestListener, HvSocketServiceConfig, HvSocketServiceId, UtilityVm, UvmError};
use uvm_mux::relay::{Progress, relay};

use super::connection;
use crate::args::VirtualSocket;
use crate::report;

/// The ports that are relayed. Dropping it closes them and cuts their connections.
pub(crate) struct Sockets {
    ports: JoinSet<()>,
    command_ended: watch::Sender<bool>,
}

impl Sockets {
    /// Lets the guest's programs dial the ports from now on.
    pub(crate) async fn open(vm: &UtilityVm, wanted: &[VirtualSocket]) -> Result<Self, UvmError> {
        if !wanted.is_empty() {
            raise_descriptor_limit();
        }
        let mut sockets = Self::new();
        for VirtualSocket { port, socket } in wanted {
            let service = HvSocketServiceId::of_port(*port);
            vm.update_hvsocket_service(&service, &HvSocketServiceConfig::guest_dials()).await?;
            sockets.serve(vm.listen(*port)?, socket.clone());
        }
        Ok(sockets)
    }

    fn new() -> Self {
        Self { ports: JoinSet::new(), command_ended: watch::Sender::new(false) }
    }

    fn serve(&mut self, listener: GuestListener, socket: PathBuf) {
        self.ports.spawn(serve(listener, socket, self.command_ended.subscribe()));
    }

    /// The command has ended: nobody can dial any more, and what it had sent is passed on before its connections are cut.
    /// Those that others in the guest hold open do not count once they are quiet, nor do those whose peer on the host takes
    /// nothing for a while.
    pub(crate) async fn settled(mut self) {
        self.command_ended.send_replace(true);
        while self.ports.join_next().await.is_some() {}
    }
}

/// Each connection takes a descriptor, and the usual limit is 1024: takes as many as this program may have.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(e) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::debug!(error = %e, "the limit of open files stays as it is");
    }
}

/// Relays what comes until the command has ended or the VM is gone, and then what is still open.
async fn serve(mut listener: GuestListener, socket: PathBuf, command_ended: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    let mut has_warned = false;
    let mut ended = command_ended.clone();
    let begin = |connections: &mut JoinSet<_>, stream| {
        let (socket, command_ended) = (socket.clone(), command_ended.clone());
        connections.spawn(async move { connection(stream, &socket, command_ended).await });
    };
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(stream) => begin(&mut connections, stream),
                Err(e) => {
                    tracing::debug!(error = report::chain(&e), "nobody can dial any more");
                    break;
                }
            },
            () = ends(&mut ended) => {
                // What it dialled may wait to be accepted.
                for _ in 0..BACKLOG {
                    let Some(Ok(stream)) = at_once(listener.accept()).await else { break };
                    begin(&mut connections, stream);
                }
                break;
            }
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
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Waits for the end of the command.
async fn ends(command_ended: &mut watch::Receiver<bool>) {
    if command_ended.wait_for(|ended| *ended).await.is_err() {
        // Nobody will say so, as all of this is being dropped.
        std::future::pending::<()>().await;
    }
}

/// More connections than can wait to be accepted. Others may dial for ever.
const BACKLOG: usize = 4096;

/// What a future gives without waiting.
async fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        result = future => Some(result),
        () = std::future::ready(()) => None,
    }
}

/// Nobody takes connections of the socket.
#[derive(Debug)]
struct NotConnected(io::Error);

/// Relays one connection to its end, or until all that the command sent over it was passed on. Dropping `guest` before that
/// resets it.
async fn connection(
    guest: impl AsyncRead + AsyncWrite + Unpin,
    socket: &Path,
    mut command_ended: watch::Receiver<bool>,
) -> Result<(), NotConnected> {
    let progress = Progress::default();
    let relayed = async {
        let host = connect(socket).await.map_err(NotConnected)?;
        if let Err(e) = relay(guest, host, &progress).await {
            tracing::debug!(socket = %socket.display(), error = report::chain(&e), "a connection was cut");
        }
        Ok(())
    };
    let settled = async {
        ends(&mut command_ended).await;
        connection::settled(&progress).await
    };
    tokio::select! {
        relayed = relayed => relayed,
        all_taken = settled => {
            if !all_taken {
                tracing::warn!(socket = %socket.display(), "nobody takes what the command sent: the rest is lost");
            }
            Ok(())
        }
    }
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

    /// What is dialled is relayed to the socket.
    fn served(socket: &Path) -> (Guest, Sockets) {
        let (sender, dialled) = mpsc::unbounded_channel();
        let mut sockets = Sockets::new();
        sockets.serve(GuestListener::new(Port(5000), Dialled(dialled)), socket.to_owned());
        (Guest(sender), sockets)
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
        let (guest, mut served) = served(&socket);
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
        served.ports.join_next().await.expect("one port").expect("it ends with the VM");
    }

    #[tokio::test]
    async fn a_socket_that_is_not_there_cuts_the_connection_and_only_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("socket");
        let (guest, mut served) = served(&socket);
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
        served.ports.join_next().await.expect("one port").expect("it ends with the VM");
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_command_sent_before_it_ended_is_passed_on() {
        const BYTES: usize = 1 << 20;
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("socket");
        let listener = UnixListener::bind(&socket).expect("it is free");
        let (guest, served) = served(&socket);
        let dial = || {
            let (program, stream) = tokio::io::duplex(BYTES);
            guest.0.send(GuestStream::new(stream)).expect("it is served");
            program
        };
        // Of these nothing was accepted when the command ends: one that is closed, one that others hold.
        let (mut closed, mut held) = (dial(), dial());
        closed.write_all(&vec![b'c'; BYTES]).await.expect("there is room");
        held.write_all(b"held").await.expect("there is room");
        drop(closed);
        let hosts = async {
            let (mut first, _) = listener.accept().await.expect("it connects");
            let (mut second, _) = listener.accept().await.expect("it connects");
            // Slower than anything settles, and yet it goes on.
            let mut first_came = vec![0; BYTES / 2];
            for half in first_came.chunks_mut(BYTES / 4) {
                tokio::time::sleep(Duration::from_secs(5)).await;
                first.read_exact(half).await.expect("it is there");
            }
            first.read_to_end(&mut first_came).await.expect("an end");
            (first_came.len(), all(&mut second).await)
        };
        let ((), (first, second)) = tokio::join!(served.settled(), hosts);
        assert_eq!((first, &second[..]), (BYTES, &b"held"[..]));
        assert!(guest.0.is_closed(), "nobody can dial any more");
        assert_eq!(all(&mut held).await, b"");
    }
}
