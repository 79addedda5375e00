//! Reading directories.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;

use uvm_p9::protocol::{Entry, Request, Response, flags};
use uvm_p9::tree::Errno;

use crate::client::{Host, ROOT};

const DIRECTORY: u32 = flags::OPEN_READ | flags::OPEN_DIRECTORY;

#[test]
fn a_hundred_thousand_entries_are_each_there_once() {
    let host = Host::new();
    let all: BTreeSet<Vec<u8>> = (0..100_000).map(|n| format!("entry-{n}").into_bytes()).collect();
    for name in &all {
        fs::File::create(host.path(std::str::from_utf8(name).unwrap())).unwrap();
    }
    let mut client = host.only_client();
    client.open_path(1, "", DIRECTORY).unwrap();
    // In long pieces, in short ones, and from the beginning once more.
    for count in [1024 * 1024, 8 * 1024, 65_536] {
        let names = client.names(1, count).unwrap();
        assert_eq!(names.len(), all.len());
        assert_eq!(names.into_iter().collect::<BTreeSet<_>>(), all);
    }
}

#[test]
fn reading_goes_on_from_every_offset_that_was_told() {
    let host = Host::new();
    for n in 0..300 {
        fs::File::create(host.path(&format!("{n}"))).unwrap();
    }
    let mut client = host.only_client();
    client.open_path(1, "", DIRECTORY).unwrap();
    let all = client.read_dir(1, 0, 100_000).unwrap();
    assert_eq!(all.len(), 302);
    // Backwards, so that nothing is where the last request left it.
    for (n, (offset, ..)) in all.iter().enumerate().rev().step_by(7) {
        assert_eq!(client.read_dir(1, *offset, 100_000).unwrap(), all[n + 1..], "after entry {n}");
    }
    // By two clients at once, each with a position of its own.
    client.open_path(2, "", DIRECTORY).unwrap();
    let (mut one, mut two, mut read) = (0, 0, Vec::new());
    loop {
        let piece = client.read_dir(1, one, 500).unwrap();
        assert_eq!(piece, client.read_dir(2, two, 500).unwrap());
        let Some(&(next, ..)) = piece.last() else { break };
        (one, two) = (next, next);
        read.extend(piece);
    }
    assert_eq!(read, all);
}

#[test]
fn no_more_comes_than_was_asked_for_and_too_little_room_is_said() {
    let host = Host::new();
    let long = "n".repeat(255);
    fs::File::create(host.path(&long)).unwrap();
    let mut client = host.only_client();
    client.open_path(1, "", DIRECTORY).unwrap();
    let mut offset = 0;
    let mut seen = Vec::new();
    loop {
        match client.read_dir(1, offset, 60) {
            Ok(entries) if entries.is_empty() => panic!("the end came before the long name"),
            Ok(entries) => {
                assert!(entries.iter().map(|(.., name)| 24 + name.len()).sum::<usize>() <= 60);
                offset = entries.last().unwrap().0;
                seen.extend(entries);
            }
            Err(errno) => {
                assert_eq!(errno, Errno::INVAL);
                break;
            }
        }
    }
    seen.extend(client.read_dir(1, offset, 24 + 255 + 60).unwrap());
    let names: BTreeSet<Vec<u8>> = seen.into_iter().map(|(.., name)| name).collect();
    assert_eq!(names, BTreeSet::from([b".".to_vec(), b"..".to_vec(), long.into_bytes()]));
    assert_eq!(client.read_dir(1, 0, 0), Err(Errno::INVAL));
}

#[test]
fn new_entries_are_seen_from_the_beginning() {
    let host = Host::new();
    let mut client = host.only_client();
    client.open_path(1, "", DIRECTORY).unwrap();
    assert!(client.names(1, 4096).unwrap().is_empty());
    client.mkdir(ROOT, b"d", 0o755).unwrap();
    assert_eq!(client.names(1, 4096).unwrap(), [b"d"]);
    client.unlink(ROOT, b"d", flags::UNLINK_DIRECTORY).unwrap();
    assert!(client.names(1, 4096).unwrap().is_empty());
}

