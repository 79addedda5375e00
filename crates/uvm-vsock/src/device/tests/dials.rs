//! Streams begin: accepted, refused, given up, no more than there may be.

use std::task::{Poll, Waker};

use super::{CID, WINDOW, accept, accepted, config, data, device, ops, packets, say, shut};
use crate::device::{Device, Slot};
use crate::error::{StreamError, VsockError};
use crate::header::{HOST_CID, Op, SHUTDOWN_BOTH};

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
