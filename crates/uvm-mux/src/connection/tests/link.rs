//! Greeting, epochs, and the end of a link.

use super::*;

#[test]
fn the_owner_speaks_first_and_the_guest_learns_its_clock_and_entropy() {
    let mut guest = Connection::new(Role::Guest, Config::default());
    assert_eq!(transmit_all(&mut guest), []);
    assert_eq!(guest.link(), Link::Down { why: Down::NoOwnerYet });
    let mut owner = owner_with(Config::default(), GuestState::Fresh);
    let hello = transmit_all(&mut owner);
    assert_eq!(owner.link(), Link::Down { why: Down::NoAnswerYet });
    guest.receive(&hello);
    assert_eq!(guest.link(), Link::Up { epoch: 1 });
    let said = guest.hello().expect("a greeting");
    assert_eq!((said.clock_ns, said.entropy), (77, [9; 32]));
    owner.receive(&transmit_all(&mut guest));
    assert_eq!(owner.link(), Link::Up { epoch: 1 });
}

#[test]
fn an_owner_of_a_restored_guest_sends_filler_and_drops_what_the_template_had_to_say() {
    let mut owner = owner_with(Config::default(), GuestState::Restored);
    let greeting = transmit_all(&mut owner);
    assert!(greeting[..FILLER_LEN].iter().all(|&byte| byte == 0) && greeting[FILLER_LEN] == Kind::Hello as u8);

    let ack = |nonce| HelloAck { nonce, version: VERSION, window: 9000, max_streams: 9 };
    let mut stale = bytes_of(&Control::HelloAck(ack([1; 16])));
    stale.extend(data(3, &[Kind::HelloAck as u8; 500]));
    stale.extend(&bytes_of(&Control::HelloAck(ack(NONCE)))[..20]); // as far as it goes, the right one
    let answer = bytes_of(&Control::HelloAck(ack(NONCE)));
    for chunk in [1, 7, 24, 1000] {
        let mut owner = owner_with(Config::default(), GuestState::Restored);
        stale.chunks(chunk).for_each(|bytes| owner.receive(bytes));
        assert_eq!(owner.link(), Link::Down { why: Down::NoAnswerYet });
        answer.chunks(chunk).for_each(|bytes| owner.receive(bytes));
        assert_eq!(owner.link(), Link::Up { epoch: 1 }, "in pieces of {chunk}");
    }
}

#[test]
fn a_guest_cut_anywhere_in_a_frame_answers_the_owner_of_its_clone() {
    let (mut owner, mut guest) = ends();
    let (near, _) = stream(&mut owner, &mut guest);
    assert_eq!(write(&mut owner, near, &[7; 3000]), Poll::Ready(Ok(3000)));
    owner.dial(1).expect("up");
    let mut old = transmit_all(&mut owner);
    old.extend(bytes_of(&Control::Ping { token: 1 }));
    for cut in 0..old.len() {
        let (mut template, mut clone) = ends();
        stream(&mut template, &mut clone);
        clone.receive(&old[..cut]);
        transmit_all(&mut clone);
        let greeting = Greeting { nonce: [3; 16], clock_ns: 0, entropy: [0; 32], guest: GuestState::Restored };
        let mut owner = Connection::new(Role::Owner(greeting), Config::default());
        carry(&mut owner, &mut clone);
        assert_eq!((owner.link(), clone.link()), (Link::Up { epoch: 1 }, Link::Up { epoch: 2 }), "cut at {cut}");
    }
}

#[test]
fn a_fresh_greeting_between_frames_ends_all_streams_and_begins_an_epoch() {
    let (mut owner, mut guest) = ends();
    let (_, far) = stream(&mut owner, &mut guest);
    let hello = Hello { nonce: [2; 16], version: VERSION, window: 1, max_streams: 1, clock_ns: 0, entropy: [0; 32] };
    guest.receive(&[0; 100]);
    guest.receive(&bytes_of(&Control::Hello(hello)));
    assert_eq!(guest.link(), Link::Up { epoch: 2 });
    assert_eq!(read(&mut guest, far), Poll::Ready(Err(StreamError::NewEpoch)));
    assert_eq!(write(&mut guest, far, b"x"), Poll::Ready(Err(ErrorKind::ConnectionReset)));
    // Ids start anew, and the new owner's limits hold.
    let sent = transmit_all(&mut guest);
    assert!(matches!(controls(&sent)[..], [Control::HelloAck(HelloAck { nonce: [2, ..], .. })]));
    guest.dial(4).expect("up");
    assert_eq!(controls(&transmit_all(&mut guest)), [Control::Open { id: 1, port: 4 }]);
    assert_eq!(guest.dial(4), Err(MuxError::TooManyStreams { limit: 1 }));
    guest.receive(&bytes_of(&Control::Open { id: 0, port: 1 }));
    guest.release(far);
    assert_eq!(guest.link(), Link::Up { epoch: 2 });
}