/// As `rm -r` does in a guest: some file systems know a place by how many entries are before it.
#[test]
fn what_is_removed_while_reading_goes_on_moves_nothing() {
    let host = Host::new();
    let all: BTreeSet<Vec<u8>> = (0..2000).map(|n| format!("entry-{n}").into_bytes()).collect();
    for name in &all {
        fs::File::create(host.path(std::str::from_utf8(name).unwrap())).unwrap();
    }
    let mut client = host.only_client();
    client.open_path(1, "", DIRECTORY).unwrap();
    let (mut seen, mut offset) = (BTreeSet::new(), 0);
    loop {
        let entries = client.read_dir(1, offset, 1000).unwrap();
        let Some(&(next, ..)) = entries.last() else { break };
        offset = next;
        for (.., name) in entries.into_iter().filter(|(.., name)| name.starts_with(b"entry")) {
            client.unlink(ROOT, &name, 0).unwrap();
            assert!(seen.insert(name));
        }
    }
    assert_eq!(seen, all);
}

#[test]
fn entries_tell_types_and_numbers_and_nothing_of_what_is_above_the_share() {
    let host = Host::new();
    fs::write(host.path("file"), "").unwrap();
    fs::create_dir(host.path("directory")).unwrap();
    std::os::unix::fs::symlink("x", host.path("link")).unwrap();
    let _listener = UnixListener::bind(host.path("socket")).unwrap();
    let mut client = host.only_client();
    client.mknod(ROOT, b"fifo", 0o010_644).unwrap();
    client.open_path(1, "", DIRECTORY).unwrap();
    let answer = client.call(&Request::ReadDir { fid: 1, offset: 0, count: 4096 }).unwrap();
    let Response::ReadDir { data } = answer.response() else { panic!("{answer:?}") };
    let entries = Entry::decode_all(data.0).unwrap();
    let own = fs::metadata(host.path("")).unwrap().ino();
    let expected = [
        ("..", 4, own),
        (".", 4, own),
        ("directory", 4, 0),
        ("fifo", 1, 0),
        ("file", 8, 0),
        ("link", 10, 0),
        ("socket", 12, 0),
    ];
    assert_eq!(entries.len(), expected.len());
    for (name, kind, number) in expected {
        let entry = entries.iter().find(|entry| entry.name.as_bytes() == name.as_bytes()).unwrap();
        let number = if number == 0 { fs::symlink_metadata(host.path(name)).unwrap().ino() } else { number };
        assert_eq!((entry.kind, entry.qid.path), (kind, number), "{name}");
    }
}

#[test]
fn a_directory_that_is_removed_while_it_is_open_is_empty() {
    let host = Host::new();
    let mut client = host.only_client();
    client.mkdir(ROOT, b"d", 0o755).unwrap();
    client.open_path(1, "d", DIRECTORY).unwrap();
    client.walk(2, "d").unwrap();
    client.unlink(ROOT, b"d", flags::UNLINK_DIRECTORY).unwrap();
    assert!(client.names(1, 4096).unwrap_or_default().is_empty());
    assert_eq!(client.mkdir(2, b"e", 0o755), Err(Errno::NOENT));
}

#[test]
fn directories_are_read_as_such_and_removed_as_such() {
    let host = Host::new();
    let mut client = host.only_client();
    fs::write(host.path("f"), "").unwrap();
    fs::create_dir(host.path("d")).unwrap();
    fs::write(host.path("d/f"), "").unwrap();
    client.walk(1, "d").unwrap();
    assert_eq!(client.open(1, flags::OPEN_WRITE), Err(Errno::ISDIR));
    assert_eq!(client.open(1, flags::OPEN_READ | flags::OPEN_TRUNCATE), Err(Errno::ISDIR));
    client.open(1, flags::OPEN_READ).unwrap();
    assert_eq!(client.read(1, 0, 10), Err(Errno::ISDIR));
    client.sync(1).unwrap();
    client.walk(2, "f").unwrap();
    assert_eq!(client.open(2, DIRECTORY), Err(Errno::NOTDIR));
    assert_eq!(client.walk_some(2, 3, &[b"x"]), Err(Errno::NOTDIR));
    assert_eq!(client.unlink(ROOT, b"d", 0), Err(Errno::ISDIR));
    assert_eq!(client.unlink(ROOT, b"d", flags::UNLINK_DIRECTORY), Err(Errno::NOTEMPTY));
    assert_eq!(client.unlink(ROOT, b"f", flags::UNLINK_DIRECTORY), Err(Errno::NOTDIR));
    for unknown in [1, 0x100, 0x201, u32::MAX] {
        assert_eq!(client.unlink(ROOT, b"f", unknown), Err(Errno::INVAL));
    }
}
