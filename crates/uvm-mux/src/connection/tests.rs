//! The rules, one by one.

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

mod link {
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
        let hello =
            Hello { nonce: [2; 16], version: VERSION, window: 1, max_streams: 1, clock_ns: 0, entropy: [0; 32] };
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
            (
                bytes_of(&Control::Window { id: 0, credit: u32::MAX }),
                ProtocolError::BadCredit { id: 0, credit: u32::MAX },
            ),
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
}

mod streams {
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
}

mod dials {
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
        let ids = |end: &mut Connection| -> Vec<u32> {
            frames(&transmit_all(end)).iter().map(|(header, _)| header.id).collect()
        };
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
}

mod flow {
    use super::*;

    /// Writes what the window allows and carries it.
    fn fill(a: &mut Connection, near: Slot, b: &mut Connection) -> usize {
        let mut total = 0;
        while let Poll::Ready(Ok(n)) = write(a, near, &vec![1; MAX_PAYLOAD]) {
            total += n;
            carry(a, b);
        }
        total
    }

    #[test]
    fn a_stalled_reader_has_one_window_queued_and_no_other_stream_waits() {
        let (mut owner, mut guest) = ends();
        let (near, far) = stream(&mut owner, &mut guest);
        let (other_near, other_far) = stream(&mut owner, &mut guest);
        assert_eq!(fill(&mut owner, near, &mut guest), 64 * 1024);
        assert_eq!(guest.usage().received, 64 * 1024);
        assert_eq!(write(&mut owner, other_near, b"alive"), Poll::Ready(Ok(5)));
        carry(&mut owner, &mut guest);
        assert_eq!(read(&mut guest, other_far), Poll::Ready(Ok(b"alive".to_vec())));
        assert_eq!(read(&mut guest, far), Poll::Ready(Ok(vec![1; 64 * 1024])));
        carry(&mut owner, &mut guest);
        assert_eq!(fill(&mut owner, near, &mut guest), 64 * 1024);
    }

    #[test]
    fn credit_goes_back_in_halves_of_a_window() {
        let (mut owner, mut guest) = ends();
        let (near, far) = stream(&mut owner, &mut guest);
        fill(&mut owner, near, &mut guest);
        let mut take = |n: usize| {
            let mut left = n;
            let read = guest.poll_read(far, Waker::noop(), |piece| {
                let n = piece.len().min(left);
                left -= n;
                n
            });
            assert_eq!(read, Poll::Ready(Ok(n)));
            controls(&transmit_all(&mut guest))
        };
        assert_eq!(take(32 * 1024 - 1), []);
        assert_eq!(take(1), [Control::Window { id: 0, credit: 32 * 1024 }]);
    }

    /// Fills the windows of all streams frame by frame, then reads all, a number of times. Gives the sum of the windows.
    fn bulk(owner: &mut Connection, guest: &mut Connection, streams: &[(Slot, Slot)], times: usize) -> usize {
        let mut windows = 0;
        for _ in 0..times {
            let mut frames = usize::MAX;
            windows = 0;
            while frames > 0 {
                frames = 0;
                for &(near, _) in streams {
                    if let Poll::Ready(Ok(n)) = write(owner, near, &vec![1; MAX_PAYLOAD]) {
                        windows += n;
                        frames += 1;
                    }
                }
                carry(owner, guest);
            }
            for &(_, far) in streams {
                assert!(read(guest, far).is_ready());
            }
            carry(owner, guest);
            guest.assert_bounds();
        }
        windows
    }

    #[test]
    fn a_lone_stream_grows_its_window_and_one_message_on_another_takes_it_back() {
        let (mut owner, mut guest) = ends();
        let alone = stream(&mut owner, &mut guest);
        let (talk_near, talk_far) = stream(&mut owner, &mut guest);
        assert_eq!(bulk(&mut owner, &mut guest, &[alone], 30), 1024 * 1024);
        assert_eq!(write(&mut owner, talk_near, b"hello"), Poll::Ready(Ok(5)));
        carry(&mut owner, &mut guest);
        assert_eq!(read(&mut guest, talk_far), Poll::Ready(Ok(b"hello".to_vec())));
        fill(&mut owner, alone.0, &mut guest); // what it had been given it may still send
        assert!(read(&mut guest, alone.1).is_ready());
        carry(&mut owner, &mut guest);
        assert_eq!(fill(&mut owner, alone.0, &mut guest), 64 * 1024);
    }

    #[test]
    fn streams_that_all_carry_bulk_share_the_largest_window() {
        let (mut owner, mut guest) = ends();
        let mut streams = vec![stream(&mut owner, &mut guest)];
        assert_eq!(bulk(&mut owner, &mut guest, &streams, 30), 1024 * 1024);
        streams.push(stream(&mut owner, &mut guest));
        streams.push(stream(&mut owner, &mut guest));
        streams.push(stream(&mut owner, &mut guest));
        assert_eq!(bulk(&mut owner, &mut guest, &streams, 30), 1024 * 1024);
        let many: Vec<_> = (0..20).map(|_| stream(&mut owner, &mut guest)).collect();
        assert_eq!(bulk(&mut owner, &mut guest, &many, 30), 20 * 64 * 1024, "never less than the usual one");
    }

