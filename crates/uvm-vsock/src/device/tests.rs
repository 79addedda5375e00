//! The rules, one by one, with the guest's packets written by hand.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, Wake, Waker};

use proptest::prelude::*;

use super::{Device, MAX_RESETS, Slot};
use crate::config::{Config, Priority};
use crate::error::{Down, Link, Misuse, StreamError, VsockError};
use crate::header::{HOST_CID, Header, MAX_PAYLOAD, Op, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, TYPE_STREAM};

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

mod dials {
    use super::*;

    #[test]
    fn a_guest_is_answered_at_once_where_somebody_listens_and_refused_elsewhere() {
        let mut device = device();
        say(&mut device, Op::Request, 5, 1000);
        let refused = packets(&mut device);
        assert_eq!(refused[0].0.op, Some(Op::Reset));
        assert_eq!((refused[0].0.from_port, refused[0].0.to_port), (5, 1000));
        assert_eq!((refused[0].0.from_cid, refused[0].0.to_cid), (HOST_CID, CID));
        let slot = accepted(&mut device);
        assert_eq!(device.ports(slot), Some((5, 1000)));
    }

    #[test]
    fn the_host_dials_and_is_accepted_or_refused() {
        let mut device = device();
        let slot = device.dial(7).expect("room");
        let (request, _) = packets(&mut device).remove(0);
        assert_eq!((request.op, request.to_port, request.window), (Some(Op::Request), 7, WINDOW));
        assert_eq!(device.poll_accepted(slot, Waker::noop()), Poll::Pending);
        say(&mut device, Op::Response, request.from_port, 7);
        assert_eq!(device.poll_accepted(slot, Waker::noop()), Poll::Ready(Ok(())));
        let other = device.dial(8).expect("room");
        let (request, _) = packets(&mut device).remove(0);
        say(&mut device, Op::Reset, request.from_port, 8);
        assert_eq!(device.poll_accepted(other, Waker::noop()), Poll::Ready(Err(StreamError::Refused)));
    }

    #[test]
    fn a_dial_that_is_given_up_is_reset_if_the_guest_knows_it() {
        let mut device = device();
        let unsent = device.dial(7).expect("room");
        device.release(unsent);
        assert_eq!(ops(&mut device), []);
        let sent = device.dial(7).expect("room");
        assert_eq!(ops(&mut device), [Op::Request]);
        device.release(sent);
        assert_eq!(ops(&mut device), [Op::Reset]);
    }

    #[test]
    fn too_many_streams_are_refused_to_both_ends() {
        let mut device = device();
        device.listen(5).expect("free");
        let slots: Vec<Slot> = (0..4).map(|_| device.dial(7).expect("room")).collect();
        assert!(matches!(device.dial(7), Err(VsockError::TooManyStreams { limit: 4 })));
        say(&mut device, Op::Request, 5, 1000);
        assert_eq!(ops(&mut device)[0], Op::Reset);
        device.release(slots[0]);
        assert!(device.dial(7).is_ok());
    }

    #[test]
    fn streams_that_the_guest_has_closed_count_until_they_are_dropped_here() {
        let mut device = device();
        device.listen(5).expect("free");
        let mut answers = Vec::new();
        for guest in 0..6 {
            say(&mut device, Op::Request, 5, guest);
            answers.extend(ops(&mut device));
            data(&mut device, 5, guest, &[1; WINDOW as usize]);
            shut(&mut device, SHUTDOWN_BOTH, 5, guest);
            packets(&mut device);
        }
        let (yes, no) = (Op::Response, Op::Reset);
        assert_eq!(answers, [yes, yes, yes, yes, no, no], "four wait to be accepted");
        assert_eq!((device.usage().streams, device.usage().received), (0, 4 * WINDOW as usize));
        let slot = accept(&mut device, 5).expect("waits");
        assert!(matches!(device.dial(7), Err(VsockError::TooManyStreams { limit: 4 })), "it is held");
        device.release(slot);
        assert!(device.dial(7).is_ok());
    }

    #[test]
    fn what_only_waits_for_the_guests_last_word_gives_way_to_a_new_stream() {
        let mut device = device();
        let slot = accepted(&mut device);
        device.shut_down(slot);
        device.release(slot);
        assert_eq!(ops(&mut device), [Op::Shutdown]);
        for _ in 0..3 {
            device.dial(7).expect("room");
        }
        assert!(device.dial(7).is_ok(), "the fourth");
        assert_eq!(ops(&mut device)[0], Op::Reset, "of the one that gave way");
    }

