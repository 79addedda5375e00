//! What is sent before what.

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
