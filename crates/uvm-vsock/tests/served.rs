//! The device as a VM's process and a guest's driver see it, over vhost-user and rings in shared memory.
#![cfg(target_os = "linux")]

mod driver;

use std::io::ErrorKind;
use std::time::Duration;

use driver::{CID, ENTRIES, FROM_GUEST, Guest, NEXT, TO_GUEST, WRITE, device, header, start};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uvm_vsock::header::{HEADER_LEN, Op};
use uvm_vsock::{Config, Down, Link, StreamError, Vsock, VsockError, VsockListener};

fn config() -> Config {
    Config::new(CID).expect("allowed")
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what).await.expect("in time")
}

/// A stream both ways, to show that the device serves.
async fn serves(listener: &mut VsockListener, guest: &mut Guest, port: u32) {
    guest.dial(listener.port(), port);
    let mut stream = within(listener.accept()).await.expect("it lives");
    guest.say(Op::Data, listener.port(), port, b"up");
    let mut up = [0; 2];
    within(stream.read_exact(&mut up)).await.expect("it goes on");
    stream.write_all(b"down").await.expect("it goes on");
    let (packet, payload) = guest.receive();
    assert_eq!((&up, packet.op, &payload[..]), (b"up", Some(Op::Data), &b"down"[..]));
    stream.reset();
    assert_eq!(guest.receive().0.op, Some(Op::Reset));
}

async fn link_is(vsock: &Vsock, wanted: Link) {
    within(vsock.link().wait_for(|link| *link == wanted)).await.expect("it is told");
}

#[tokio::test]
async fn a_device_reset_in_mid_transfer_cuts_streams_and_the_next_driver_is_served() {
    let (vsock, mut guest) = start(config());
    let mut listener = vsock.listen(5).expect("free");
    link_is(&vsock, Link::Up { epoch: 1 }).await;
    guest.dial(5, 1000);
    guest.dial(5, 1001);
    let mut streams = vec![within(listener.accept()).await.expect("it lives")];
    streams.push(within(listener.accept()).await.expect("it lives"));
    for port in [1000, 1001] {
        guest.say(Op::Data, 5, port, &[7; 3000]);
    }
    let mut dialled = Box::pin(vsock.dial(9));
    tokio::select! {
        biased;
        answer = &mut dialled => panic!("nobody has answered: {answer:?}"),
        () = std::future::ready(()) => {}
    }
    assert_eq!(guest.receive().0.op, Some(Op::Request));
    for stream in &mut streams {
        // More than the guest has buffers for: some of it is still here.
        let (mut written, block) = (0, [1; 8 * 1024]);
        while let Ok(result) = tokio::time::timeout(Duration::from_millis(50), stream.write(&block)).await {
            written += result.expect("it goes on");
        }
        assert!(written >= 64 * 1024);
    }
    guest.reset_device();
    guest.start_driver();
    link_is(&vsock, Link::Up { epoch: 2 }).await;
    for stream in &mut streams {
        let mut bytes = Vec::new();
        let error = within(stream.read_to_end(&mut bytes)).await.expect_err("cut");
        assert_eq!((bytes, error.kind()), (vec![7; 3000], ErrorKind::ConnectionReset));
        assert_eq!(stream.cut_reason(), Some(StreamError::NewEpoch));
        assert_eq!(stream.write(b"x").await.expect_err("cut").kind(), ErrorKind::ConnectionReset);
    }
    let refused = within(dialled).await;
    assert!(matches!(refused, Err(VsockError::NotAccepted { port: 9, why: StreamError::NewEpoch })), "{refused:?}");
    serves(&mut listener, &mut guest, 1000).await;
}