    #[test]
    fn those_that_wait_at_a_listener_are_bounded_and_reset_when_it_goes() {
        let mut device = Device::new(config().with_backlog(1));
        device.driver_started();
        device.listen(5).expect("free");
        assert!(matches!(device.listen(5), Err(VsockError::PortTaken { port: 5 })));
        say(&mut device, Op::Request, 5, 1000);
        say(&mut device, Op::Request, 5, 1001);
        let sent = packets(&mut device);
        assert_eq!((sent[0].0.op, sent[0].0.to_port), (Some(Op::Reset), 1001));
        device.unlisten(5);
        let sent = packets(&mut device);
        assert_eq!((sent[0].0.op, sent[0].0.to_port), (Some(Op::Reset), 1000));
        assert_eq!(device.conns.len(), 0);
    }
}

mod ends {
    use super::*;

    #[test]
    fn each_direction_ends_by_itself() {
        let mut device = device();
        let slot = accepted(&mut device);
        data(&mut device, 5, 1000, b"up");
        shut(&mut device, SHUTDOWN_SEND, 5, 1000);
        assert_eq!(text(&mut device, slot), "up");
        assert_eq!(text(&mut device, slot), "");
        assert_eq!(write(&mut device, slot, b"down"), Poll::Ready(Ok(4)));
        device.shut_down(slot);
        let sent = packets(&mut device);
        assert_eq!(sent[0].1, b"down");
        assert_eq!((sent[1].0.op, sent[1].0.flags), (Some(Op::Shutdown), SHUTDOWN_SEND));
        assert_eq!(write(&mut device, slot, b"more"), Poll::Ready(Err(ErrorKind::BrokenPipe)));
    }

    #[test]
    fn the_host_may_end_first_and_go_on_reading() {
        let mut device = device();
        let slot = accepted(&mut device);
        device.shut_down(slot);
        assert_eq!(ops(&mut device), [Op::Shutdown]);
        data(&mut device, 5, 1000, b"late");
        assert_eq!(text(&mut device, slot), "late");
        assert_eq!(text(&mut device, slot), "pending");
    }

    #[test]
    fn of_a_closed_socket_every_byte_is_read_however_late() {
        let mut device = device();
        let slot = accepted(&mut device);
        data(&mut device, 5, 1000, b"last words");
        shut(&mut device, SHUTDOWN_BOTH, 5, 1000);
        assert_eq!(ops(&mut device), [Op::Reset], "so that Linux frees the port at once");
        say(&mut device, Op::Reset, 5, 1000); // what Linux sends after 8 s
        assert_eq!(text(&mut device, slot), "last words");
        assert_eq!(text(&mut device, slot), "");
        assert_eq!(write(&mut device, slot, b"x"), Poll::Ready(Err(ErrorKind::BrokenPipe)));
        assert_eq!(device.cut_reason(slot), None);
    }

    #[test]
    fn a_reset_is_told_from_end_of_file() {
        let mut device = device();
        let slot = accepted(&mut device);
        data(&mut device, 5, 1000, b"half");
        say(&mut device, Op::Reset, 5, 1000);
        assert_eq!(text(&mut device, slot), "half");
        assert_eq!(text(&mut device, slot), "ConnectionReset");
        assert_eq!(write(&mut device, slot, b"x"), Poll::Ready(Err(ErrorKind::ConnectionReset)));
        assert_eq!(device.cut_reason(slot), Some(StreamError::ResetByPeer));
    }

    #[test]
    fn a_stream_dropped_unfinished_is_reset_and_one_that_was_shut_down_loses_nothing() {
        let mut device = device();
        let cut = accepted(&mut device);
        assert_eq!(write(&mut device, cut, b"unsent"), Poll::Ready(Ok(6)));
        device.release(cut);
        assert_eq!(ops(&mut device), [Op::Reset]);
        say(&mut device, Op::Request, 5, 1001);
        let kept = accept(&mut device, 5).expect("waits");
        assert_eq!(write(&mut device, kept, b"all"), Poll::Ready(Ok(3)));
        device.shut_down(kept);
        device.release(kept);
        let sent = packets(&mut device);
        assert_eq!(sent[0].0.op, Some(Op::Response));
        assert_eq!(sent[1].1, b"all");
        assert_eq!((sent[2].0.op, sent[2].0.flags), (Some(Op::Shutdown), SHUTDOWN_BOTH));
        data(&mut device, 5, 1001, &[0; 6000]);
        say(&mut device, Op::Reset, 5, 1001);
        assert_eq!((device.conns.len(), device.by_ports.len(), device.lingering.len()), (0, 0, 0));
    }

