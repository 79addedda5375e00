//! The rules, one by one.

mod dials;
mod flow;
mod link;
mod order;
mod streams;

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, Wake, Waker};

use super::{Connection, QuietWait, Slot};
use crate::config::{Config, Greeting, GuestState, Priority, Role};
use crate::error::{Down, Link, MuxError, ProtocolError, StreamError};
use crate::frame::{
    Control, FILLER_LEN, FrameError, HEADER_LEN, Header, Hello, HelloAck, Kind, MAX_FRAME, MAX_PAYLOAD, Refusal,
    ResetReason, VERSION,
};

const NONCE: [u8; 16] = [0x5a; 16];

fn owner_with(config: Config, guest: GuestState) -> Connection {
    Connection::new(Role::Owner(Greeting { nonce: NONCE, clock_ns: 77, entropy: [9; 32], guest }), config)
}

/// Two ends whose link is up.
fn ends_with(owner: Config, guest: Config) -> (Connection, Connection) {
    let mut ends = (owner_with(owner, GuestState::Fresh), Connection::new(Role::Guest, guest));
    carry(&mut ends.0, &mut ends.1);
    assert_eq!((ends.0.link(), ends.1.link()), (Link::Up { epoch: 1 }, Link::Up { epoch: 1 }));
    ends
}

fn ends() -> (Connection, Connection) {
    ends_with(Config::default(), Config::default())
}

fn transmit_all(end: &mut Connection) -> Vec<u8> {
    let mut sent = Vec::new();
    while !end.transmit().is_empty() {
        let bytes = end.transmit();
        assert!(bytes.len() <= MAX_FRAME);
        sent.extend_from_slice(bytes);
        let n = bytes.len();
        end.transmitted(n);
    }
    sent
}

fn carry(a: &mut Connection, b: &mut Connection) {
    loop {
        let (from_a, from_b) = (transmit_all(a), transmit_all(b));
        if from_a.is_empty() && from_b.is_empty() {
            return;
        }
        b.receive(&from_a);
        a.receive(&from_b);
    }
}

fn bytes_of(frame: &Control) -> Vec<u8> {
    let mut bytes = [0; 80];
    let n = frame.encode(&mut bytes);
    bytes[..n].to_vec()
}

fn data(id: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Header { kind: Kind::Data, length: payload.len(), id }.encode().to_vec();
    bytes.extend_from_slice(payload);
    bytes
}

/// The frames in what an end sent: DATA with its payload's length.
fn frames(mut bytes: &[u8]) -> Vec<(Header, Option<Control>)> {
    let mut frames = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LEN>() {
        let header = Header::decode(*header).expect("a header");
        let (payload, rest) = rest.split_at(header.length);
        frames.push((header, Control::decode(header, payload).ok()));
        bytes = rest;
    }
    frames
}

fn controls(bytes: &[u8]) -> Vec<Control> {
    frames(bytes).into_iter().filter_map(|(_, control)| control).collect()
}

fn write(end: &mut Connection, slot: Slot, data: &[u8]) -> Poll<Result<usize, ErrorKind>> {
    end.poll_write(slot, Waker::noop(), data).map_err(|error| error.kind())
}

fn read(end: &mut Connection, slot: Slot) -> Poll<Result<Vec<u8>, StreamError>> {
    let mut bytes = Vec::new();
    end.poll_read(slot, Waker::noop(), |piece| {
        bytes.extend_from_slice(piece);
        piece.len()
    })
    .map_ok(|_| bytes)
}

fn accept(end: &mut Connection, port: u32) -> Slot {
    match end.poll_accept(port, Waker::noop()) {
        Poll::Ready(Ok(slot)) => slot,
        other => panic!("{other:?}"),
    }
}

/// A stream that `a` dialled and `b` accepted.
fn stream(a: &mut Connection, b: &mut Connection) -> (Slot, Slot) {
    let _ = b.listen(1);
    let near = a.dial(1).expect("up");
    carry(a, b);
    let far = accept(b, 1);
    carry(a, b);
    (near, far)
}

fn protocol(error: ProtocolError) -> Link {
    Link::Down { why: Down::Protocol(error) }
}

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn wakes(end: &mut Connection) {
    let mut batch = [const { None }; 8];
    while end.take_woken(&mut batch) > 0 {
        batch.iter_mut().filter_map(Option::take).for_each(Waker::wake);
    }
}
