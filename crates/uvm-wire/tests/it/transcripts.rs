//! Every frame of the recorded conversations between the originals: we read all of them, and what we write from what
//! we read is the same, byte for byte where that is possible.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::value::RawValue;
use uvm_wire::frame::SizeLimit;
use uvm_wire::{Header, MessageType, decode_request};

use crate::support::{meaning, rewrite_from_guest, single_frame};

/// One line of a recording.
#[derive(Deserialize)]
struct Line<'a> {
    ev: &'a str,
    n: u32,
    dir: Option<&'a str>,
    #[serde(rename = "type")]
    message_type: Option<&'a str>,
    name: Option<&'a str>,
    id: Option<u64>,
    size: Option<usize>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
    #[serde(default)]
    tail: String,
}

/// One frame of a recording.
struct Recorded {
    place: String,
    from_host: bool,
    name: String,
    header: Header,
    body: String,
    bytes: Vec<u8>,
}

fn recorded_frames(year: &str) -> Vec<Recorded> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts").join(year);
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut frames = Vec::new();
    for file in files {
        for text in fs::read_to_string(&file).unwrap().lines() {
            let line: Line<'_> = serde_json::from_str(text).unwrap();
            if line.ev != "frame" {
                continue;
            }
            let bits = u32::from_str_radix(&line.message_type.unwrap()[2..], 16).unwrap();
            let (size, body) = (line.size.unwrap(), line.body.unwrap().get().to_owned());
            let header = Header { message_type: MessageType::from_bits(bits), size: size as u32, id: line.id.unwrap() };
            let bytes = [&header.to_bytes()[..], body.as_bytes(), line.tail.as_bytes()].concat();
            assert_eq!(bytes.len(), size, "the recording keeps every byte");
            let place = format!("{year}/{} line {}", file.file_name().unwrap().display(), line.n);
            let (from_host, name) = (line.dir.unwrap() == "H>G", line.name.unwrap().to_owned());
            frames.push(Recorded { place, from_host, name, header, body, bytes });
        }
    }
    frames
}

/// Reads a frame with our types and writes it again.
fn rewrite(recorded: &Recorded) -> Vec<u8> {
    let limit = if recorded.from_host { SizeLimit::FROM_HOST } else { SizeLimit::FROM_GUEST };
    let (header, payload) = single_frame(&recorded.bytes, limit);
    assert_eq!(header, recorded.header);
    assert_eq!(header.message_type.name(), Some(recorded.name.as_str()), "{}", recorded.place);
    if recorded.from_host {
        let request = decode_request(header.message_type, &payload)
            .unwrap_or_else(|error| panic!("{}: {error:?}", recorded.place));
        request.encode(header.id, SizeLimit::FROM_HOST).unwrap()
    } else {
        rewrite_from_guest(header.message_type, header.id, &payload)
            .unwrap_or_else(|error| panic!("{}: {error}", recorded.place))
    }
}

/// Why a frame that we write cannot have the bytes of the recorded one.
fn reason_to_differ(recorded: &Recorded) -> Option<&'static str> {
    match recorded.name.as_str() {
        // The recorded host built this document from a map, which sorts its keys; we write them as documented.
        "Create" if recorded.from_host => Some("order of keys"),
        // The original escapes <, > and & in the documents inside strings; we write them as they are. (What stands in an
        // OCI process is kept as it came.)
        "ExecuteProcess"
            if recorded.from_host && recorded.body.contains(r"\\u00") && !recorded.body.contains("OciProcess") =>
        {
            Some("escapes")
        }
        _ => None,
    }
}

fn check_year(year: &str, frames: usize, exceptions: &[(&str, usize)]) {
    let recorded = recorded_frames(year);
    assert_eq!(recorded.len(), frames);
    let mut differing: BTreeMap<&str, usize> = BTreeMap::new();
    for recorded in &recorded {
        let ours = rewrite(recorded);
        let our_body = std::str::from_utf8(&ours[Header::LEN..]).unwrap();
        let reason = reason_to_differ(recorded);
        if let Some(reason) = reason {
            assert_ne!(ours, recorded.bytes, "{}: no reason to make an exception of this", recorded.place);
            *differing.entry(reason).or_default() += 1;
        } else {
            assert_eq!(our_body.as_bytes(), &recorded.bytes[Header::LEN..], "{}", recorded.place);
        }
        if reason != Some("escapes") {
            assert_eq!(ours[..Header::LEN], recorded.bytes[..Header::LEN], "{}", recorded.place);
        }
        assert_eq!(meaning(our_body), meaning(&recorded.body), "{}", recorded.place);
    }
    assert_eq!(differing, exceptions.iter().copied().collect());
}

#[test]
fn january_2021_is_read_and_written_as_recorded() {
    check_year("h21-g21", 254, &[("order of keys", 4), ("escapes", 8)]);
}

#[test]
fn august_2026_is_read_and_written_as_recorded() {
    check_year("h26-g26", 254, &[("order of keys", 4), ("escapes", 8)]);
}
