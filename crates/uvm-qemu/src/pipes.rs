//! Pipes: Unix sockets of the host, offered in the guest, each connection carried by the agent's transport on a port of the
//! socket's own.
//!
//! Nothing that a guest sends is read here, only passed on. It is passed on by a thread of its own, from the first pipe on, so
//! that a guest that is busy with sockets holds up nothing else of its VM.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use uvm_mux::relay::{Progress, relay};
use uvm_platform::requests::MappedPipe;
use uvm_platform::{GuestListener, GuestStream, PlatformError, Port, VmThread};

use crate::short_path::ShortDir;
use crate::vm::Vm;

/// Connections at a time by one pipe; further ones wait in the guest. The agent has the same limit.
const PER_PIPE: usize = 128;
/// Connections at a time by all pipes of a VM, each a descriptor of this process, if that may have so many: no more than an
/// eighth of what it may. Further ones wait.
const PER_VM: usize = 512;
/// What the guest's agent waits for, once the socket was reached.
const REACHED: &[u8] = &[1];

/// The pipes of one VM, and where they are served.
pub(crate) struct Pipes {
    served: Mutex<Served>,
    connections: Arc<Semaphore>,
}

#[derive(Default)]
struct Served {
    thread: Option<VmThread>,
    pipes: BTreeMap<Port, Pipe>,
    /// The VM has ended.
    is_over: bool,
}

/// One that is served, with its connections, until it is dropped.
struct Pipe(AbortHandle);

impl Drop for Pipe {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Default for Pipes {
    fn default() -> Self {
        let of_vm = PER_VM.min(descriptors_of_process() / 8).max(1);
        Self { served: Mutex::default(), connections: Arc::new(Semaphore::new(of_vm)) }
    }
}

impl Pipes {
    fn lock(&self) -> MutexGuard<'_, Served> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends everything: the VM has ended.
    pub(crate) fn close(&self) {
        *self.lock() = Served { is_over: true, ..Served::default() };
    }
}

impl Vm {
    /// Serves a socket on its port.
    pub(crate) async fn add_pipe(&self, pipe: MappedPipe) -> Result<(), PlatformError> {
        let MappedPipe { path, port } = pipe;
        let intent = format!("offer the socket {}", path.display());
        let Some(port) = port else {
            return Err(PlatformError::host(intent, "no port is given, and guests do not reach it by themselves"));
        };
        let socket = self.blocking_step(format!("look at socket {}", path.display()), move || look_at(&path)).await?;
        let listener = self.transport.get().listen(port)?;
        let mut served = self.pipes.lock();
        if served.is_over {
            return Err(PlatformError::host(intent, "the VM has ended"));
        }
        if served.thread.is_none() {
            let thread = VmThread::start(&format!("{}-pipes", self.id));
            served.thread = Some(thread.map_err(|e| PlatformError::host("start the thread of a VM's pipes", e))?);
        }
        let carrier = Server {
            vm: self.id.to_string(),
            socket,
            connections: Arc::clone(&self.pipes.connections),
            has_warned: AtomicBool::new(false),
        };
        if let Some(thread) = &served.thread {
            let task = thread.handle().spawn(Arc::new(carrier).serve(listener)).abort_handle();
            served.pipes.insert(port, Pipe(task));
        }
        Ok(())
    }

    /// Ends a pipe, and cuts its connections. One that is not there has ended.
    pub(crate) fn remove_pipe(&self, pipe: &MappedPipe) {
        if let Some(port) = pipe.port {
            drop(self.pipes.lock().pipes.remove(&port));
        }
    }
}

/// The full path of a socket. Blocking.
fn look_at(path: &Path) -> Result<PathBuf, PlatformError> {
    let bad = |why: String| PlatformError::BadInput { what: "socket", value: path.display().to_string(), why };
    let meta = path.metadata().map_err(|e| bad(e.to_string()))?;
    if !meta.file_type().is_socket() {
        return Err(bad("it is no Unix socket".into()));
    }
    // Whatever directory the process is in by then.
    std::path::absolute(path).map_err(|e| bad(e.to_string()))
}

/// What serves one pipe.
struct Server {
    vm: String,
    socket: PathBuf,
    connections: Arc<Semaphore>,
    /// The guest decides how often something goes wrong, so only the first time is a warning.
    has_warned: AtomicBool,
}

impl Server {
    /// Takes connections until the VM is gone. Dropping it cuts them.
    async fn serve(self: Arc<Self>, mut listener: GuestListener) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept(), if connections.len() < PER_PIPE => match accepted {
                    Ok(stream) => drop(connections.spawn(Arc::clone(&self).connection(stream))),
                    Err(_) => break,
                },
                Some(_) = connections.join_next() => {}
            }
        }
        // They end with their streams.
        while connections.join_next().await.is_some() {}
    }

    /// Carries one connection to its end. Dropping its stream before that resets it.
    async fn connection(self: Arc<Self>, mut stream: GuestStream) {
        // Neither is ever closed.
        let (Ok(_of_vm), Ok(_of_process)) = (self.connections.acquire().await, PROCESS.acquire().await) else { return };
        let host = match connect(&self.socket).await {
            Ok(host) => host,
            Err(e) => return self.refused(&e),
        };
        let carried = async {
            stream.write_all(REACHED).await?;
            stream.flush().await?;
            relay(stream, host, &Progress::default()).await
        };
        if let Err(error) = carried.await {
            tracing::debug!(vm = self.vm, socket = %self.socket.display(), %error, "a connection was cut");
        }
    }

    fn refused(&self, error: &io::Error) {
        let (vm, socket) = (&self.vm, self.socket.display());
        if self.has_warned.swap(true, Ordering::Relaxed) {
            tracing::debug!(vm, %socket, %error, "a guest's connection was cut: the socket cannot be reached");
        } else {
            tracing::warn!(
                vm, %socket, %error,
                "a guest's connection was cut: the socket cannot be reached; further ones are told at level debug"
            );
        }
    }
}

