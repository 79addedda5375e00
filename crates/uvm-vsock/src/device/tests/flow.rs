//! Flow control: windows, credit, turns, and a guest that takes nothing.

use std::sync::atomic::Ordering;
use std::task::{Poll, Waker};

use super::{
    WINDOW, accept, accepted, config, counter, data, device, from_guest, ops, packets, read, say, shut, text, write,
};
use crate::config::Priority;
use crate::device::{Device, MAX_RESETS};
use crate::error::{Misuse, StreamError};
use crate::header::{Header, Op, SHUTDOWN_BOTH};

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
