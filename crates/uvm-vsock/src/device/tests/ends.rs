//! Streams end: in each direction by itself, in reset, with the device.

use std::io::ErrorKind;
use std::sync::atomic::Ordering;
use std::task::{Poll, Waker};

use super::{accept, accepted, counter, data, device, ops, packets, say, shut, text, write};
use crate::error::{Down, Link, StreamError, VsockError};
use crate::header::{Op, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};

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