    #[test]
    fn what_a_guest_will_not_read_is_thrown_away_and_said_to_be() {
        let mut device = device();
        let slot = accepted(&mut device);
        assert_eq!(write(&mut device, slot, b"unsent"), Poll::Ready(Ok(6)));
        shut(&mut device, SHUTDOWN_RECEIVE, 5, 1000);
        assert_eq!(write(&mut device, slot, b"x"), Poll::Ready(Err(ErrorKind::BrokenPipe)));
        let flushed = device.poll_flush(slot, Waker::noop()).map_err(|error| error.kind());
        assert_eq!(flushed, Poll::Ready(Err(ErrorKind::BrokenPipe)));
        data(&mut device, 5, 1000, b"up");
        assert_eq!(text(&mut device, slot), "up");
    }

    #[test]
    fn a_driver_that_starts_anew_ends_all_streams_in_reset_and_keeps_listeners() {
        let mut device = device();
        let slot = accepted(&mut device);
        assert_eq!(device.link(), Link::Up { epoch: 1 });
        device.driver_started();
        assert_eq!(device.link(), Link::Up { epoch: 2 });
        assert_eq!(text(&mut device, slot), "ConnectionReset");
        assert_eq!(device.cut_reason(slot), Some(StreamError::NewEpoch));
        assert_eq!(ops(&mut device), [], "the new driver knows no old stream");
        say(&mut device, Op::Request, 5, 1000);
        assert_eq!(ops(&mut device), [Op::Response]);
    }

    #[test]
    fn the_end_of_the_device_is_told_to_everybody() {
        let mut device = device();
        let slot = accepted(&mut device);
        let (woken, waker) = counter();
        let _ = device.poll_accept(5, &waker);
        let _ = device.poll_read(slot, &waker, <[u8]>::len);
        device.end(Down::Detached);
        device.end(Down::ClosedHere);
        device.take_woken().into_iter().for_each(Waker::wake);
        assert_eq!(woken.0.load(Ordering::Relaxed), 2);
        assert_eq!(device.dead(), Some(&Down::Detached));
        assert_eq!(text(&mut device, slot), "ConnectionReset");
        assert_eq!(device.poll_accept(5, Waker::noop()), Poll::Ready(Err(Down::Detached)));
        assert!(matches!(device.dial(1), Err(VsockError::LinkDown { why: Down::Detached })));
    }
}

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

mod flow {
    use super::*;

    #[test]
    fn a_stalled_reader_has_one_window_queued_and_no_other_stream_waits() {
        let mut device = device();
        let slot = accepted(&mut device);
        data(&mut device, 5, 1000, &[1; WINDOW as usize]);
        say(&mut device, Op::Request, 5, 1001);
        let other = accept(&mut device, 5).expect("waits");
        data(&mut device, 5, 1001, b"through");
        assert_eq!(text(&mut device, other), "through");
        data(&mut device, 5, 1000, &[1]);
        assert_eq!(device.cut_reason(slot), Some(StreamError::Misuse(Misuse::WindowExceeded { excess: 1 })));
    }

    #[test]
    fn credit_goes_back_in_halves_of_a_window() {
        let mut device = device();
        let slot = accepted(&mut device);
        data(&mut device, 5, 1000, &[1; WINDOW as usize]);
        let _ = read(&mut device, slot, WINDOW as usize / 2 - 1);
        assert_eq!(ops(&mut device), []);
        let _ = read(&mut device, slot, 1);
        let sent = packets(&mut device);
        assert_eq!((sent[0].0.op, sent[0].0.consumed), (Some(Op::CreditUpdate), WINDOW / 2));
        say(&mut device, Op::CreditRequest, 5, 1000);
        assert_eq!(ops(&mut device), [Op::CreditUpdate]);
    }

    #[test]
    fn no_more_is_sent_than_the_guest_has_room_for_and_it_is_asked_once() {
        let mut device = device();
        device.listen(5).expect("free");
        device.receive(&Header { window: 100, ..from_guest(Op::Request, 5, 1000) }, &mut &[][..]);
        let slot = accept(&mut device, 5).expect("waits");
        assert_eq!(write(&mut device, slot, &[7; 150]), Poll::Ready(Ok(150)));
        let sent = packets(&mut device);
        assert_eq!(sent[1].1.len(), 100);
        assert_eq!(sent[2].0.op, Some(Op::CreditRequest));
        assert_eq!(sent.len(), 3);
        let update = Header { window: 100, consumed: 100, ..from_guest(Op::CreditUpdate, 5, 1000) };
        device.receive(&update, &mut &[][..]);
        assert_eq!(packets(&mut device)[0].1.len(), 50);
        // A guest that counts more than was sent has room for nothing.
        device.receive(&Header { consumed: 1 << 30, ..update }, &mut &[][..]);
        assert_eq!(write(&mut device, slot, &[7; 10]), Poll::Ready(Ok(10)));
        assert_eq!(ops(&mut device), [Op::CreditRequest]);
    }

