//! Clients that break the protocol.

use std::fs;
use std::io::{Read, Write};

use proptest::prelude::*;
use uvm_p9::ServeError;
use uvm_p9::protocol::{HEADER_LEN, Header, Response};
use uvm_p9::tree::Errno;

use crate::client::{Client, Host, ROOT, open_share};

fn raw(client: &mut Client, kind: u8, body: &[u8]) -> Result<(), Errno> {
    let header = Header { size: (HEADER_LEN + body.len()) as u32, kind, tag: 1 };
    client.stream.write_all(&[&header.encode()[..], body].concat()).unwrap();
    match client.receive().response() {
        Response::Error { errno } => Err(Errno::from_raw_os_error(errno.cast_signed())),
        _ => Ok(()),
    }
}

#[test]
fn messages_that_make_no_sense_are_answered_with_an_error() {
    let host = Host::new();
    let mut client = host.only_client();
    let long = [&0u32.to_le_bytes()[..], &256u16.to_le_bytes(), &[b'n'; 256], &0u32.to_le_bytes()].concat();
    assert_eq!(raw(&mut client, 76, &long), Err(Errno::NAMETOOLONG));
    let seventeen = [&[0; 4][..], &[1, 0, 0, 0], &17u16.to_le_bytes(), &[0; 34]].concat();
    assert_eq!(raw(&mut client, 110, &seventeen), Err(Errno::INVAL));
    assert_eq!(raw(&mut client, 120, &[0; 3]), Err(Errno::INVAL), "cut");
    assert_eq!(raw(&mut client, 120, &[9; 5]), Err(Errno::INVAL), "too long");
    assert_eq!(raw(&mut client, 100, &[0; 3]), Err(Errno::INVAL), "a version that is cut");
    // Authentication, and what only 9P2000 has.
    for kind in [0, 6, 102, 107, 112, 114, 124, 126, 255] {
        assert_eq!(raw(&mut client, kind, &[]), Err(Errno::OPNOTSUPP), "{kind}");
    }
    let data = [&0u32.to_le_bytes()[..], &[0; 8], &u32::MAX.to_le_bytes(), b"short"].concat();
    assert_eq!(raw(&mut client, 118, &data), Err(Errno::INVAL), "data that are not there");
    client.attributes(ROOT).unwrap();
}

#[test]
fn a_message_of_no_possible_length_ends_the_session() {
    let host = Host::new();
    for size in [0, 6, 1024 * 1024 + 1, u32::MAX] {
        let mut client = host.only_client();
        client.stream.write_all(&Header { size, kind: 120, tag: 1 }.encode()).unwrap();
        let error = client.ended().unwrap_err();
        assert!(matches!(error, ServeError::BadSize { size: told, most: 1_048_576 } if told == size), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever comes: it ends, and nothing is left, nor is anything outside touched.
    #[test]
    fn any_bytes_end_in_order(bytes in prop::collection::vec(any::<u8>(), 0..2000), frames: bool) {
        let host = Host::new();
        fs::write(host.path("f"), "x").unwrap();
        let outside = host.snapshot();
        let before = host.descriptors();
        let share = open_share(host.options());
        let mut client = host.client(&share);
        client.walk(1, "f").unwrap();
        let mut reader = client.stream.try_clone().unwrap();
        let reading = std::thread::spawn(move || drop(reader.read_to_end(&mut Vec::new())));
        if frames {
            // As whole messages with fids and tags that mean something.
            for (n, piece) in bytes.chunks(24).enumerate() {
                let kinds = [8, 12, 14, 16, 18, 20, 22, 24, 26, 30, 32, 40, 50, 52, 54, 70, 72, 74, 76, 104, 108, 110, 116, 118, 120, 122];
                let kind = kinds[usize::from(piece[0]) % kinds.len()];
                let body = [&[piece[0] & 1, 0, 0, 0], &piece[1..]].concat();
                let size = (HEADER_LEN + body.len()) as u32;
                let _ = client.stream.write_all(&Header { size, kind, tag: n as u16 }.encode());
                let _ = client.stream.write_all(&body);
            }
        } else {
            let _ = client.stream.write_all(&bytes);
        }
        let _ = client.stream.shutdown(std::net::Shutdown::Write);
        let _ = client.ended();
        reading.join().unwrap();
        drop(share);
        prop_assert_eq!(host.descriptors(), before);
        prop_assert_eq!(host.snapshot(), outside);
    }
}
