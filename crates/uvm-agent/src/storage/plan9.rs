//! 9P shares: dialled over the link to the host, and mounted.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::mount::MountFlags;
use tokio::net::UnixStream;
use uvm_wire::modify::MappedDirectory;

use super::{Storage, StorageError, mount_point};
use crate::failure::with_causes;
use crate::link::{self, Link, Stream};

/// How long the host may take to answer the kernel's first requests.
const MOUNTED_WITHIN: Duration = Duration::from_secs(20);
/// The longest message. The kernel takes no more over descriptors, and the original asked for 64 KiB.
const MESSAGE: usize = 1 << 20;

/// Dials the host's server and mounts the share.
pub(super) async fn add(storage: &Storage, link: &Link, share: MappedDirectory) -> Result<(), StorageError> {
    let port = u32::from_ne_bytes(share.port.to_ne_bytes());
    if share.share_name.contains([',', '\0']) {
        return Err(StorageError::Bad(format!("share name {:?} has a comma or a zero in it", share.share_name)));
    }
    let dialled = link.dial(port).await;
    let stream = dialled.map_err(|e| StorageError::Bad(with_causes(&e)))?;
    let (descriptor, relay) = descriptor(stream).map_err(StorageError::at("connect a share"))?;
    let modules = storage.modules.clone();
    let mounting = tokio::task::spawn_blocking(move || {
        modules.load("9p").map_err(|e| StorageError::Bad(with_causes(&e)))?;
        mount(&share, &descriptor)
    });
    if let Ok(mounted) = tokio::time::timeout(MOUNTED_WITHIN, mounting).await {
        return mounted.unwrap_or_else(|e| Err(StorageError::Bad(format!("the share was not mounted: {e}"))));
    }
    // Without it the kernel's requests fail, and so does the mount.
    if let Some(relay) = relay {
        relay.abort();
    }
    Err(StorageError::Bad(format!("the host has not answered for the share within {MOUNTED_WITHIN:?}")))
}

/// Unmounts a share; the kernel closes its connection. That it is not mounted is success.
pub(super) fn remove(share: &MappedDirectory) -> Result<(), StorageError> {
    mount_point::clear(&share.mount_path)
}

/// What the kernel reads and writes: the stream itself where that is a socket, else one end of a pair, whose other end is
/// relayed for as long as the kernel has it.
fn descriptor(stream: Stream) -> io::Result<(OwnedFd, Option<tokio::task::AbortHandle>)> {
    match stream {
        Stream::Socket(socket) => Ok((link::into_descriptor(socket)?, None)),
        Stream::Mux(mut stream) => {
            let (theirs, ours) = std::os::unix::net::UnixStream::pair()?;
            ours.set_nonblocking(true)?;
            let mut ours = UnixStream::from_std(ours)?;
            let relay = tokio::spawn(async move {
                // Its end, whoever ends it, is the end of the mount.
                let _ = tokio::io::copy_bidirectional_with_sizes(&mut ours, &mut stream, RELAYED, RELAYED).await;
            });
            Ok((theirs.into(), Some(relay.abort_handle())))
        }
    }
}

/// Bytes that are relayed at a time, in each direction.
const RELAYED: usize = 128 * 1024;

fn mount(share: &MappedDirectory, descriptor: &OwnedFd) -> Result<(), StorageError> {
    let made = mount_point::make(&share.mount_path)?;
    let mounted = mount_at(share, descriptor);
    if mounted.is_err() {
        made.undo();
    }
    mounted
}

fn mount_at(share: &MappedDirectory, descriptor: &OwnedFd) -> Result<(), StorageError> {
    let fd = descriptor.as_raw_fd();
    let mut options = format!("trans=fd,rfdno={fd},wfdno={fd},version=9p2000.L,msize={MESSAGE},access=any");
    if !share.share_name.is_empty() {
        options = format!("{options},aname={}", share.share_name);
    }
    let options = CString::new(options).unwrap_or_default();
    let flags = if share.read_only { MountFlags::RDONLY } else { MountFlags::empty() };
    let source = if share.share_name.is_empty() { "9p" } else { &share.share_name };
    rustix::mount::mount(source, share.mount_path.as_str(), "9p", flags, Some(options.as_c_str())).map_err(|e| {
        StorageError::at(format!("mount share {:?} at {:?}", share.share_name, share.mount_path))(e.into())
    })
}
