//! Ends, resets and handles that are dropped.

use super::*;

#[test]
fn each_direction_ends_by_itself_and_end_of_file_comes_after_all_bytes() {
    let (mut owner, mut guest) = ends();
    let (near, far) = stream(&mut owner, &mut guest);
    assert_eq!(write(&mut owner, near, b"last words"), Poll::Ready(Ok(10)));
    owner.shut_down(near);
    assert_eq!(write(&mut owner, near, b"x"), Poll::Ready(Err(ErrorKind::BrokenPipe)));
    carry(&mut owner, &mut guest);
    assert_eq!(read(&mut guest, far), Poll::Ready(Ok(b"last words".to_vec())));
    assert_eq!(read(&mut guest, far), Poll::Ready(Ok(vec![])));
    assert_eq!(read(&mut owner, near), Poll::Pending);
    assert_eq!(write(&mut guest, far, b"reply"), Poll::Ready(Ok(5)));
    guest.shut_down(far);
    carry(&mut owner, &mut guest);
    assert_eq!(read(&mut owner, near), Poll::Ready(Ok(b"reply".to_vec())));
    assert_eq!(read(&mut owner, near), Poll::Ready(Ok(vec![])));
    owner.release(near);
    guest.release(far);
    assert_eq!((owner.usage().streams, guest.usage().streams), (0, 0));
}

#[test]
fn a_reset_cuts_both_directions_and_leaves_what_was_received_to_be_read() {
    let (mut owner, mut guest) = ends();
    let (near, far) = stream(&mut owner, &mut guest);
    assert_eq!(write(&mut owner, near, b"received"), Poll::Ready(Ok(8)));
    carry(&mut owner, &mut guest);
    assert_eq!(write(&mut owner, near, b"never sent"), Poll::Ready(Ok(10)));
    owner.reset(near);
    carry(&mut owner, &mut guest);
    assert_eq!(read(&mut guest, far), Poll::Ready(Ok(b"received".to_vec())));
    assert_eq!(read(&mut guest, far), Poll::Ready(Err(StreamError::ResetByPeer)));
    assert_eq!(write(&mut guest, far, b"x"), Poll::Ready(Err(ErrorKind::ConnectionReset)));
    assert_eq!(read(&mut owner, near), Poll::Ready(Err(StreamError::ResetHere)));
}

#[test]
fn a_stream_dropped_before_it_was_shut_down_is_reset() {
    let (mut owner, mut guest) = ends();
    let (near, far) = stream(&mut owner, &mut guest);
    owner.release(near);
    assert_eq!(controls(&transmit_all(&mut owner)), [Control::Reset { id: 0, reason: ResetReason::Dropped }]);
    assert_eq!(owner.usage().streams, 0);
    guest.receive(&bytes_of(&Control::Reset { id: 0, reason: ResetReason::Dropped }));
    assert_eq!(read(&mut guest, far), Poll::Ready(Err(StreamError::ResetByPeer)));
}

#[test]
fn a_stream_dropped_after_it_was_shut_down_loses_nothing_and_then_stops_the_other_end() {
    let (mut owner, mut guest) = ends();
    let (near, far) = stream(&mut guest, &mut owner);
    assert_eq!(write(&mut guest, near, &vec![4; 20_000]), Poll::Ready(Ok(20_000)));
    guest.shut_down(near);
    guest.release(near);
    assert_eq!(guest.usage().streams, 1, "it lingers until its data is sent");
    carry(&mut owner, &mut guest);
    assert_eq!(guest.usage().streams, 0);
    assert_eq!(read(&mut owner, far), Poll::Ready(Ok(vec![4; 20_000])));
    assert_eq!(read(&mut owner, far), Poll::Ready(Ok(vec![])), "end of file, and no reset in its place");
    assert_eq!(write(&mut owner, far, b"to nobody"), Poll::Ready(Err(ErrorKind::ConnectionReset)));
}

#[test]
fn a_stream_dropped_when_its_end_was_sent_stops_the_other_end_at_once() {
    let (mut owner, mut guest) = ends();
    let (near, far) = stream(&mut guest, &mut owner);
    guest.shut_down(near);
    carry(&mut owner, &mut guest);
    guest.release(near);
    assert_eq!(controls(&transmit_all(&mut guest)), [Control::Reset { id: 1, reason: ResetReason::Dropped }]);
    assert_eq!(guest.usage().streams, 0);
    owner.receive(&bytes_of(&Control::Reset { id: 1, reason: ResetReason::Dropped }));
    assert_eq!(read(&mut owner, far), Poll::Ready(Ok(vec![])));
    assert_eq!(write(&mut owner, far, b"to nobody"), Poll::Ready(Err(ErrorKind::ConnectionReset)));
}

#[test]
fn a_stream_that_both_ends_shut_down_is_never_reset_and_no_credit_follows_its_end() {
    let (mut owner, mut guest) = ends();
    let (near, far) = stream(&mut owner, &mut guest);
    while write(&mut owner, near, &vec![1; MAX_PAYLOAD]).is_ready() {
        carry(&mut owner, &mut guest);
    }
    assert!(read(&mut guest, far).is_ready()); // credit is due
    owner.shut_down(near);
    guest.receive(&transmit_all(&mut owner));
    guest.shut_down(far);
    guest.release(far);
    let sent = transmit_all(&mut guest);
    assert_eq!(controls(&sent), [Control::Fin { id: 0 }]);
    owner.receive(&sent);
    owner.release(near);
    assert_eq!(transmit_all(&mut owner), []);
    assert_eq!((owner.usage().streams, guest.usage().streams), (0, 0));
    // The same if the other end's FIN comes while this one's has not been sent.
    let (near, far) = stream(&mut owner, &mut guest);
    guest.shut_down(far);
    guest.release(far);
    owner.shut_down(near);
    guest.receive(&transmit_all(&mut owner));
    assert_eq!(controls(&transmit_all(&mut guest)), [Control::Fin { id: 2 }]);
}

