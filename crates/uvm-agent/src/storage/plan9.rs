//! 9P shares: dialled over the link to the host, and mounted.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::mount::MountFlags;
use uvm_wire::modify::MappedDirectory;

use super::plan9_relay::{self, KernelEnds};
use super::{Storage, StorageError};
use crate::link::{self, DialError, Link, Stream};

/// The longest message. The kernel takes no more over descriptors, and the original asked for 64 KiB.
const MESSAGE: usize = 1 << 20;

/// Dials the host's server and mounts the share.
pub(super) async fn add(storage: &Storage, link: &Link, share: MappedDirectory) -> Result<(), StorageError> {
    let port = u32::from_ne_bytes(share.port.to_ne_bytes());
    if share.share_name.contains([',', '\0']) {
        return Err(StorageError::Bad(format!("share name {:?} has a comma or a zero in it", share.share_name)));
    }
    let (request, path) = storage.begin_at(Vec::new(), &share.mount_path).await?;
    let dialled = tokio::time::timeout_at(request.steps_until(), link.dial(port)).await;
    let dialled = dialled.unwrap_or(Err(DialError::TimedOut { port }));
    let stream = dialled.map_err(StorageError::because)?;
    let (ends, connection) = kernel_ends(stream).map_err(StorageError::at("connect a share"))?;
    let task =
        format!("mounting share {:?} at {:?}, which the host has to answer for,", share.share_name, share.mount_path);
    let modules = storage.modules.clone();
    let (points, late, late_path) = (storage.mount_points.clone(), storage.mount_points.clone(), path.clone());
    let undo = move || late.clear(&late_path);
    let work = move || {
        modules.load("9p").map_err(StorageError::because)?;
        points.mount_at(&path, || mount(&share, &path, &ends))
    };
    request.run(&task, work, move || connection.cut(), undo).await
}

/// Unmounts a share; the kernel closes its connection. That it is not mounted is success.
pub(super) async fn remove(storage: &Storage, share: MappedDirectory) -> Result<(), StorageError> {
    let (request, path) = storage.begin_at(Vec::new(), &share.mount_path).await?;
    let task = format!("unmounting share {:?} from {:?}", share.share_name, share.mount_path);
    let points = storage.mount_points.clone();
    let work = move || {
        let source = source(&share);
        points.clear_if(&path, |mounted| {
            // A host that does not say which share means the one that is there.
            mounted.filesystem == "9p" && (share.share_name.is_empty() || mounted.source == source)
        })
    };
    request.run(&task, work, || (), || Ok(())).await
}

/// What carries the kernel's requests to the host.
enum Connection {
    /// The same socket that the kernel has.
    Socket(OwnedFd),
    /// The task that relays.
    Relay(tokio::task::AbortHandle),
}

impl Connection {
    /// Ends it: the kernel's requests fail, and so does a mount that waits for one.
    fn cut(self) {
        match self {
            // One that the host has closed already is as good.
            Self::Socket(socket) => drop(rustix::net::shutdown(socket, rustix::net::Shutdown::Both)),
            Self::Relay(relay) => relay.abort(),
        }
    }
}

/// What the kernel reads and writes: the stream itself where that is a socket, else pipes, which are relayed for as long as
/// the kernel has them.
fn kernel_ends(stream: Stream) -> io::Result<(KernelEnds, Connection)> {
    match stream {
        Stream::Socket(socket) => {
            let read = link::into_descriptor(socket)?;
            let write = read.try_clone()?;
            let same = read.try_clone()?;
            Ok((KernelEnds { read, write }, Connection::Socket(same)))
        }
        Stream::Mux(stream) => {
            let (ends, relay) = plan9_relay::join(stream, MESSAGE)?;
            Ok((ends, Connection::Relay(tokio::spawn(relay).abort_handle())))
        }
    }
}

/// What the kernel's list of mounts calls a share.
fn source(share: &MappedDirectory) -> &str {
    if share.share_name.is_empty() { "9p" } else { &share.share_name }
}

fn mount(share: &MappedDirectory, path: &Path, ends: &KernelEnds) -> Result<(), StorageError> {
    let (read, write) = (ends.read.as_raw_fd(), ends.write.as_raw_fd());
    let mut options = format!("trans=fd,rfdno={read},wfdno={write},version=9p2000.L,msize={MESSAGE},access=any");
    if !share.share_name.is_empty() {
        options = format!("{options},aname={}", share.share_name);
    }
    let options = CString::new(options).unwrap_or_default();
    let flags = if share.read_only { MountFlags::RDONLY } else { MountFlags::empty() };
    rustix::mount::mount(source(share), path, "9p", flags, Some(options.as_c_str()))
        .map_err(|e| StorageError::at(format!("mount share {:?} at {}", share.share_name, path.display()))(e.into()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::io::AsyncReadExt;

    use super::super::turns::Place;
    use super::*;
    use crate::test_link;

    #[tokio::test]
    async fn a_share_is_dialled_when_it_is_its_turn() {
        let (link, dir) = test_link::sockets();
        let listener = tokio::net::UnixListener::bind(dir.path().join("564")).expect("free");
        let storage = Storage::new(Arc::default());
        let share = MappedDirectory { mount_path: "/run/share".into(), port: 564, ..MappedDirectory::default() };
        let earlier = storage.begin(vec![Place::Path("/run//share/".into())]).await.expect("free");
        let added = tokio::spawn(async move { add(&storage, &link, share).await });
        let early = tokio::time::timeout(Duration::from_millis(100), listener.accept()).await;
        assert!(early.is_err(), "it did not wait");
        drop(earlier);
        drop(listener.accept().await.expect("dialled"));
        added.await.expect("joined").expect_err("the host does not answer");
    }

    #[tokio::test]
    async fn what_waits_for_a_connection_ends_when_it_is_cut() {
        for pair in test_link::pairs(564).await {
            let (kernels, connection) = kernel_ends(pair.guest).expect("descriptors");
            let waiting = tokio::task::spawn_blocking(move || {
                let mut bytes = [0; 1];
                rustix::io::read(&kernels.read, &mut bytes)
            });
            connection.cut();
            let read = tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("an end").expect("joined");
            assert_eq!(read, Ok(0));
            let mut host = pair.host;
            // The host sees the end too, in one way or the other.
            let _ = host.read(&mut [0; 1]).await;
        }
    }

    #[tokio::test]
    async fn what_is_no_share_is_not_unmounted_as_one() {
        let storage = Storage::new(Arc::default());
        let share = |path: &str| MappedDirectory {
            mount_path: path.into(),
            share_name: "files".into(),
            ..MappedDirectory::default()
        };
        let error = remove(&storage, share("/proc")).await.expect_err("it is no share").to_string();
        assert!(error.ends_with("(proc) is mounted at /proc, not what is to be removed"), "{error}");
        remove(&storage, share("/run/nothing-is-here")).await.expect("it is not mounted");
    }
}
