//! The rules, one by one, with the guest's packets written by hand.

mod dials;
mod ends;
mod flow;
mod misuse;
mod random;

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, Wake, Waker};

use super::{Device, Slot};
use crate::config::Config;
use crate::header::{HOST_CID, Header, Op, TYPE_STREAM};

const CID: u64 = 42;
const WINDOW: u32 = 8192;

fn config() -> Config {
    Config::new(CID).expect("allowed").with_window(WINDOW).with_max_window(4 * WINDOW).with_max_streams(4)
}

fn device() -> Device {
    let mut device = Device::new(config());
    device.driver_started();
    device
}

fn from_guest(op: Op, host: u32, guest: u32) -> Header {
    Header {
        from_cid: CID,
        to_cid: HOST_CID,
        from_port: guest,
        to_port: host,
        length: 0,
        kind: TYPE_STREAM,
        op: Some(op),
        flags: 0,
        window: 65_536,
        consumed: 0,
    }
}

fn say(device: &mut Device, op: Op, host: u32, guest: u32) {
    device.receive(&from_guest(op, host, guest), &mut &[][..]);
}

fn shut(device: &mut Device, flags: u32, host: u32, guest: u32) {
    device.receive(&Header { flags, ..from_guest(Op::Shutdown, host, guest) }, &mut &[][..]);
}

fn data(device: &mut Device, host: u32, guest: u32, payload: &[u8]) {
    let header = Header { length: payload.len() as u32, ..from_guest(Op::Data, host, guest) };
    device.receive(&header, &mut &payload[..]);
}

/// All packets that the device has for the guest now.
fn packets(device: &mut Device) -> Vec<(Header, Vec<u8>)> {
    let mut all = Vec::new();
    while let Some(packet) = device.next_packet(4096) {
        let (first, second) = device.payload(&packet);
        all.push((packet.header, [first, second].concat()));
        device.sent(&packet);
    }
    all
}

fn ops(device: &mut Device) -> Vec<Op> {
    packets(device).into_iter().filter_map(|(header, _)| header.op).collect()
}

fn read(device: &mut Device, slot: Slot, most: usize) -> Poll<std::io::Result<Vec<u8>>> {
    let mut bytes = Vec::new();
    device
        .poll_read(slot, Waker::noop(), |piece| {
            let n = piece.len().min(most - bytes.len());
            bytes.extend_from_slice(&piece[..n]);
            n
        })
        .map_ok(|_| bytes)
}

fn text(device: &mut Device, slot: Slot) -> String {
    match read(device, slot, usize::MAX) {
        Poll::Ready(Ok(bytes)) => String::from_utf8(bytes).expect("text"),
        Poll::Ready(Err(error)) => format!("{:?}", error.kind()),
        Poll::Pending => "pending".into(),
    }
}

fn write(device: &mut Device, slot: Slot, data: &[u8]) -> Poll<Result<usize, ErrorKind>> {
    device.poll_write(slot, Waker::noop(), data).map_err(|error| error.kind())
}

/// A stream that the guest dialled from its port 1000 to the host's port 5.
fn accepted(device: &mut Device) -> Slot {
    device.listen(5).expect("free");
    say(device, Op::Request, 5, 1000);
    assert_eq!(ops(device), [Op::Response]);
    accept(device, 5).expect("waits")
}

fn accept(device: &mut Device, port: u32) -> Option<Slot> {
    match device.poll_accept(port, Waker::noop()) {
        Poll::Ready(slot) => Some(slot.expect("alive")),
        Poll::Pending => None,
    }
}

/// Counts how often its waker is woken.
#[derive(Default)]
struct Counter(AtomicUsize);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn counter() -> (Arc<Counter>, Waker) {
    let counter = Arc::new(Counter::default());
    (Arc::clone(&counter), Waker::from(counter))
}