    #[test]
    fn a_writer_waits_when_a_window_is_queued_and_is_woken_when_half_of_it_is_sent() {
        let mut device = device();
        let slot = accepted(&mut device);
        assert_eq!(write(&mut device, slot, &vec![7; 3 * WINDOW as usize]), Poll::Ready(Ok(WINDOW as usize)));
        let (woken, waker) = counter();
        assert!(device.poll_write(slot, &waker, b"x").is_pending());
        let packet = device.next_packet(4096).expect("data");
        device.sent(&packet);
        device.take_woken().into_iter().for_each(Waker::wake);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(device.poll_flush(slot, &waker).is_pending());
        packets(&mut device);
        assert!(device.poll_flush(slot, &waker).is_ready());
    }

    #[test]
    fn a_stream_that_carries_bulk_gets_a_larger_window_and_eight_at_most_have_one() {
        let mut device = Device::new(config().with_max_streams(64));
        device.driver_started();
        device.listen(5).expect("free");
        let mut grown = 0;
        for guest in 0..12 {
            say(&mut device, Op::Request, 5, guest);
            let slot = accept(&mut device, 5).expect("waits");
            for _ in 0..5 {
                data(&mut device, 5, guest, &[1; WINDOW as usize]);
                let _ = read(&mut device, slot, usize::MAX);
            }
            grown += usize::from(packets(&mut device).iter().any(|(header, _)| header.window == 4 * WINDOW));
        }
        assert_eq!(grown, 8);
    }

    #[test]
    fn a_closed_stream_keeps_the_larger_window_as_long_as_it_holds_more_than_the_smaller() {
        let mut device = device();
        let slot = accepted(&mut device);
        for _ in 0..5 {
            data(&mut device, 5, 1000, &[1; WINDOW as usize]);
            let _ = read(&mut device, slot, usize::MAX);
        }
        data(&mut device, 5, 1000, &vec![1; 3 * WINDOW as usize]);
        shut(&mut device, SHUTDOWN_BOTH, 5, 1000);
        assert_eq!(device.large, 1);
        let _ = read(&mut device, slot, 2 * WINDOW as usize);
        assert_eq!(device.large, 0);
        device.release(slot);
        assert_eq!(device.large, 0);
    }

    #[test]
    fn control_goes_first_and_bulk_streams_take_turns() {
        let mut device = device();
        let a = accepted(&mut device);
        say(&mut device, Op::Request, 5, 1001);
        say(&mut device, Op::Request, 5, 1002);
        packets(&mut device);
        let (b, control) = (accept(&mut device, 5).expect("waits"), accept(&mut device, 5).expect("waits"));
        device.set_priority(control, Priority::Control);
        for slot in [a, b, control] {
            assert!(write(&mut device, slot, &[slot as u8; 5000]).is_ready());
        }
        let order: Vec<u32> = packets(&mut device).iter().map(|(header, _)| header.to_port).collect();
        assert_eq!(order, [1002, 1002, 1000, 1001, 1000, 1001]);
    }

    #[test]
    fn a_guest_that_provokes_answers_and_takes_none_is_not_read_any_more() {
        let mut device = device();
        let mut taken = 0;
        while device.can_receive() {
            say(&mut device, Op::Request, 9, taken);
            taken += 1;
        }
        assert_eq!(taken as usize, MAX_RESETS);
        assert_eq!(packets(&mut device).len(), MAX_RESETS);
        assert!(device.can_receive());
    }
}

mod misuse {
    use super::*;

    fn misused(header: &Header, payload: &[u8]) -> Option<StreamError> {
        let mut device = device();
        let slot = accepted(&mut device);
        device.receive(header, &mut &payload[..]);
        if device.cut_reason(slot).is_some() {
            assert_eq!(ops(&mut device), [Op::Reset], "the guest is told");
        }
        device.cut_reason(slot)
    }

