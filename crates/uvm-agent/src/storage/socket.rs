//! Unix sockets of the host, offered in the guest: each connection is carried over the link to the host.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use uvm_mux::relay::{Progress, relay};
use uvm_wire::modify::{MappedSocket, SOCKET_REACHED};

use super::turns::Place;
use super::{Storage, StorageError, path};
use crate::link::Link;

/// Connections at a time by one socket; whoever connects beyond that waits, as the listener's queue allows.
const PER_SOCKET: usize = 128;
/// Connections at a time by all of them: half of the streams that the multiplexer has.
const IN_ALL: usize = 512;
/// How long the host may take to reach its socket; it gives up earlier by itself (after 10 s).
const REACHED_WITHIN: Duration = Duration::from_secs(30);
/// How long to wait when the system has no descriptor for a connection.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest path that a socket's address holds.
const ADDRESS_BYTES: usize = 107;

/// The sockets that are offered. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Sockets {
    offered: Arc<Mutex<HashMap<PathBuf, Offered>>>,
    connections: Arc<Semaphore>,
}

/// One that is offered, with its connections, until it is dropped.
#[derive(Debug)]
struct Offered {
    port: u32,
    /// What is to be removed: who may write to the directory may have put something else there.
    file: (u64, u64),
    task: AbortHandle,
}

