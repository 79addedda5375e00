//! The codec: every message round trips, every cut is noticed, no bytes panic.

use std::collections::BTreeSet;

use proptest::prelude::*;
use uvm_p9::protocol::{
    Attributes, Data, DecodeError, Entry, FileSystem, HEADER_LEN, Header, LockRange, MAX_NAME, MAX_TARGET, MAX_WALK,
    Name, Qid, Request, Response, SetAttributes, Text, Time, WalkList,
};

/// What fields are filled with.
#[derive(Clone, Debug)]
struct Values {
    byte: u8,
    short: u16,
    ints: [u32; 4],
    longs: [u64; 4],
    name: Vec<u8>,
    other_name: Vec<u8>,
    target: Vec<u8>,
    data: Vec<u8>,
    walk: Vec<Vec<u8>>,
}

fn values() -> impl Strategy<Value = Values> {
    let bytes = |most| prop::collection::vec(any::<u8>(), 0..=most);
    let walk = prop::collection::vec(bytes(20), 0..=MAX_WALK);
    let numbers = (any::<u8>(), any::<u16>(), any::<[u32; 4]>(), any::<[u64; 4]>());
    (numbers, bytes(MAX_NAME), bytes(MAX_NAME), bytes(MAX_TARGET), bytes(5000), walk).prop_map(
        |((byte, short, ints, longs), name, other_name, target, data, walk)| Values {
            byte,
            short,
            ints,
            longs,
            name,
            other_name,
            target,
            data,
            walk,
        },
    )
}

fn text<const MAX: usize>(bytes: &[u8]) -> Text<'_, MAX> {
    Text::new(bytes).expect("short enough")
}

impl Values {
    fn name(&self) -> Name<'_> {
        text(&self.name)
    }

    fn range(&self) -> LockRange<'_> {
        let [start, length, ..] = self.longs;
        LockRange { start, length, process: self.ints[3], client: text(&self.other_name) }
    }

    fn qid(&self) -> Qid {
        Qid { kind: self.byte, version: self.ints[0], path: self.longs[3] }
    }

    fn time(&self) -> Time {
        Time { seconds: self.longs[1], nanoseconds: self.longs[2] }
    }

    fn requests(&self) -> Vec<Request<'_>> {
        let [fid, second, third, fourth] = self.ints;
        let [offset, size, ..] = self.longs;
        let (name, kind) = (self.name(), self.byte);
        let attributes = SetAttributes {
            valid: second,
            mode: third,
            uid: fourth,
            gid: fid,
            size,
            accessed: self.time(),
            modified: Time::default(),
        };
        let names = WalkList::new(self.walk.iter().map(|name| text(name)).collect()).expect("short enough");
        vec![
            Request::StatFs { fid },
            Request::Open { fid, flags: second },
            Request::Create { fid, name, flags: second, mode: third, gid: fourth },
            Request::Symlink { directory: fid, name, target: text(&self.target), gid: fourth },
            Request::MakeNode { directory: fid, name, mode: second, major: third, minor: fourth, gid: second },
            Request::Rename { fid, directory: second, name },
            Request::ReadLink { fid },
            Request::GetAttributes { fid, mask: offset },
            Request::SetAttributes { fid, attributes },
            Request::WalkXattr { fid, new_fid: second, name },
            Request::CreateXattr { fid, name, size, flags: second },
            Request::ReadDir { fid, offset, count: second },
            Request::Sync { fid, data_only: second },
            Request::Lock { fid, kind, flags: second, range: self.range() },
            Request::GetLock { fid, kind, range: self.range() },
            Request::Link { directory: fid, fid: second, name },
            Request::MakeDirectory { directory: fid, name, mode: second, gid: third },
            Request::RenameAt {
                old_directory: fid,
                old_name: name,
                new_directory: second,
                new_name: text(&self.other_name),
            },
            Request::UnlinkAt { directory: fid, name, flags: second },
            Request::Version { message_size: fid, version: name },
            Request::Attach { fid, auth_fid: second, user: name, share: text(&self.other_name), uid: third },
            Request::Flush { old_tag: self.short },
            Request::Walk { fid, new_fid: second, names },
            Request::Read { fid, offset, count: second },
            Request::Write { fid, offset, data: Data(&self.data) },
            Request::Clunk { fid },
            Request::Remove { fid },
        ]
    }

    fn responses(&self) -> Vec<Response<'_>> {
        let [first, second, third, fourth] = self.ints;
        let [one, two, three, four] = self.longs;
        let qid = self.qid();
        let file_system = FileSystem {
            kind: first,
            block_size: second,
            blocks: one,
            free: two,
            available: three,
            files: four,
            free_files: one,
            id: two,
            max_name: third,
        };
        let attributes = Attributes {
            valid: one,
            qid,
            mode: first,
            uid: second,
            gid: third,
            links: two,
            rdev: three,
            size: four,
            block_size: one,
            blocks: two,
            accessed: self.time(),
            modified: self.time(),
            changed: Time::default(),
            born: self.time(),
            generation: three,
            data_version: four,
        };
        let qids = WalkList::new(vec![qid; self.walk.len()]).expect("short enough");
        vec![
            Response::Error { errno: first },
            Response::StatFs { file_system },
            Response::Open { qid, io_unit: second },
            Response::Create { qid, io_unit: third },
            Response::Symlink { qid },
            Response::MakeNode { qid },
            Response::Rename {},
            Response::ReadLink { target: text(&self.target) },
            Response::GetAttributes { attributes },
            Response::SetAttributes {},
            Response::WalkXattr { size: one },
            Response::CreateXattr {},
            Response::ReadDir { data: Data(&self.data) },
            Response::Sync {},
            Response::Lock { status: self.byte },
            Response::GetLock { kind: self.byte, range: self.range() },
            Response::Link {},
            Response::MakeDirectory { qid },
            Response::RenameAt {},
            Response::UnlinkAt {},
            Response::Version { message_size: fourth, version: self.name() },
            Response::Attach { qid },
            Response::Flush {},
            Response::Walk { qids },
            Response::Read { data: Data(&self.data) },
            Response::Write { count: first },
            Response::Clunk {},
            Response::Remove {},
        ]
    }
}