    #[test]
    fn a_slow_reader_grows_nothing() {
        let (mut owner, mut guest) = ends();
        let (near, far) = stream(&mut owner, &mut guest);
        for _ in 0..200 {
            fill(&mut owner, near, &mut guest);
            let mut left = 33_000;
            let _ = guest.poll_read(far, Waker::noop(), |piece| {
                let n = piece.len().min(left);
                left -= n;
                n
            });
            carry(&mut owner, &mut guest);
            assert!(guest.usage().received <= 64 * 1024);
        }
    }

    #[test]
    fn memory_is_given_back_when_bytes_are_gone() {
        let (mut owner, mut guest) = ends();
        let (near, far) = stream(&mut owner, &mut guest);
        let (bulk_near, bulk_far) = stream(&mut owner, &mut guest);
        guest.set_priority(far, Priority::Control);
        owner.set_priority(near, Priority::Control);
        fill(&mut owner, bulk_near, &mut guest);
        assert!(guest.usage().received_memory >= 64 * 1024);
        assert!(read(&mut guest, bulk_far).is_ready());
        assert_eq!(guest.usage().received_memory, 0);
        owner.release(bulk_near);
        guest.release(bulk_far);
        carry(&mut owner, &mut guest);
        for end in [&owner, &guest] {
            assert_eq!(end.usage().streams, 1);
            assert!(end.usage().spare_memory < MAX_FRAME, "no block for bulk is kept: {:?}", end.usage());
        }
    }
}

mod order {
    use super::*;

    #[test]
    fn control_goes_before_bulk_and_bulk_streams_take_turns() {
        let (mut owner, mut guest) = ends();
        let pairs: Vec<_> = (0..4).map(|_| stream(&mut owner, &mut guest).0).collect();
        let bridge = stream(&mut owner, &mut guest).0;
        owner.set_priority(bridge, Priority::Control);
        let full = vec![1; MAX_PAYLOAD];
        let mut order = Vec::new();
        for &slot in &pairs {
            assert_eq!(write(&mut owner, slot, &full), Poll::Ready(Ok(MAX_PAYLOAD)));
        }
        owner.transmit(); // the first frame is on its way out
        assert_eq!(write(&mut owner, bridge, b"urgent"), Poll::Ready(Ok(6)));
        owner.dial(7).expect("up");
        while !owner.transmit().is_empty() {
            let bytes = owner.transmit().to_vec();
            order.extend(frames(&bytes).iter().map(|(header, _)| (header.kind, header.id)));
            owner.transmitted(bytes.len());
            if order.len() == 1 {
                assert_eq!(write(&mut owner, pairs[0], &full), Poll::Ready(Ok(MAX_PAYLOAD)));
            }
        }
        let data = |id| (Kind::Data, id);
        assert_eq!(order, [data(0), (Kind::Open, 10), data(8), data(2), data(4), data(6), data(0)]);
    }

    #[test]
    fn short_frames_of_several_streams_go_in_one_write() {
        let (mut owner, mut guest) = ends();
        let slots: Vec<_> = (0..5).map(|_| stream(&mut owner, &mut guest).0).collect();
        for &slot in &slots {
            assert_eq!(write(&mut owner, slot, b"short"), Poll::Ready(Ok(5)));
            owner.shut_down(slot);
        }
        let bytes = owner.transmit().to_vec();
        assert_eq!(frames(&bytes).len(), 10);
    }

    #[test]
    fn what_follows_a_full_frame_waits_for_more_and_a_flush_sends_it() {
        use super::super::ToSend;
        let (mut owner, mut guest) = ends();
        let (near, _) = stream(&mut owner, &mut guest);
        assert_eq!(write(&mut owner, near, &vec![1; 32 * 1024]), Poll::Ready(Ok(MAX_PAYLOAD)));
        assert_eq!(owner.to_send(), ToSend::Now);
        transmit_all(&mut owner);
        assert_eq!(write(&mut owner, near, &[1; 8]), Poll::Ready(Ok(8)));
        assert_eq!(owner.to_send(), ToSend::Later);
        assert!(owner.poll_flush(near, Waker::noop()).is_pending());
        assert_eq!(owner.to_send(), ToSend::Now);
        assert_eq!(transmit_all(&mut owner).len(), HEADER_LEN + 8);
        assert_eq!(owner.to_send(), ToSend::Nothing);
        assert_eq!(write(&mut owner, near, b"short"), Poll::Ready(Ok(5)));
        assert_eq!(owner.to_send(), ToSend::Now, "no full frame came before it");
    }
}