#[tokio::test]
async fn a_driver_that_goes_away_is_missed_where_resets_are_told_and_the_next_is_served() {
    let (vsock, mut guest) = start(config());
    let mut listener = vsock.listen(5).expect("free");
    guest.dial(5, 1000);
    let mut stream = within(listener.accept()).await.expect("it lives");
    guest.reset_device();
    guest.tell_reset();
    link_is(&vsock, Link::Down { why: Down::Reset }).await;
    assert_eq!(within(stream.read_u8()).await.expect_err("cut").kind(), ErrorKind::ConnectionReset);
    assert_eq!(stream.cut_reason(), Some(StreamError::LinkDown(Down::Reset)));
    assert!(matches!(vsock.dial(9).await, Err(VsockError::LinkDown { why: Down::Reset })));
    guest.start_driver();
    assert_eq!(within(vsock.up()).await.expect("it lives"), 2);
    serves(&mut listener, &mut guest, 1000).await;
}

#[tokio::test]
async fn the_end_of_the_vms_process_is_told_to_everybody() {
    let (vsock, mut guest) = start(config());
    let mut listener = vsock.listen(5).expect("free");
    guest.dial(5, 1000);
    let mut stream = within(listener.accept()).await.expect("it lives");
    guest.say(Op::Data, 5, 1000, b"last words");
    let waits = tokio::spawn(async move { listener.accept().await });
    drop(guest);
    let mut bytes = Vec::new();
    let error = within(stream.read_to_end(&mut bytes)).await.expect_err("cut");
    assert_eq!((&bytes[..], error.kind()), (&b"last words"[..], ErrorKind::ConnectionReset));
    assert_eq!(stream.cut_reason(), Some(StreamError::LinkDown(Down::Detached)));
    assert!(matches!(within(waits).await, Ok(Err(VsockError::LinkDown { why: Down::Detached }))));
    assert!(matches!(vsock.dial(1).await, Err(VsockError::LinkDown { why: Down::Detached })));
    assert!(matches!(vsock.listen(6), Err(VsockError::LinkDown { why: Down::Detached })));
    link_is(&vsock, Link::Down { why: Down::Detached }).await;
}

#[tokio::test]
async fn a_process_that_is_gone_before_a_driver_came_is_told() {
    let (vsock, connection) = device(config());
    let mut listener = vsock.listen(5).expect("free");
    let guest = Guest::attach(connection);
    link_is(&vsock, Link::Down { why: Down::NoDriverYet }).await;
    assert!(matches!(vsock.dial(1).await, Err(VsockError::LinkDown { why: Down::NoDriverYet })));
    drop(guest);
    assert!(matches!(within(listener.accept()).await, Err(VsockError::LinkDown { why: Down::Detached })));
    assert!(matches!(within(vsock.up()).await, Err(VsockError::LinkDown { why: Down::Detached })));
}

#[tokio::test]
async fn chains_that_are_none_are_given_back_and_cost_nothing() {
    let (vsock, mut guest) = start(config());
    let mut listener = vsock.listen(5).expect("free");
    let (at, buffer) = (FROM_GUEST.descriptor(4), FROM_GUEST.buffer(4));
    let packet = HEADER_LEN as u32;
    // Address, length, flags, next.
    let bad = [
        ("shorter than a header", buffer, packet - 1, 0, 0),
        ("empty", buffer, 0, 0, 0),
        ("a loop", buffer, packet, NEXT, 4),
        ("outside of memory", 1 << 40, packet, 0, 0),
        ("past the end of the address space", u64::MAX - 8, packet, 0, 0),
        ("with a next that is none", buffer, packet, NEXT, 9999),
        ("to be written", buffer, packet, WRITE, 0),
        ("indirect, and never agreed on", buffer, 16, 4, 0),
    ];
    for (what, address, length, flags, next) in bad {
        guest.describe(at, address, length, flags, next);
        guest.offer(false, 4, 1);
        assert_eq!(guest.used(false), (4, 0), "{what}");
        serves(&mut listener, &mut guest, 2000).await;
    }
    assert_eq!(vsock.dead(), None);
}