/// Splits a frame as a reader does, and checks its header.
fn parts(frame: &[u8], kind: u8, tag: u16) -> &[u8] {
    let (header, body) = frame.split_first_chunk::<HEADER_LEN>().expect("a header");
    assert_eq!(Header::decode(*header), Header { size: frame.len() as u32, kind, tag });
    body
}

proptest! {
    #[test]
    fn every_request_round_trips(values in values()) {
        let mut frame = vec![1, 2, 3];
        for request in values.requests() {
            request.encode(values.short, &mut frame);
            let body = parts(&frame, request.kind(), values.short);
            prop_assert_eq!(Request::decode(request.kind(), body), Ok(request));
        }
    }

    #[test]
    fn every_response_round_trips(values in values()) {
        let mut frame = Vec::new();
        for response in values.responses() {
            response.encode(values.short, &mut frame);
            let body = parts(&frame, response.kind(), values.short);
            prop_assert_eq!(Response::decode(response.kind(), body), Ok(response));
        }
    }

    #[test]
    fn every_cut_and_every_excess_is_noticed(values in values()) {
        let mut frame = Vec::new();
        for request in values.requests() {
            request.encode(0, &mut frame);
            frame.push(0);
            let (body, kind) = (&frame[HEADER_LEN..], request.kind());
            prop_assert_eq!(Request::decode(kind, body), Err(DecodeError::TrailingBytes { count: 1 }));
            let whole = body.len() - 1;
            // All cuts of short messages, some of long ones.
            for cut in (0..whole).step_by(1 + whole / 64) {
                prop_assert_eq!(Request::decode(kind, &body[..cut]), Err(DecodeError::Truncated));
            }
        }
    }

    #[test]
    fn no_bytes_panic_and_what_is_read_is_written_back(kind: u8, body in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut frame = Vec::new();
        if let Ok(request) = Request::decode(kind, &body) {
            request.encode(7, &mut frame);
            prop_assert_eq!(&frame[HEADER_LEN..], &body[..]);
        }
        if let Ok(response) = Response::decode(kind, &body) {
            response.encode(7, &mut frame);
            prop_assert_eq!(&frame[HEADER_LEN..], &body[..]);
        }
        if let Ok(entries) = Entry::decode_all(&body) {
            let mut back = Vec::new();
            for entry in &entries {
                entry.encode(&mut back);
            }
            prop_assert_eq!(back.len(), entries.iter().map(Entry::encoded_len).sum::<usize>());
            prop_assert_eq!(back, body);
        }
    }
}

#[test]
fn the_round_trips_leave_no_type_out() {
    let values = Values {
        byte: 0,
        short: 0,
        ints: [0; 4],
        longs: [0; 4],
        name: Vec::new(),
        other_name: Vec::new(),
        target: Vec::new(),
        data: Vec::new(),
        walk: Vec::new(),
    };
    let known = |kind: u8, response: bool| {
        let unknown = Err(DecodeError::UnknownType { kind });
        if response {
            Response::decode(kind, &[]).map(drop) != unknown
        } else {
            Request::decode(kind, &[]).map(drop) != unknown
        }
    };
    let requests: BTreeSet<u8> = values.requests().iter().map(Request::kind).collect();
    assert_eq!(requests, (0..=255).filter(|&kind| known(kind, false)).collect());
    let responses: BTreeSet<u8> = values.responses().iter().map(Response::kind).collect();
    assert_eq!(responses, (0..=255).filter(|&kind| known(kind, true)).collect());
}

#[test]
fn what_is_too_long_is_refused_with_the_limit() {
    let mut body = 1u32.to_le_bytes().to_vec();
    body.extend_from_slice(&300u16.to_le_bytes());
    body.extend_from_slice(&[b'a'; 300]);
    // A walk has its list after a second fid, so a removal by name is the shortest message with a name.
    body.extend_from_slice(&0u32.to_le_bytes());
    assert_eq!(Request::decode(76, &body), Err(DecodeError::TextTooLong { length: 300, most: 255 }));

    let mut body = [1u32.to_le_bytes(), 2u32.to_le_bytes()].concat();
    body.extend_from_slice(&17u16.to_le_bytes());
    body.extend_from_slice(&[0; 34]);
    assert_eq!(Request::decode(110, &body), Err(DecodeError::ListTooLong { count: 17, most: 16 }));
}

#[test]
fn the_bytes_are_those_of_linux() {
    let mut frame = Vec::new();
    let names = WalkList::new(vec![text(b"a"), text(b"bc")]).expect("two");
    Request::Walk { fid: 1, new_fid: 2, names }.encode(0x0304, &mut frame);
    assert_eq!(frame, b"\x18\0\0\0\x6e\x04\x03\x01\0\0\0\x02\0\0\0\x02\0\x01\0a\x02\0bc");
    Response::Error { errno: 2 }.encode(1, &mut frame);
    assert_eq!(frame, b"\x0b\0\0\0\x07\x01\0\x02\0\0\0");
}
