//! Owners that go, guests that stay, drivers that end, panics.

use std::io::{self, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use uvm_mux::channel::{Channel, SocketChannel};
use uvm_mux::frame::{Control, Hello, VERSION};
use uvm_mux::{Config, Down, Driver, Greeting, GuestState, Link, Mux, MuxError, Role, StreamError};

use crate::pair::{Pair, channel, kind};

const LONG: Duration = Duration::from_secs(10);

#[tokio::test]
async fn when_the_owner_is_lost_every_stream_ends_in_reset_and_both_drivers_end() {
    let pair = Pair::new().await;
    let mut listener = pair.guest.listen(1).expect("free");
    let mut near = pair.owner.dial_now(1).expect("up");
    near.write_all(b"unread").await.expect("written");
    let mut far = listener.accept().await.expect("dialled");
    assert_eq!(far.read_u8().await.expect("received"), b'u');

    pair.owner.close();
    assert_eq!(timeout(LONG, pair.owner_driver).await.expect("ends").expect("no panic"), Down::ClosedHere);
    assert_eq!(timeout(LONG, pair.guest_driver).await.expect("ends").expect("no panic"), Down::Closed);
    let mut rest = Vec::new();
    assert_eq!(kind(far.read_to_end(&mut rest).await), Some(ErrorKind::ConnectionReset));
    assert_eq!(rest, b"nread");
    assert_eq!(far.cut_reason(), Some(StreamError::LinkDown(Down::Closed)));
    assert_eq!(kind(near.write_all(b"x").await), Some(ErrorKind::ConnectionReset));
    assert_eq!(*pair.owner.link().borrow(), Link::Down { why: Down::ClosedHere });
    assert!(matches!(listener.accept().await, Err(MuxError::LinkDown { why: Down::Closed })));
}

#[tokio::test]
async fn when_every_handle_is_dropped_what_was_shut_down_is_sent_and_the_link_closes() {
    let Pair { owner, guest, owner_driver, guest_driver } = Pair::new().await;
    let mut listener = guest.listen(1).expect("free");
    drop(guest);
    let mut stream = owner.dial_now(1).expect("up");
    drop(owner);
    let mut accepted = listener.accept().await.expect("dialled");
    stream.write_all(&vec![3; 60_000]).await.expect("within the window");
    stream.shutdown().await.expect("half-closed");
    drop(stream);
    assert_eq!(timeout(LONG, owner_driver).await.expect("ends").expect("no panic"), Down::ClosedHere);
    let mut bytes = Vec::new();
    accepted.read_to_end(&mut bytes).await.expect("all of it, then end of file");
    assert_eq!(bytes.len(), 60_000);
    assert_eq!(timeout(LONG, guest_driver).await.expect("ends").expect("no panic"), Down::Closed);
}

#[tokio::test]
async fn a_driver_that_is_dropped_takes_the_link_down() {
    let pair = Pair::new().await;
    let mut stream = pair.owner.dial_now(1).expect("up");
    pair.owner_driver.abort();
    assert!(timeout(LONG, pair.owner_driver).await.expect("ends").is_err());
    assert_eq!(pair.owner.dead(), Some(Down::ClosedHere));
    assert_eq!(kind(stream.read_u8().await), Some(ErrorKind::ConnectionReset));
    assert_eq!(pair.owner.quiesce().await, Err(MuxError::LinkDown { why: Down::ClosedHere }));
}

#[tokio::test]
async fn a_guest_that_never_answers_is_seen_to_not_have_answered() {
    let (near, mut far) = UnixStream::pair().expect("socket pair");
    let (mux, driver) =
        Mux::new(channel(near), Role::Owner(Greeting::new(GuestState::Fresh).expect("random")), Config::default());
    let driver = tokio::spawn(driver);
    far.write_all(&vec![0x55; 100_000]).expect("noise");
    let mut link = mux.link();
    assert!(timeout(Duration::from_millis(100), link.changed()).await.is_err());
    assert_eq!(*link.borrow(), Link::Down { why: Down::NoAnswerYet });
    assert!(matches!(mux.dial_now(1), Err(MuxError::LinkDown { why: Down::NoAnswerYet })));
    drop(far);
    assert_eq!(timeout(LONG, driver).await.expect("ends").expect("no panic"), Down::Closed);
    assert_eq!(mux.up().await, Err(MuxError::LinkDown { why: Down::Closed }));
}

#[tokio::test]
async fn a_dial_that_is_given_up_resets_the_stream() {
    let pair = Pair::new().await;
    let mut listener = pair.guest.listen(1).expect("free");
    assert!(timeout(Duration::from_millis(50), pair.owner.dial(1)).await.is_err(), "nobody accepts");
    timeout(LONG, pair.owner.quiesce()).await.expect("nothing is left").expect("up");
    timeout(LONG, pair.guest.quiesce()).await.expect("nothing is left").expect("up");
    assert!(timeout(Duration::from_millis(50), listener.accept()).await.is_err());
}

/// A guest's channel whose owner can be exchanged: what a port is.
#[derive(Clone)]
struct Port {
    host: Arc<Mutex<Option<Arc<SocketChannel>>>>,
    driver: Arc<Mutex<Option<Waker>>>,
    reads_of_nothing: Arc<Mutex<usize>>,
}

impl Port {
    fn new() -> Self {
        Self { host: Arc::default(), driver: Arc::default(), reads_of_nothing: Arc::default() }
    }

    fn connect(&self) -> UnixStream {
        let (near, far) = UnixStream::pair().expect("socket pair");
        *self.host.lock().expect("lock") = Some(Arc::new(channel(far)));
        if let Some(waker) = self.driver.lock().expect("lock").take() {
            waker.wake();
        }
        near
    }

    fn host(&self) -> Option<Arc<SocketChannel>> {
        self.host.lock().expect("lock").clone()
    }
}

impl Channel for Port {
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.host().ok_or(ErrorKind::WouldBlock)?.try_read(buffer)?;
        if n == 0 {
            *self.host.lock().expect("lock") = None; // no edge before the next owner
            *self.reads_of_nothing.lock().expect("lock") += 1;
        }
        Ok(n)
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.host().ok_or(ErrorKind::WouldBlock)?.try_write(bytes)
    }

    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        *self.driver.lock().expect("lock") = Some(cx.waker().clone());
        self.host().map_or(Poll::Pending, |host| host.poll_read_ready(cx))
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        *self.driver.lock().expect("lock") = Some(cx.waker().clone());
        self.host().map_or(Poll::Pending, |host| host.poll_write_ready(cx))
    }

    fn reopens(&self) -> bool {
        true
    }

    fn read_size(&self) -> usize {
        4096
    }
}

