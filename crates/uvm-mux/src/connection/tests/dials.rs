//! Dials, answers and listeners.

use super::*;

fn refused(end: &mut Connection, slot: Slot) -> Refusal {
    match end.poll_accepted(slot, Waker::noop()) {
        Poll::Ready(Err(StreamError::Refused(refusal))) => refusal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn ids_count_up_by_two_from_zero_at_the_owner_and_one_at_the_guest() {
    let (mut owner, mut guest) = ends();
    for end in [&mut owner, &mut guest] {
        (0..3).for_each(|port| drop(end.dial(port)));
    }
    let ids =
        |end: &mut Connection| -> Vec<u32> { frames(&transmit_all(end)).iter().map(|(header, _)| header.id).collect() };
    assert_eq!((ids(&mut owner), ids(&mut guest)), (vec![0, 2, 4], vec![1, 3, 5]));
}

#[test]
fn a_dial_is_refused_with_the_reason() {
    let few = Config::default().with_backlog(2).with_max_streams(3);
    let (mut owner, mut guest) = ends_with(Config::default(), few);
    guest.listen(1).expect("free");
    guest.listen(2).expect("free");
    let dial = |owner: &mut Connection, port| owner.dial(port).expect("up");
    let slots = [9, 1, 1].map(|port| dial(&mut owner, port));
    carry(&mut owner, &mut guest);
    assert_eq!(refused(&mut owner, slots[0]), Refusal::NobodyListens);
    let slot = dial(&mut owner, 1);
    carry(&mut owner, &mut guest);
    assert_eq!(refused(&mut owner, slot), Refusal::BacklogFull);
    let (_, _, _) = (accept(&mut guest, 1), accept(&mut guest, 1), dial(&mut owner, 2));
    carry(&mut owner, &mut guest);
    accept(&mut guest, 2);
    carry(&mut owner, &mut guest);
    let slot = dial(&mut owner, 2);
    carry(&mut owner, &mut guest);
    assert_eq!(refused(&mut owner, slot), Refusal::TooManyStreams);
    assert_eq!(write(&mut owner, slot, b"x"), Poll::Ready(Err(ErrorKind::ConnectionRefused)));
}

#[test]
fn a_listener_that_goes_refuses_those_that_wait() {
    let (mut owner, mut guest) = ends();
    guest.listen(1).expect("free");
    let waiting = owner.dial(1).expect("up");
    carry(&mut owner, &mut guest);
    guest.unlisten(1);
    carry(&mut owner, &mut guest);
    assert_eq!(refused(&mut owner, waiting), Refusal::NobodyListens);
    assert_eq!(guest.usage().streams, 0);
    guest.listen(1).expect("free again");
}

#[test]
fn every_dial_gets_one_answer_also_if_it_was_given_up() {
    let (mut owner, mut guest) = ends();
    guest.listen(1).expect("free");
    // Given up before the OPEN is sent, in the backlog, and when it was accepted meanwhile.
    let early = owner.dial(1).expect("up");
    owner.release(early);
    let waiting = owner.dial(1).expect("up");
    let crossing = owner.dial(1).expect("up");
    carry(&mut owner, &mut guest);
    owner.release(waiting);
    carry(&mut owner, &mut guest);
    let far = accept(&mut guest, 1);
    owner.release(crossing);
    let reset = transmit_all(&mut owner);
    guest.receive(&reset);
    guest.release(far);
    assert_eq!(controls(&transmit_all(&mut guest)), [Control::Accept { id: 4 }]);
    owner.receive(&bytes_of(&Control::Accept { id: 4 }));
    assert_eq!((owner.unanswered, guest.usage().streams, guest.backlogged), (0, 0, 0));
    assert_eq!(owner.link(), Link::Up { epoch: 1 });
}

#[test]
fn more_answers_than_dials_break_the_protocol() {
    let refusal = |id| Control::Reset { id, reason: ResetReason::Refused(Refusal::NobodyListens) };
    for answer in [refusal(2), Control::Accept { id: 2 }] {
        let (mut owner, _) = ends();
        let given_up = owner.dial(1).expect("up");
        owner.release(given_up);
        owner.dial(1).expect("up");
        owner.receive(&bytes_of(&refusal(0)).repeat(2));
        assert_eq!(owner.link(), Link::Up { epoch: 1 }, "the second may be late");
        owner.receive(&bytes_of(&answer));
        assert!(matches!(owner.dead(), Some(Down::Protocol(ProtocolError::Unexpected { id: 2, .. }))));
    }
}

#[test]
fn an_end_dials_no_more_than_the_other_answers() {
    let few = Config::default().with_max_streams(2);
    let (mut owner, mut guest) = ends_with(Config::default(), few);
    for _ in 0..2 {
        let slot = owner.dial(1).expect("up");
        owner.release(slot);
    }
    transmit_all(&mut owner);
    assert_eq!(owner.usage().streams, 0);
    assert_eq!(owner.dial(1), Err(MuxError::TooManyStreams { limit: 2 }), "two are not answered");
    // One that does it all the same ends the link, before its answers pile up.
    for id in [0, 2, 4] {
        guest.receive(&bytes_of(&Control::Open { id, port: 1 }));
    }
    assert_eq!(guest.link(), protocol(ProtocolError::TooManyUnanswered { limit: 2 }));
    assert_eq!(guest.usage().refusals, 0);
}

#[test]
fn the_last_of_too_many_streams_is_an_error_here() {
    let few = Config::default().with_max_streams(3);
    let (mut owner, mut guest) = ends_with(few, Config::default());
    for _ in 0..3 {
        stream(&mut owner, &mut guest);
    }
    assert_eq!(owner.dial(1), Err(MuxError::TooManyStreams { limit: 3 }));
}

#[test]
fn a_listener_that_waits_is_woken_by_the_dial() {
    let (mut owner, mut guest) = ends();
    guest.listen(1).expect("free");
    let count = Arc::new(Count(AtomicUsize::new(0)));
    assert!(guest.poll_accept(1, &Waker::from(Arc::clone(&count))).is_pending());
    owner.dial(1).expect("up");
    carry(&mut owner, &mut guest);
    wakes(&mut guest);
    assert_eq!(count.0.load(Ordering::Relaxed), 1);
}