#[test]
fn a_nonce_used_twice_is_refused() {
    let (_, mut guest) = ends();
    let hello = *guest.hello().expect("a greeting");
    guest.receive(&bytes_of(&Control::Hello(hello)));
    assert_eq!(guest.link(), protocol(ProtocolError::NonceReused));
}

#[test]
fn ends_of_different_versions_both_name_both() {
    let hello = Hello { nonce: NONCE, version: 9, window: 0, max_streams: 0, clock_ns: 0, entropy: [0; 32] };
    let mut guest = Connection::new(Role::Guest, Config::default());
    guest.receive(&bytes_of(&Control::Hello(hello)));
    assert_eq!(guest.link(), Link::Down { why: Down::Version { ours: VERSION, theirs: 9 } });
    let answer = transmit_all(&mut guest);
    assert!(matches!(controls(&answer)[..], [Control::HelloAck(HelloAck { nonce: NONCE, version: VERSION, .. })]));
    // The guest waits for an owner it understands.
    let mut owner = owner_with(Config::default(), GuestState::Fresh);
    let mut newer = answer.clone();
    newer[24] = 8;
    owner.receive(&newer);
    assert_eq!(owner.dead(), Some(&Down::Version { ours: VERSION, theirs: 8 }));
}

#[test]
fn an_owner_never_comes_back_and_a_guest_does() {
    let (mut owner, mut guest) = ends();
    let (near, far) = stream(&mut owner, &mut guest);
    owner.hang_up();
    assert_eq!(owner.dead(), Some(&Down::Closed));
    assert_eq!(read(&mut owner, near), Poll::Ready(Err(StreamError::LinkDown(Down::Closed))));
    assert_eq!(owner.dial(1), Err(MuxError::LinkDown { why: Down::Closed }));
    assert_eq!(owner.listen(9), Err(MuxError::LinkDown { why: Down::Closed }));
    assert_eq!(owner.poll_accept(1, Waker::noop()), Poll::Ready(Err(Down::Closed)));

    guest.receive(&data(0, b"cut")[..9]);
    guest.hang_up();
    assert_eq!(guest.link(), Link::Down { why: Down::Closed });
    let mut received = Vec::new();
    assert_eq!(read(&mut guest, far).map_ok(|bytes| received = bytes), Poll::Ready(Ok(())));
    assert_eq!(received, b"c");
    assert_eq!(read(&mut guest, far), Poll::Ready(Err(StreamError::LinkDown(Down::Closed))));
    let greeting = Greeting { nonce: [4; 16], clock_ns: 0, entropy: [0; 32], guest: GuestState::Fresh };
    let mut next = Connection::new(Role::Owner(greeting), Config::default());
    carry(&mut next, &mut guest);
    let (near, far) = stream(&mut next, &mut guest); // the listener is still there
    assert_eq!(write(&mut guest, far, b"late"), Poll::Ready(Ok(4)));
    carry(&mut next, &mut guest);
    assert_eq!(read(&mut next, near), Poll::Ready(Ok(b"late".to_vec())));
}