#[test]
fn what_was_received_is_freed_with_the_handle_though_the_stream_lingers() {
    let (mut owner, mut guest) = ends();
    let (near, far) = stream(&mut owner, &mut guest);
    assert_eq!(write(&mut owner, near, &vec![1; 30_000]), Poll::Ready(Ok(30_000)));
    carry(&mut owner, &mut guest);
    assert_eq!(write(&mut guest, far, b"not sent yet"), Poll::Ready(Ok(12)));
    guest.shut_down(far);
    guest.release(far);
    assert_eq!((guest.usage().streams, guest.usage().received, guest.usage().received_memory), (1, 0, 0));
}

#[test]
fn a_writer_behind_a_full_frame_and_one_that_flushes_are_woken_when_it_is_sent() {
    let (mut owner, mut guest) = ends();
    let (near, _) = stream(&mut owner, &mut guest);
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&count));
    let frame = vec![1; MAX_PAYLOAD];
    assert_eq!(write(&mut owner, near, &frame), Poll::Ready(Ok(MAX_PAYLOAD)));
    assert!(owner.poll_write(near, &waker, b"more").is_pending());
    transmit_all(&mut owner);
    wakes(&mut owner);
    assert_eq!(count.0.load(Ordering::Relaxed), 1);
    assert_eq!(write(&mut owner, near, b"more"), Poll::Ready(Ok(4)));
    assert!(owner.poll_flush(near, &waker).is_pending());
    transmit_all(&mut owner);
    wakes(&mut owner);
    assert_eq!(count.0.load(Ordering::Relaxed), 2);
}

#[test]
fn a_direction_that_nobody_reads_does_not_stall_the_other_end() {
    let (mut owner, mut guest) = ends();
    let (near, far) = stream(&mut owner, &mut guest);
    owner.discard(near);
    for _ in 0..100 {
        assert_eq!(write(&mut guest, far, &vec![1; 20_000]), Poll::Ready(Ok(20_000)));
        carry(&mut owner, &mut guest);
    }
    assert_eq!(owner.usage().received, 0);
}

#[test]
fn a_writing_half_dropped_early_resets_and_dropped_late_does_not() {
    let (mut owner, mut guest) = ends();
    let (near, far) = stream(&mut owner, &mut guest);
    owner.shut_down(near);
    owner.abandon_writing(near);
    carry(&mut owner, &mut guest);
    assert_eq!(read(&mut guest, far), Poll::Ready(Ok(vec![])));
    guest.abandon_writing(far);
    carry(&mut owner, &mut guest);
    assert_eq!(read(&mut owner, near), Poll::Ready(Err(StreamError::ResetByPeer)));
}

#[test]
fn frames_for_a_stream_cut_here_are_dropped_and_cost_nothing() {
    let (mut owner, mut guest) = ends();
    let (near, _) = stream(&mut owner, &mut guest);
    owner.release(near);
    transmit_all(&mut owner);
    for _ in 0..1000 {
        owner.receive(&data(0, &vec![1; 30_000]));
        owner.receive(&bytes_of(&Control::Window { id: 0, credit: 5 }));
    }
    owner.receive(&bytes_of(&Control::Fin { id: 0 }));
    owner.receive(&bytes_of(&Control::Reset { id: 0, reason: ResetReason::Dropped }));
    assert_eq!((owner.link(), owner.usage()), (Link::Up { epoch: 1 }, super::super::Usage::default()));
    assert_eq!(transmit_all(&mut owner), []);
}

#[test]
fn flush_and_shutdown_are_done_when_the_channel_has_it() {
    let (mut owner, mut guest) = ends();
    let (near, _) = stream(&mut owner, &mut guest);
    let flush = |owner: &mut Connection| owner.poll_flush(near, Waker::noop()).map_err(|error| error.kind());
    assert_eq!(flush(&mut owner), Poll::Ready(Ok(())));
    assert_eq!(write(&mut owner, near, b"x"), Poll::Ready(Ok(1)));
    assert_eq!(flush(&mut owner), Poll::Pending);
    transmit_all(&mut owner);
    assert_eq!(flush(&mut owner), Poll::Ready(Ok(())));
    owner.shut_down(near);
    assert_eq!(flush(&mut owner), Poll::Pending);
    transmit_all(&mut owner);
    assert_eq!(flush(&mut owner), Poll::Ready(Ok(())));
    let (other, _) = stream(&mut owner, &mut guest);
    assert_eq!(write(&mut owner, other, b"x"), Poll::Ready(Ok(1)));
    owner.hang_up();
    assert_eq!(
        owner.poll_flush(other, Waker::noop()).map_err(|error| error.kind()),
        Poll::Ready(Err(ErrorKind::ConnectionReset))
    );
}
