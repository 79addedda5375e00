//! A vsock device whose guest is hostile: by its packets, and by its rings.

use std::task::{Poll, Waker};

use uvm_vsock::device::{Device, Slot, Usage};
use uvm_vsock::header::{HEADER_LEN, HOST_CID, Header, TYPE_STREAM};
use uvm_vsock::{Config, rings};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const CID: u64 = 3;
const STREAMS: usize = 4;
const WINDOW: usize = 4096;

fn device() -> Device {
    let config = Config::new(CID).expect("allowed").with_max_streams(STREAMS as u32).with_window(WINDOW as u32);
    let mut device = Device::new(config.with_max_window(WINDOW as u32).with_backlog(2));
    device.driver_started();
    device.listen(0).expect("free");
    device
}

fn assert_bounds(device: &Device, held: usize) {
    let usage = device.usage();
    assert!(usage.streams <= STREAMS, "{usage:?}");
    // Streams that ended keep what was received until they are read or let go; they count.
    assert!(usage.received <= STREAMS * WINDOW, "{usage:?}");
    assert!(usage.unsent <= STREAMS * WINDOW, "{usage:?}");
    assert!(usage.resets <= 256 + STREAMS + held + 2, "{usage:?}");
}

/// Packets as the guest likes them, and what handles do meanwhile: 8 bytes a step.
///
/// # Panics
/// When a bound does not hold.
pub fn vsock_guest(data: &[u8]) {
    let mut device = device();
    let mut held: Vec<Slot> = Vec::new();
    for step in data.chunks_exact(8) {
        let [what, port, low, high, a, b, c, d] = *step else { return };
        let length = u16::from_le_bytes([low, high]);
        let number = u32::from_le_bytes([a, b, c, d]);
        let picked = held.get(usize::from(port) % held.len().max(1)).copied();
        match (what % 16, picked) {
            (0..=7, _) => {
                let mut bytes = [0; HEADER_LEN];
                bytes[30] = what & 15;
                let mut header = Header::decode(&bytes);
                (header.from_cid, header.to_cid, header.kind) = (CID, HOST_CID, TYPE_STREAM + u16::from(port >> 7));
                header.to_port = if port & 1 == 0 { 0 } else { 0x8000_0000 | number & 7 };
                header.from_port = u32::from(port >> 1 & 7);
                (header.flags, header.window, header.consumed) = (number, number >> 8, number >> 16);
                header.length = u32::from(length);
                let payload = vec![what; usize::from(length & 0x1fff)];
                if device.can_receive() {
                    device.receive(&header, &mut payload.as_slice());
                }
            }
            (8, _) if held.len() < 8 => held.extend(device.dial(u32::from(port & 7)).ok()),
            (9, _) if held.len() < 8 => {
                if let Poll::Ready(Ok(slot)) = device.poll_accept(0, Waker::noop()) {
                    held.push(slot);
                }
            }
            (10, Some(slot)) => drop(device.poll_write(slot, Waker::noop(), &vec![0; usize::from(length)])),
            (11, Some(slot)) => {
                let _ = device.poll_read(slot, Waker::noop(), |piece| piece.len().min(usize::from(length) + 1));
            }
            (12, Some(slot)) => device.shut_down(slot),
            (13, Some(slot)) => {
                device.release(slot);
                held.retain(|&other| other != slot);
            }
            (14, Some(slot)) => device.reset(slot),
            _ => take(&mut device, usize::from(length) + 1),
        }
        let _ = device.take_woken();
        assert_bounds(&device, held.len());
    }
    for slot in held {
        device.release(slot);
    }
    device.unlisten(0);
    device.driver_started();
    assert_eq!(device.usage(), Usage::default());
}

/// The guest takes some packets.
fn take(device: &mut Device, room: usize) {
    for _ in 0..8 {
        let Some(packet) = device.next_packet(room) else { return };
        let (first, second) = device.payload(&packet);
        assert_eq!(first.len() + second.len(), packet.header.length as usize);
        assert!(packet.header.length as usize <= room);
        device.sent(&packet);
    }
}

const MEMORY: usize = 64 * 1024;
const RING: u16 = 16;

/// Rings as the guest likes them: the input is its memory, with the rings at fixed places in it.
///
/// # Panics
/// When a bound does not hold.
pub fn vsock_ring(data: &[u8]) {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("memory");
    let data = &data[..data.len().min(MEMORY)];
    memory.write_slice(data, GuestAddress(0)).expect("it fits");
    let mut device = device();
    let slot = device.dial(7).expect("room");
    let mut queues = [0u64, 0x1000].map(|base| {
        let mut queue = Queue::new(RING).expect("a power of two");
        queue.set_size(RING);
        queue.set_event_idx(base == 0);
        queue.try_set_desc_table_address(GuestAddress(base)).expect("aligned");
        queue.try_set_avail_ring_address(GuestAddress(base + 0x400)).expect("aligned");
        queue.try_set_used_ring_address(GuestAddress(base + 0x800)).expect("aligned");
        queue.set_ready(true);
        queue
    });
    let [from_guest, to_guest] = &mut queues;
    for _ in 0..4 {
        let _ = device.poll_write(slot, Waker::noop(), &[0xaa; 600]);
        let received = rings::receive(&mut device, from_guest, &memory);
        let sent = rings::send(&mut device, to_guest, &memory);
        if received.is_err() || sent.is_err() {
            return;
        }
        let _ = (from_guest.enable_notification(&memory), from_guest.needs_notification(&memory));
        assert_bounds(&device, 1);
    }
}