    #[test]
    fn costs_the_guest_its_stream() {
        let unexpected = |op| Some(StreamError::Misuse(Misuse::Unexpected(op)));
        assert_eq!(misused(&from_guest(Op::Request, 5, 1000), b""), unexpected(Op::Request));
        assert_eq!(misused(&from_guest(Op::Response, 5, 1000), b""), unexpected(Op::Response));
        let unknown = Header { op: None, ..from_guest(Op::Data, 5, 1000) };
        assert_eq!(misused(&unknown, b""), Some(StreamError::Misuse(Misuse::UnknownOp)));
        let short = Header { length: 3, ..from_guest(Op::Data, 5, 1000) };
        let error = Misuse::BadLength { length: 3, available: 2 };
        assert_eq!(misused(&short, b"ab"), Some(StreamError::Misuse(error)));
        let huge = Header { length: MAX_PAYLOAD + 1, ..short };
        let error = Misuse::BadLength { length: MAX_PAYLOAD + 1, available: 2 };
        assert_eq!(misused(&huge, b"ab"), Some(StreamError::Misuse(error)));
    }

    #[test]
    fn of_another_kind_or_address_is_refused_and_of_another_sender_ignored() {
        let mut device = device();
        device.listen(5).expect("free");
        device.receive(&Header { kind: 2, ..from_guest(Op::Request, 5, 1) }, &mut &[][..]);
        let sent = packets(&mut device);
        assert_eq!((sent[0].0.op, sent[0].0.kind), (Some(Op::Reset), 2));
        device.receive(&Header { to_cid: 9, ..from_guest(Op::Request, 5, 1) }, &mut &[][..]);
        let sent = packets(&mut device);
        assert_eq!((sent[0].0.op, sent[0].0.from_cid), (Some(Op::Reset), 9));
        device.receive(&Header { from_cid: 9, ..from_guest(Op::Request, 5, 1) }, &mut &[][..]);
        say(&mut device, Op::Reset, 5, 77);
        assert_eq!(ops(&mut device), [], "a reset is not answered with one");
        say(&mut device, Op::Data, 5, 77);
        assert_eq!(ops(&mut device), [Op::Reset]);
    }
}

proptest! {
    /// Whatever a guest sends and a host does, nothing panics and the limits hold.
    #[test]
    fn no_sequence_breaks_the_bounds(steps in prop::collection::vec(any::<(u8, u8, u16, u32)>(), 1..200)) {
        let mut device = device();
        device.listen(0).expect("free");
        let mut slots = Vec::new();
        for (what, port, length, number) in steps {
            let pick = |slots: &Vec<Slot>| slots.get(number as usize % slots.len().max(1)).copied();
            match what % 12 {
                0..=5 => {
                    let mut bytes = [0; crate::header::HEADER_LEN];
                    bytes[30] = what % 9;
                    let mut header = Header::decode(&bytes);
                    (header.from_cid, header.to_cid, header.kind) = (CID, HOST_CID, TYPE_STREAM);
                    header.to_port = u32::from(port % 2) * 0x8000_0000;
                    header.from_port = u32::from(port / 2 % 4);
                    (header.length, header.window, header.consumed) = (u32::from(length), number, number / 3);
                    header.flags = number;
                    if device.can_receive() {
                        device.receive(&header, &mut &vec![0; usize::from(length)][..]);
                    }
                }
                6 => slots.extend(device.dial(u32::from(port % 4)).ok()),
                7 => slots.extend(accept(&mut device, 0)),
                8 => if let Some(slot) = pick(&slots) { let _ = write(&mut device, slot, &vec![1; usize::from(length)]); },
                9 => if let Some(slot) = pick(&slots) { let _ = read(&mut device, slot, usize::from(length)); },
                10 => if let Some(slot) = pick(&slots) {
                    if port % 2 == 0 { device.shut_down(slot) } else { slots.retain(|&other| other != slot); device.release(slot) }
                },
                _ => { packets(&mut device); }
            }
            prop_assert!(device.by_ports.len() <= 4);
            prop_assert!(device.conns.len() <= 4);
            prop_assert!(device.control.len() + device.bulk.len() <= device.conns.len());
            prop_assert!(device.resets.len() <= MAX_RESETS + 8);
            for conn in device.conns.values() {
                prop_assert!(conn.received.len() <= conn.window as usize && conn.unsent.len() <= conn.window as usize);
            }
        }
        for slot in slots {
            device.release(slot);
        }
        device.unlisten(0);
        device.driver_started();
        prop_assert_eq!((device.conns.len(), device.by_ports.len(), device.large), (0, 0, 0));
    }
}
