//! What no honest driver sends.

use super::{accepted, device, from_guest, ops, packets, say};
use crate::error::{Misuse, StreamError};
use crate::header::{Header, MAX_PAYLOAD, Op};

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