#[tokio::test]
async fn buffers_that_are_none_are_given_back_empty_and_the_next_is_used() {
    let (vsock, mut guest) = start(config());
    let mut listener = vsock.listen(5).expect("free");
    // All that were given are used up first: each refused dial takes one.
    for port in 0..64 {
        guest.say(Op::Request, 6, port, &[]);
        assert_eq!(guest.used(true).1, HEADER_LEN as u32);
    }
    let buffer = TO_GUEST.buffer(0);
    let bad = [(buffer, 0, WRITE), (buffer, 44, WRITE), (buffer, 4096, 0), (1 << 40, 4096, WRITE)];
    guest.say(Op::Request, 6, 64, &[]);
    for (index, (address, length, flags)) in (0..).zip(bad) {
        guest.describe(TO_GUEST.descriptor(index), address, length, flags, 0);
        guest.offer(true, index, 1);
        assert_eq!(guest.used(true), (index, 0));
    }
    guest.give_buffer(8, 4096);
    let (answer, _) = guest.receive();
    assert_eq!((answer.op, answer.to_port), (Some(Op::Reset), 64), "it waited for a buffer that is one");
    serves(&mut listener, &mut guest, 2000).await;
    assert_eq!(vsock.dead(), None);
}

#[tokio::test]
async fn a_ring_that_is_none_ends_the_device_by_name() {
    let (vsock, mut guest) = start(config());
    let mut listener = vsock.listen(5).expect("free");
    guest.dial(5, 1000);
    let mut stream = within(listener.accept()).await.expect("it lives");
    // Further ahead than the ring is long.
    guest.offer(false, 0, 1000);
    assert_eq!(within(stream.read_u8()).await.expect_err("cut").kind(), ErrorKind::ConnectionReset);
    assert!(matches!(vsock.dead(), Some(Down::BadRing { .. })), "{:?}", vsock.dead());
}

#[tokio::test]
async fn buffers_without_room_that_never_run_out_end_the_device_and_not_its_owner() {
    let (vsock, mut guest) = start(config());
    link_is(&vsock, Link::Up { epoch: 1 }).await;
    for index in 0..ENTRIES {
        guest.describe(TO_GUEST.descriptor(index), TO_GUEST.buffer(index), HEADER_LEN as u32, WRITE, 0);
    }
    let refill = guest.refill_for_ever();
    guest.say(Op::Request, 6, 1000, &[]);
    // The end shows on the link, which is looked at without the device's lock.
    let mut link = vsock.link();
    let ended = tokio::time::timeout(Duration::from_secs(60), link.wait_for(|link| matches!(link, Link::Down { .. })));
    let ended = ended.await.map(|link| link.expect("it is told").clone());
    drop(refill); // before a failure: the thread that sends is let go
    let message = "more than 64 buffers in a row have no room for a packet; a ring of 64 cannot hold them".to_owned();
    assert_eq!(ended, Ok(Link::Down { why: Down::BadRing { message } }));
}

#[tokio::test]
async fn buffers_for_a_byte_each_that_never_run_out_keep_nobody_from_the_device() {
    let (vsock, mut guest) = start(config());
    let mut listener = vsock.listen(5).expect("free");
    guest.dial(5, 1000);
    let mut stream = within(listener.accept()).await.expect("it lives");
    for index in 0..ENTRIES {
        guest.describe(TO_GUEST.descriptor(index), TO_GUEST.buffer(index), HEADER_LEN as u32 + 1, WRITE, 0);
    }
    let refill = guest.refill_for_ever();
    within(stream.write_all(&vec![7; 60_000])).await.expect("it goes on");
    within(stream.flush()).await.expect("all of it was sent, over many turns");
    drop(refill);
    assert_eq!(vsock.dead(), None);
}

#[tokio::test]
async fn what_a_guest_breaks_on_one_stream_costs_it_that_stream() {
    let (vsock, mut guest) = start(config());
    let mut listener = vsock.listen(5).expect("free");
    guest.dial(5, 1000);
    let mut stream = within(listener.accept()).await.expect("it lives");
    // It says that there is more than its descriptors hold.
    guest.send(&uvm_vsock::header::Header { length: 4000, ..header(Op::Data, 5, 1000) }, b"short");
    assert_eq!(guest.receive().0.op, Some(Op::Reset));
    assert_eq!(within(stream.read_u8()).await.expect_err("cut").kind(), ErrorKind::ConnectionReset);
    serves(&mut listener, &mut guest, 1000).await;
}