#[test]
fn a_broken_protocol_takes_the_link_down_and_says_how() {
    let unexpected = |kind, id| ProtocolError::Unexpected { kind, id };
    let never = |kind, id| ProtocolError::NeverOpened { kind, id };
    let reset = |id, reason| Control::Reset { id, reason };
    let refused = ResetReason::Refused(Refusal::NobodyListens);
    // The owner has dialled 0 (accepted) and 2 (not answered); the guest has dialled 1.
    let cases: Vec<(Vec<u8>, ProtocolError)> = vec![
        (vec![12; 8], FrameError::UnknownKind { kind: 12 }.into()),
        (vec![5, 0, 0xff, 0xff, 0, 0, 0, 0], FrameError::BadLength { kind: Kind::Data, length: 0xffff }.into()),
        (bytes_of(&Control::Hello(hello())), unexpected(Kind::Hello, 0)),
        (bytes_of(&Control::HelloAck(ack())), unexpected(Kind::HelloAck, 0)),
        (bytes_of(&Control::Open { id: 1, port: 1 }), ProtocolError::WrongId { id: 1, expected: 3 }),
        (bytes_of(&Control::Open { id: 5, port: 1 }), ProtocolError::WrongId { id: 5, expected: 3 }),
        (bytes_of(&Control::Open { id: 4, port: 1 }), ProtocolError::WrongId { id: 4, expected: 3 }),
        (bytes_of(&Control::Accept { id: 0 }), unexpected(Kind::Accept, 0)),
        (bytes_of(&Control::Accept { id: 1 }), unexpected(Kind::Accept, 1)),
        (bytes_of(&Control::Accept { id: 4 }), never(Kind::Accept, 4)),
        (data(4, b"x"), never(Kind::Data, 4)),
        (data(3, b"x"), never(Kind::Data, 3)),
        (data(2, b"x"), unexpected(Kind::Data, 2)),
        (bytes_of(&Control::Fin { id: 2 }), unexpected(Kind::Fin, 2)),
        (bytes_of(&Control::Fin { id: 6 }), never(Kind::Fin, 6)),
        ([bytes_of(&Control::Fin { id: 0 }), data(0, b"x")].concat(), unexpected(Kind::Data, 0)),
        (bytes_of(&Control::Fin { id: 0 }).repeat(2), unexpected(Kind::Fin, 0)),
        (bytes_of(&reset(0, refused)), unexpected(Kind::Reset, 0)),
        (bytes_of(&reset(1, refused)), unexpected(Kind::Reset, 1)),
        (bytes_of(&reset(2, ResetReason::Dropped)), unexpected(Kind::Reset, 2)),
        (bytes_of(&reset(2, refused)).repeat(2), unexpected(Kind::Reset, 2)),
        (bytes_of(&Control::Window { id: 0, credit: 0 }), ProtocolError::BadCredit { id: 0, credit: 0 }),
        (bytes_of(&Control::Window { id: 0, credit: u32::MAX }), ProtocolError::BadCredit { id: 0, credit: u32::MAX }),
        (bytes_of(&Control::Window { id: 2, credit: 1 }), unexpected(Kind::Window, 2)),
        (bytes_of(&Control::Pong { token: 1 }), unexpected(Kind::Pong, 0)),
        (data(0, &vec![0; 30_000]).repeat(3), ProtocolError::WindowExceeded { id: 0, excess: 90_000 - 65_536 }),
    ];
    for (bytes, error) in cases {
        let (mut owner, mut guest) = ends();
        let (near, _) = stream(&mut owner, &mut guest);
        stream(&mut guest, &mut owner);
        owner.dial(1).expect("up");
        transmit_all(&mut owner);
        owner.receive(&bytes);
        assert_eq!(owner.link(), protocol(error), "{bytes:?}");
        assert!(matches!(owner.cut_reason(near), Some(StreamError::LinkDown(Down::Protocol(_)))));
        owner.receive(&data(0, b"more"));
        assert_eq!(transmit_all(&mut owner), []);
    }
}

fn hello() -> Hello {
    Hello { nonce: [8; 16], version: VERSION, window: 9, max_streams: 9, clock_ns: 0, entropy: [0; 32] }
}

fn ack() -> HelloAck {
    HelloAck { nonce: NONCE, version: VERSION, window: 9, max_streams: 9 }
}

#[test]
fn frames_before_the_greeting_break_the_protocol() {
    let mut guest = Connection::new(Role::Guest, Config::default());
    guest.receive(&bytes_of(&Control::Open { id: 0, port: 1 }));
    assert_eq!(guest.link(), protocol(ProtocolError::Unexpected { kind: Kind::Open, id: 0 }));
    // It is deaf to greetings until it has found its place again.
    guest.receive(&bytes_of(&Control::Hello(hello())));
    assert!(matches!(guest.link(), Link::Down { .. }));
    guest.receive(&vec![0; MAX_FRAME]);
    guest.receive(&bytes_of(&Control::Hello(hello())));
    assert_eq!(guest.link(), Link::Up { epoch: 1 });
}

#[test]
fn ids_that_are_used_up_are_an_error_and_not_used_again() {
    let (mut owner, _) = ends();
    owner.next_local = u64::from(u32::MAX) - 1;
    let last = owner.dial(1).expect("the last id");
    assert_eq!(owner.id(last), u32::MAX - 1);
    assert_eq!(owner.dial(1), Err(MuxError::IdsExhausted));
}

#[test]
fn quiet_is_when_no_stream_is_left_and_the_other_end_has_read_all() {
    let (mut owner, mut guest) = ends();
    let (near, far) = stream(&mut owner, &mut guest);
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&count));
    let mut wait = QuietWait::default();
    assert_eq!(owner.poll_quiet(&mut wait, &waker), Poll::Pending);
    carry(&mut owner, &mut guest);
    assert_eq!(owner.poll_quiet(&mut wait, &waker), Poll::Pending, "a stream is open");
    for (end, slot) in [(&mut owner, near), (&mut guest, far)] {
        end.shut_down(slot);
        end.release(slot);
    }
    carry(&mut owner, &mut guest);
    wakes(&mut owner);
    assert!(count.0.swap(0, Ordering::Relaxed) > 0);
    assert_eq!(owner.poll_quiet(&mut wait, &waker), Poll::Pending, "the other end has not said that it read all");
    let ping = transmit_all(&mut owner);
    assert_eq!(owner.poll_quiet(&mut wait, &waker), Poll::Pending);
    guest.receive(&ping);
    owner.receive(&transmit_all(&mut guest));
    wakes(&mut owner);
    assert!(count.0.load(Ordering::Relaxed) > 0);
    assert_eq!(owner.poll_quiet(&mut wait, &waker), Poll::Ready(Ok(())));
    owner.hang_up();
    assert_eq!(owner.poll_quiet(&mut wait, &waker), Poll::Ready(Err(Down::Closed)));
}