/// Connections at a time by all pipes of all VMs: a quarter of the descriptors that this process may have, which has more to
/// do.
static PROCESS: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new((descriptors_of_process() / 4).max(1)));

fn descriptors_of_process() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.and_then(|limit| usize::try_from(limit).ok()).map_or(MOST_DESCRIPTORS, |limit| limit.min(MOST_DESCRIPTORS))
}

/// As many as are counted on, of a process that may have more.
const MOST_DESCRIPTORS: usize = 1 << 20;

/// Connects to the socket; if as many wait as its listener allows, when there is room.
async fn connect(socket: &Path) -> io::Result<UnixStream> {
    let give_up = Instant::now() + BUSY;
    loop {
        match connect_now(socket).await {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && Instant::now() < give_up => {
                tokio::time::sleep(RETRY).await;
            }
            result => return result,
        }
    }
}

async fn connect_now(socket: &Path) -> io::Result<UnixStream> {
    let (Some(directory), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::ErrorKind::NotFound.into());
    };
    if socket.as_os_str().len() <= ADDRESS_BYTES {
        return UnixStream::connect(socket).await;
    }
    let directory = ShortDir::open(directory)?;
    UnixStream::connect(directory.join(name)).await
}

/// The longest path that a socket's address holds.
const ADDRESS_BYTES: usize = 107;
/// How long a listener may have no room. The agent waits longer (25 s).
const BUSY: Duration = Duration::from_secs(10);
/// When to look again.
const RETRY: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, DuplexStream};
    use tokio::net::UnixListener;
    use tokio::sync::mpsc;

    use super::*;
    use crate::test_listener;

    /// A guest's end of a pipe to this socket, and what serves it.
    fn served(socket: &Path) -> (mpsc::UnboundedSender<DuplexStream>, tokio::task::JoinHandle<()>) {
        let (dial, listener) = test_listener::listen(Port(7));
        let server = Server {
            vm: "vm".into(),
            socket: socket.to_owned(),
            connections: Arc::new(Semaphore::new(PER_VM)),
            has_warned: AtomicBool::new(false),
        };
        (dial, tokio::spawn(Arc::new(server).serve(listener)))
    }

    fn dial(guest: &mpsc::UnboundedSender<DuplexStream>) -> DuplexStream {
        let (own, other) = tokio::io::duplex(64);
        guest.send(other).expect("it is served");
        own
    }

    #[test]
    fn what_is_no_socket_is_named_with_the_reason() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("file");
        std::fs::write(&file, "").expect("written");
        for (path, why) in [(&file, "no Unix socket"), (&dir.path().join("missing"), "No such file")] {
            let error = look_at(path).expect_err("none").to_string();
            assert!(error.contains(&path.display().to_string()) && error.contains(why), "{error}");
        }
    }

    #[tokio::test]
    async fn a_socket_is_reached_anew_by_each_connection_and_its_path_may_be_long() {
        let dir = tempfile::tempdir().expect("a directory");
        let long = dir.path().join("d".repeat(120));
        std::fs::create_dir(&long).expect("made");
        let bind = |name: &str| {
            let short = ShortDir::open(&long).expect("open");
            UnixListener::bind(short.join(name)).expect("free")
        };
        let (guest, server) = served(&long.join("socket"));
        // Nobody listens yet.
        assert_eq!(dial(&guest).read(&mut [0]).await.expect("the end"), 0);
        for content in [b"one", b"two"] {
            let listener = bind("socket");
            let mut stream = dial(&guest);
            let (mut host, _) = listener.accept().await.expect("connected");
            host.write_all(content).await.expect("there is room");
            drop(host);
            let mut came = Vec::new();
            stream.read_to_end(&mut came).await.expect("an end");
            assert_eq!(came, [REACHED, content].concat());
            std::fs::remove_file(long.join("socket")).expect("removed");
        }
        drop(guest);
        server.await.expect("it ends with the VM");
    }

    #[tokio::test]
    async fn so_many_connections_are_carried_and_the_next_when_one_has_ended() {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("socket");
        let listener = UnixListener::bind(&socket).expect("free");
        let (guest, server) = served(&socket);
        let mut carried = Vec::new();
        for _ in 0..PER_PIPE {
            let stream = dial(&guest);
            carried.push((stream, listener.accept().await.expect("connected")));
        }
        let mut next = dial(&guest);
        let early = tokio::time::timeout(Duration::from_millis(100), listener.accept()).await;
        assert!(early.is_err(), "one too many");
        carried.pop();
        let (host, _) = listener.accept().await.expect("connected");
        assert_eq!(next.read_u8().await.expect("carried"), REACHED[0]);
        drop((carried, host, next, guest));
        server.await.expect("it ends with the VM");
    }

    #[tokio::test]
    async fn a_pipe_that_is_removed_cuts_its_connections() {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("socket");
        let listener = UnixListener::bind(&socket).expect("free");
        let (guest, server) = served(&socket);
        let mut stream = dial(&guest);
        let (mut host, _) = listener.accept().await.expect("connected");
        assert_eq!(stream.read_u8().await.expect("carried"), REACHED[0]);
        drop(Pipe(server.abort_handle()));
        assert_eq!(stream.read(&mut [0]).await.expect("the end"), 0);
        assert_eq!(host.read(&mut [0]).await.expect("the end"), 0);
        assert!(guest.is_closed());
    }
}
