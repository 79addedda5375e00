//! Windows: credit, growth and memory.

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