fn owner(socket: UnixStream, guest: GuestState) -> (Mux, Driver) {
    Mux::new(channel(socket), Role::Owner(Greeting::new(guest).expect("random")), Config::default())
}

#[tokio::test]
async fn a_guest_serves_one_owner_after_the_other_with_the_same_listener() {
    let port = Port::new();
    let (guest, driver) = Mux::new(port.clone(), Role::Guest, Config::default());
    tokio::spawn(driver);
    let mut listener = guest.listen(1).expect("free");
    let mut link = guest.link();
    for epoch in 1..=5 {
        let (owner, driver) = owner(port.connect(), GuestState::Fresh);
        tokio::spawn(driver);
        assert_eq!(timeout(LONG, guest.up()).await.expect("in time"), Ok(epoch));
        owner.up().await.expect("up");
        let (dialled, accepted) = tokio::join!(owner.dial(1), listener.accept());
        let (mut near, mut far) = (dialled.expect("accepted"), accepted.expect("dialled"));
        near.write_all(b"x").await.expect("written");
        assert_eq!(far.read_u8().await.expect("read"), b'x');
        assert_eq!(guest.hello().map(|hello| hello.entropy), owner.hello().map(|hello| hello.entropy));
        owner.close();
        assert_eq!(kind(far.read_u8().await), Some(ErrorKind::ConnectionReset));
        timeout(LONG, link.wait_for(|link| *link == Link::Down { why: Down::Closed }))
            .await
            .expect("in time")
            .expect("followed");
    }
    assert_eq!(*port.reads_of_nothing.lock().expect("lock"), 5, "a lost owner is read once, not in a loop");
}

#[tokio::test]
async fn a_new_owner_that_greets_a_live_guest_ends_the_older_streams() {
    let port = Port::new();
    let (guest, driver) = Mux::new(port.clone(), Role::Guest, Config::default());
    tokio::spawn(driver);
    let (first, driver) = owner(port.connect(), GuestState::Fresh);
    let first_driver = tokio::spawn(driver);
    first.up().await.expect("up");
    let mut listener = guest.listen(1).expect("free");
    let mut near = first.dial_now(1).expect("up");
    near.write_all(&[0; 100]).await.expect("written");
    let mut old = listener.accept().await.expect("dialled");
    // The clone's owner has the same channel to the guest, which sees no close in between.
    let (second, driver) = owner(port.connect(), GuestState::Restored);
    tokio::spawn(driver);
    assert_eq!(timeout(LONG, second.up()).await.expect("in time"), Ok(1));
    let mut rest = Vec::new();
    assert_eq!(kind(old.read_to_end(&mut rest).await), Some(ErrorKind::ConnectionReset));
    assert_eq!(old.cut_reason(), Some(StreamError::NewEpoch));
    assert_eq!(guest.up().await, Ok(2));
    first_driver.abort();
}

