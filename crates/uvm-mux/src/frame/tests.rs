//! Bytes of the layout, and bytes that are none.

use super::*;

fn encoded(frame: &Control) -> Vec<u8> {
    let mut bytes = [0xee; 80];
    let n = frame.encode(&mut bytes);
    assert!(bytes[n..].iter().all(|&byte| byte == 0xee));
    bytes[..n].to_vec()
}

fn decoded(bytes: &[u8]) -> Result<Control, FrameError> {
    let (header, payload) = bytes.split_first_chunk().expect("a header");
    Header::decode(*header).and_then(|header| Control::decode(header, payload))
}

#[test]
fn every_kind_of_frame_has_the_bytes_of_the_layout() {
    let nonce = *b"0123456789abcdef";
    let hello = Hello {
        nonce,
        version: VERSION,
        window: 0x0001_0000,
        max_streams: 0x400,
        clock_ns: 0x1122_3344_5566_7788,
        entropy: [0xaa; 32],
    };
    let ack = HelloAck { nonce, version: VERSION, window: 5, max_streams: 6 };
    let refused = |refusal| Control::Reset { id: 1, reason: ResetReason::Refused(refusal) };
    let golden: [(Control, &[&[u8]]); 14] = [
        (
            Control::Hello(hello),
            &[
                &[1, 0, 68, 0, 0, 0, 0, 0],
                b"0123456789abcdef",
                &[1, 0, 0, 0, 0, 0, 1, 0, 0, 4, 0, 0],
                &[0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11],
                &[0xaa; 32],
            ],
        ),
        (
            Control::HelloAck(ack),
            &[&[2, 0, 28, 0, 0, 0, 0, 0], b"0123456789abcdef", &[1, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0]],
        ),
        (Control::Open { id: 2, port: 0x0403_0201 }, &[&[3, 0, 4, 0, 2, 0, 0, 0, 1, 2, 3, 4]]),
        (Control::Accept { id: 0x0102_0304 }, &[&[4, 0, 0, 0, 4, 3, 2, 1]]),
        (Control::Fin { id: 9 }, &[&[6, 0, 0, 0, 9, 0, 0, 0]]),
        (Control::Reset { id: 1, reason: ResetReason::Dropped }, &[&[7, 0, 4, 0, 1, 0, 0, 0, 1, 0, 0, 0]]),
        (refused(Refusal::NobodyListens), &[&[7, 0, 4, 0, 1, 0, 0, 0, 16, 0, 0, 0]]),
        (refused(Refusal::TooManyStreams), &[&[7, 0, 4, 0, 1, 0, 0, 0, 17, 0, 0, 0]]),
        (refused(Refusal::BacklogFull), &[&[7, 0, 4, 0, 1, 0, 0, 0, 18, 0, 0, 0]]),
        (refused(Refusal::Abandoned), &[&[7, 0, 4, 0, 1, 0, 0, 0, 19, 0, 0, 0]]),
        (Control::Window { id: 3, credit: 32_768 }, &[&[8, 0, 4, 0, 3, 0, 0, 0, 0, 128, 0, 0]]),
        (Control::Ping { token: 7 }, &[&[9, 0, 4, 0, 0, 0, 0, 0, 7, 0, 0, 0]]),
        (Control::Pong { token: 7 }, &[&[10, 0, 4, 0, 0, 0, 0, 0, 7, 0, 0, 0]]),
        (Control::Window { id: u32::MAX, credit: u32::MAX }, &[&[8, 0, 4, 0], &[255; 8]]),
    ];
    for (frame, bytes) in golden {
        assert_eq!(encoded(&frame), bytes.concat(), "{frame:?}");
        assert_eq!(decoded(&bytes.concat()), Ok(frame));
    }
    let data = Header { kind: Kind::Data, length: MAX_PAYLOAD, id: 6 };
    assert_eq!(data.encode(), [5, 0, 0xf8, 0x7f, 6, 0, 0, 0]);
    assert_eq!(Header::decode(data.encode()), Ok(data));
}

#[test]
fn a_header_that_is_none_names_what_is_wrong() {
    let length = |kind: Kind, length: usize| Err(FrameError::BadLength { kind, length });
    for (bytes, error) in [
        ([11, 0, 0, 0, 0, 0, 0, 0], Err(FrameError::UnknownKind { kind: 11 })),
        ([0, 0, 0, 0, 0, 0, 0, 0], Err(FrameError::UnknownKind { kind: 0 })),
        ([6, 3, 0, 0, 0, 0, 0, 0], Err(FrameError::Reserved { byte: 3 })),
        ([5, 0, 0, 0, 0, 0, 0, 0], length(Kind::Data, 0)),
        ([5, 0, 0xf9, 0x7f, 0, 0, 0, 0], length(Kind::Data, MAX_PAYLOAD + 1)),
        ([6, 0, 1, 0, 0, 0, 0, 0], length(Kind::Fin, 1)),
        ([3, 0, 3, 0, 0, 0, 0, 0], length(Kind::Open, 3)),
        ([1, 0, 19, 0, 0, 0, 0, 0], length(Kind::Hello, 19)),
        ([2, 0, 129, 0, 0, 0, 0, 0], length(Kind::HelloAck, 129)),
        ([9, 0, 4, 0, 1, 0, 0, 0], Err(FrameError::StrayId { kind: Kind::Ping, id: 1 })),
    ] {
        assert_eq!(Header::decode(bytes), error);
    }
}

#[test]
fn a_payload_that_does_not_fit_names_what_is_wrong() {
    assert_eq!(decoded(&[7, 0, 4, 0, 1, 0, 0, 0, 2, 0, 0, 0]), Err(FrameError::UnknownReason { code: 2 }));
    let mut ack = encoded(&Control::HelloAck(HelloAck { nonce: [1; 16], version: 1, window: 0, max_streams: 1 }));
    assert_eq!(decoded(&ack), Err(FrameError::NoWindow));
    ack[28] = 1;
    ack[2] = 29;
    ack.push(0);
    assert_eq!(decoded(&ack), Err(FrameError::BadLength { kind: Kind::HelloAck, length: 29 }));
}

#[test]
fn of_another_version_only_nonce_and_version_are_read() {
    let mut bytes = vec![1, 0, 40, 0, 0, 0, 0, 0];
    bytes.extend([7; 16]);
    bytes.extend([9, 0, 0, 0]);
    bytes.extend([0xff; 20]);
    let Ok(Control::Hello(hello)) = decoded(&bytes) else { panic!("no HELLO") };
    assert_eq!((hello.nonce, hello.version, hello.window), ([7; 16], 9, 0));
}