impl Drop for Offered {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Default for Sockets {
    fn default() -> Self {
        Self { offered: Arc::default(), connections: Arc::new(Semaphore::new(IN_ALL)) }
    }
}

/// Listens at the path, with the directories above it.
pub(super) async fn add(storage: &Storage, link: &Link, socket: MappedSocket) -> Result<(), StorageError> {
    let request = storage.begin(places(&socket)).await?;
    let task = format!("offering a socket of the host at {:?}", socket.mount_path);
    let (sockets, late, link) = (storage.sockets.clone(), storage.sockets.clone(), link.clone());
    let offered = socket.clone();
    let undo = move || late.remove(&socket);
    // On a thread: the path may be on a share of the host.
    request.run(&task, move || sockets.offer(&offered, link), || (), undo).await
}

/// Ends the listening, and cuts its connections. That there is none is success.
pub(super) async fn remove(storage: &Storage, socket: MappedSocket) -> Result<(), StorageError> {
    let request = storage.begin(places(&socket)).await?;
    let task = format!("removing the socket at {:?}", socket.mount_path);
    let sockets = storage.sockets.clone();
    request.run(&task, move || sockets.remove(&socket), || (), || Ok(())).await
}

/// What a request about a socket is about.
fn places(socket: &MappedSocket) -> Vec<Place> {
    vec![Place::Path(socket.mount_path.clone().into())]
}

impl Sockets {
    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, Offered>> {
        self.offered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called where a runtime is: connections are carried there.
    fn offer(&self, socket: &MappedSocket, link: Link) -> Result<(), StorageError> {
        let path = path::absolute(&socket.mount_path)?;
        let bad = |why: String| StorageError::Bad(format!("{} cannot be a socket: {why}", path.display()));
        if path.as_os_str().len() > ADDRESS_BYTES {
            return Err(bad(format!("it has {} bytes, at most {ADDRESS_BYTES} are possible", path.as_os_str().len())));
        }
        if path.symlink_metadata().is_ok() {
            return Err(bad("something is there already".into()));
        }
        if let Some(above) = path.parent() {
            let made = DirBuilder::new().recursive(true).mode(0o755).create(above);
            made.map_err(StorageError::at(format!("make {}", above.display())))?;
        }
        let listening = || StorageError::at(format!("listen at {}", path.display()));
        let listener = std::os::unix::net::UnixListener::bind(path).map_err(listening())?;
        let prepared = prepare(&listener, path).and_then(|file| Ok((UnixListener::from_std(listener)?, file)));
        let (listener, file) = match prepared {
            Ok(prepared) => prepared,
            Err(e) => {
                // It was made just now.
                let _ = fs::remove_file(path);
                return Err(listening()(e));
            }
        };
        let served = serve(listener, link, socket.port, Arc::clone(&self.connections));
        let task = tokio::spawn(served).abort_handle();
        self.lock().insert(path.to_owned(), Offered { port: socket.port, file, task });
        Ok(())
    }

    fn remove(&self, socket: &MappedSocket) -> Result<(), StorageError> {
        let path = path::absolute(&socket.mount_path)?;
        let mut offered = self.lock();
        let Some(there) = offered.get(path).filter(|there| there.port == socket.port) else { return Ok(()) };
        let is_ours = path.symlink_metadata().is_ok_and(|meta| (meta.dev(), meta.ino()) == there.file);
        if is_ours {
            fs::remove_file(path).map_err(StorageError::at(format!("remove {}", path.display())))?;
        }
        offered.remove(path);
        Ok(())
    }
}

/// Lets every user connect; tells which file it is. By way of a descriptor: who may write to the directory may have put
/// something else there by now.
fn prepare(listener: &std::os::unix::net::UnixListener, path: &Path) -> io::Result<(u64, u64)> {
    listener.set_nonblocking(true)?;
    let file = File::from(rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?);
    let meta = file.metadata()?;
    fs::set_permissions(format!("/proc/self/fd/{}", file.as_raw_fd()), Permissions::from_mode(0o666))?;
    Ok((meta.dev(), meta.ino()))
}

/// Takes connections for ever. Dropping it cuts them.
async fn serve(listener: UnixListener, link: Link, port: u32, turns: Arc<Semaphore>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < PER_SOCKET => match accepted {
                Ok((socket, _)) => {
                    let (link, turns) = (link.clone(), Arc::clone(&turns));
                    connections.spawn(async move { connection(socket, &link, port, &turns).await });
                }
                // There may be descriptors again later.
                Err(_) => tokio::time::sleep(PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Carries one connection to its end. Nothing is read of it before the host has reached its socket: closed with something
/// unread, it looks like a reset to whoever connected. The host tells in its log why.
async fn connection(socket: UnixStream, link: &Link, port: u32, turns: &Semaphore) {
    // Never closed.
    let Ok(_turn) = turns.acquire().await else { return };
    let Ok(mut stream) = link.dial(port).await else { return };
    let reached = tokio::time::timeout(REACHED_WITHIN, stream.read_u8()).await;
    if matches!(reached, Ok(Ok(SOCKET_REACHED))) {
        // Both have been told of whatever went wrong.
        let _ = relay(stream, socket, &Progress::default()).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::test_link;

    const PORT: u32 = 0x3000_0000;

    fn at(path: &Path) -> MappedSocket {
        MappedSocket { mount_path: path.display().to_string(), port: PORT }
    }

    async fn read_all(stream: &mut (impl AsyncReadExt + Unpin)) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.map(|_| bytes)
    }

    #[tokio::test]
    async fn connections_are_carried_by_either_carrier_and_end_with_the_socket() {
        for (host, link) in test_link::each().await {
            let dir = tempfile::tempdir().expect("a directory");
            let (storage, path) = (Storage::new(Arc::default()), dir.path().join("made/socket"));
            let mut listener = host.listen(PORT);
            add(&storage, &link, at(&path)).await.expect("offered");
            assert_eq!(path.metadata().expect("there").permissions().mode() & 0o777, 0o666);
            let mut program = UnixStream::connect(&path).await.expect("connected");
            program.write_all(b"question").await.expect("there is room");
            program.shutdown().await.expect("half-closed");
            let mut stream = listener.accept().await;
            stream.write_all(&[SOCKET_REACHED]).await.expect("told");
            assert_eq!(read_all(&mut stream).await.expect("an end"), b"question");
            stream.write_all(b"answer").await.expect("there is room");
            stream.shutdown().await.expect("half-closed");
            assert_eq!(read_all(&mut program).await.expect("an end"), b"answer");
            // One that lasts.
            let mut program = UnixStream::connect(&path).await.expect("connected");
            let mut stream = listener.accept().await;
            stream.write_all(&[SOCKET_REACHED, b'x']).await.expect("told");
            assert_eq!(program.read_u8().await.expect("carried"), b'x');
            remove(&storage, at(&path)).await.expect("removed");
            assert!(!path.exists());
            let cut = program.read_u8().await.expect_err("cut").kind();
            assert!(matches!(cut, io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset), "{cut}");
            remove(&storage, at(&path)).await.expect("it is not there");
        }
    }

    #[tokio::test]
    async fn a_socket_that_the_host_does_not_reach_is_a_reset() {
        for (host, link) in test_link::each().await {
            let dir = tempfile::tempdir().expect("a directory");
            let (storage, path) = (Storage::new(Arc::default()), dir.path().join("socket"));
            let mut listener = host.listen(PORT);
            add(&storage, &link, at(&path)).await.expect("offered");
            for told in [&[][..], &[0]] {
                let mut program = UnixStream::connect(&path).await.expect("connected");
                program.write_all(b"question").await.expect("there is room");
                let mut stream = listener.accept().await;
                stream.write_all(told).await.expect("told");
                drop(stream);
                assert_eq!(read_all(&mut program).await.expect_err("cut").kind(), io::ErrorKind::ConnectionReset);
            }
        }
    }

    #[tokio::test]
    async fn what_is_there_stays_and_is_named() {
        let (_host, link) = test_link::link().await;
        let (link, dir) = (Link::Mux(link), tempfile::tempdir().expect("a directory"));
        let (storage, path) = (Storage::new(Arc::default()), dir.path().join("file"));
        fs::write(&path, "mine").expect("written");
        let error = add(&storage, &link, at(&path)).await.expect_err("a file").to_string();
        assert!(error.contains("/file cannot be a socket: something is there"), "{error}");
        remove(&storage, at(&path)).await.expect("nothing to remove");
        assert!(path.exists());
        let error = add(&storage, &link, at(&dir.path().join("x".repeat(200)))).await.expect_err("long").to_string();
        assert!(error.contains("at most 107"), "{error}");
        let error = add(&storage, &link, at(Path::new("relative"))).await.expect_err("relative").to_string();
        assert!(error.contains("relative"), "{error}");
        // Somebody has put something else in its place.
        let path = dir.path().join("socket");
        add(&storage, &link, at(&path)).await.expect("offered");
        fs::remove_file(&path).expect("removed");
        fs::write(&path, "mine").expect("written");
        remove(&storage, at(&path)).await.expect("the listening has ended");
        assert!(path.exists());
    }
}
