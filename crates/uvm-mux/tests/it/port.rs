//! The guest's channel, on a socket in place of a virtio-serial port: both hang up for as long as the other end is closed.

use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use uvm_mux::channel::{Channel, PortChannel};
use uvm_mux::frame::{Control, Hello, VERSION};
use uvm_mux::{Config, Down, Greeting, GuestState, Link, Mux, Role};

use crate::pair::channel;

const LONG: Duration = Duration::from_secs(30);

/// Counts the calls.
struct Counting {
    inner: PortChannel,
    calls: Arc<AtomicUsize>,
}

impl Counting {
    fn new(socket: UnixStream) -> (Self, Arc<AtomicUsize>) {
        let calls = Arc::new(AtomicUsize::new(0));
        (Self { inner: PortChannel::new(OwnedFd::from(socket)).expect("a port"), calls: Arc::clone(&calls) }, calls)
    }

    fn count(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }
}

impl Channel for Counting {
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.count();
        self.inner.try_read(buffer)
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.count();
        self.inner.try_write(bytes)
    }

    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.count();
        self.inner.poll_read_ready(cx)
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.count();
        self.inner.poll_write_ready(cx)
    }

    fn reopens(&self) -> bool {
        self.inner.reopens()
    }

    fn read_size(&self) -> usize {
        self.inner.read_size()
    }
}

#[tokio::test]
async fn bulk_passes_a_port_that_is_full_again_and_again() {
    let (near, far) = UnixStream::pair().expect("socket pair");
    let greeting = Greeting::new(GuestState::Fresh).expect("random bytes");
    let (owner, owner_driver) = Mux::new(channel(near), Role::Owner(greeting), Config::default());
    let (port, _) = Counting::new(far);
    let (guest, guest_driver) = Mux::new(port, Role::Guest, Config::default());
    tokio::spawn(owner_driver);
    tokio::spawn(guest_driver);
    owner.up().await.expect("up");
    let mut listener = owner.listen(1).expect("free");
    let mut tasks = Vec::new();
    for _ in 0..16 {
        let mut writer = guest.dial_now(1).expect("up");
        tasks.push(tokio::spawn(async move {
            writer.write_all(&vec![1; 2_000_000]).await.expect("written");
            writer.shutdown().await.expect("half-closed");
            let mut answer = Vec::new();
            writer.read_to_end(&mut answer).await.expect("end of file");
            answer.len()
        }));
        let mut reader = listener.accept().await.expect("dialled");
        tasks.push(tokio::spawn(async move {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).await.expect("end of file");
            reader.write_all(&all[..1_000_000]).await.expect("written");
            reader.shutdown().await.expect("half-closed");
            all.len() / 2
        }));
    }
    for task in tasks {
        assert_eq!(timeout(LONG, task).await.expect("in time").expect("no panic"), 1_000_000);
    }
}

/// The kernel does not tell, as an event, of room that was there before the watch for it began, if bytes to read had come
/// meanwhile.
#[tokio::test]
async fn room_that_came_before_anybody_waited_for_it_is_found() {
    let (near, mut far) = UnixStream::pair().expect("socket pair");
    let port = PortChannel::new(OwnedFd::from(near)).expect("a port");
    let readable = || poll_fn(|cx| port.poll_read_ready(cx));
    let mut buffer = [0; 4096];
    for _ in 0..10 {
        let mut filled = 0;
        while let Ok(n) = port.try_write(&buffer) {
            filled += n;
        }
        assert!(port.try_read(&mut buffer).is_err(), "nothing has come");
        far.write_all(b"bytes").expect("written");
        let mut all = vec![0; filled];
        far.read_exact(&mut all).expect("read");
        timeout(LONG, readable()).await.expect("told of the bytes").expect("no failure");
        while port.try_read(&mut buffer).is_ok() {}
        let written = async {
            loop {
                poll_fn(|cx| port.poll_write_ready(cx)).await.expect("no failure");
                if port.try_write(b"more").is_ok() {
                    return;
                }
            }
        };
        timeout(LONG, written).await.expect("told of the room");
        far.read_exact(&mut [0; 4]).expect("read");
    }
}

#[tokio::test]
async fn a_port_that_is_full_or_hung_up_leaves_the_driver_asleep() {
    let (far, mut near) = UnixStream::pair().expect("socket pair");
    let (port, calls) = Counting::new(far);
    let (guest, driver) = Mux::new(port, Role::Guest, Config::default());
    tokio::spawn(driver);
    let hello =
        Hello { nonce: [1; 16], version: VERSION, window: 1 << 20, max_streams: 9, clock_ns: 0, entropy: [0; 32] };
    let mut bytes = [0; 80];
    let n = Control::Hello(hello).encode(&mut bytes);
    near.write_all(&bytes[..n]).expect("written");
    guest.up().await.expect("up");
    let mut stream = guest.dial_now(1).expect("up");
    assert!(timeout(Duration::from_millis(50), stream.write_all(&vec![0; 1 << 20])).await.is_err(), "not full");
    let asleep = async || {
        let before = calls.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(calls.load(Ordering::Relaxed), before);
    };
    asleep().await;
    near.shutdown(std::net::Shutdown::Write).expect("the owner's end closes");
    let mut link = guest.link();
    timeout(LONG, link.wait_for(|link| *link == Link::Down { why: Down::Closed }))
        .await
        .expect("in time")
        .expect("followed");
    asleep().await;
}