/// Panics in one write; counts how often it is asked whether it has room.
struct Fragile {
    inner: SocketChannel,
    broken: Arc<AtomicBool>,
    asked_for_room: Arc<AtomicUsize>,
}

impl Channel for Fragile {
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.try_read(buffer)
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        assert!(!self.broken.load(Ordering::Relaxed), "planted");
        self.inner.try_write(bytes)
    }

    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.poll_read_ready(cx)
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.asked_for_room.fetch_add(1, Ordering::Relaxed);
        self.inner.poll_write_ready(cx)
    }

    fn reopens(&self) -> bool {
        false
    }

    fn read_size(&self) -> usize {
        4096
    }
}

#[tokio::test]
async fn a_panic_under_the_lock_takes_the_link_down_and_wakes_everybody_else() {
    let (near, far) = UnixStream::pair().expect("socket pair");
    let broken = Arc::new(AtomicBool::new(false));
    let fragile = Fragile { inner: channel(near), broken: Arc::clone(&broken), asked_for_room: Arc::default() };
    let (owner, driver) =
        Mux::new(fragile, Role::Owner(Greeting::new(GuestState::Fresh).expect("random")), Config::default());
    let (guest, guest_driver) = Mux::new(channel(far), Role::Guest, Config::default());
    let driver = tokio::spawn(driver);
    tokio::spawn(guest_driver);
    let mut listener = guest.listen(1).expect("free");
    let at_owner = owner.listen(2).expect("free");
    owner.up().await.expect("up");
    let (mut waits, mut victim) = (owner.dial_now(1).expect("up"), owner.dial_now(1).expect("up"));
    let accepted = listener.accept().await;
    let waiting = tokio::spawn(async move { kind(waits.read_u8().await) });
    let mut at_owner = at_owner;
    let accepting = tokio::spawn(async move { at_owner.accept().await.map(drop) });
    tokio::task::yield_now().await;
    drop(accepted);

    broken.store(true, Ordering::Relaxed);
    let panicked = tokio::spawn(async move { victim.write_all(b"x").await }).await;
    assert!(panicked.expect_err("it panics where it is").is_panic());
    assert_eq!(owner.dead(), Some(Down::Panicked));
    let waited = timeout(LONG, waiting).await.expect("woken").expect("no panic");
    assert_eq!(waited, Some(ErrorKind::ConnectionReset));
    let accepted = timeout(LONG, accepting).await.expect("woken").expect("no panic");
    assert_eq!(accepted, Err(MuxError::LinkDown { why: Down::Panicked }));
    assert_eq!(timeout(LONG, driver).await.expect("woken").expect("no panic"), Down::Panicked);
    timeout(LONG, guest.link().wait_for(|link| *link == Link::Down { why: Down::Closed }))
        .await
        .expect("the channel closes")
        .expect("followed");
}

#[tokio::test]
async fn a_driver_at_a_full_channel_sleeps() {
    let (near, mut far) = UnixStream::pair().expect("socket pair");
    let asked = Arc::new(AtomicUsize::new(0));
    let counting = Fragile { inner: channel(near), broken: Arc::default(), asked_for_room: Arc::clone(&asked) };
    let (guest, driver) = Mux::new(counting, Role::Guest, Config::default());
    tokio::spawn(driver);
    let hello =
        Hello { nonce: [1; 16], version: VERSION, window: 1 << 20, max_streams: 9, clock_ns: 0, entropy: [0; 32] };
    let mut bytes = [0; 80];
    let n = Control::Hello(hello).encode(&mut bytes);
    far.write_all(&bytes[..n]).expect("written");
    guest.up().await.expect("up");
    let mut stream = guest.dial_now(1).expect("up");
    // The owner reads nothing.
    assert!(timeout(Duration::from_millis(50), stream.write_all(&vec![0; 1 << 20])).await.is_err(), "not full");
    let before = asked.load(Ordering::Relaxed);
    far.write_all(&[0]).expect("filler, so that the driver looks around once");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let times = asked.load(Ordering::Relaxed) - before;
    assert!(times <= 2, "asked {times} times");
}
