//! Opening, reading, writing; files that lose their names.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

use uvm_p9::protocol::{Request, Response, SetAttributes, flags};
use uvm_p9::tree::{Access, Errno};

use crate::client::{Host, ROOT, open_share};

const READ_WRITE: u32 = flags::OPEN_READ_WRITE;

#[test]
fn what_is_written_is_read_and_is_on_the_host() {
    let host = Host::new();
    let mut client = host.only_client();
    client.create(1, "f", READ_WRITE).unwrap();
    assert_eq!(client.write(1, 0, b"hello world"), Ok(11));
    assert_eq!(client.write(1, 6, b"there"), Ok(5));
    assert_eq!(client.read(1, 0, 100).unwrap(), b"hello there");
    assert_eq!(client.read(1, 6, 3).unwrap(), b"the");
    assert_eq!(client.read(1, 11, 10).unwrap(), b"");
    assert_eq!(client.read(1, 1 << 40, 10).unwrap(), b"");
    client.sync(1).unwrap();
    assert_eq!(fs::read(host.path("f")).unwrap(), b"hello there");
}

#[test]
fn a_message_carries_a_megabyte_each_way() {
    let host = Host::new();
    let mut client = host.only_client();
    let data: Vec<u8> = (0..3 * 1024 * 1024_u32).map(|n| (n % 251) as u8).collect();
    client.create(1, "f", READ_WRITE).unwrap();
    let most = 1024 * 1024 - 23;
    for (n, piece) in data.chunks(most).enumerate() {
        assert_eq!(client.write(1, (n * most) as u64, piece), Ok(piece.len() as u32));
    }
    assert!(fs::read(host.path("f")).unwrap() == data);
    let mut read = Vec::new();
    while read.len() < data.len() {
        let piece = client.read(1, read.len() as u64, u32::MAX).unwrap();
        assert!(!piece.is_empty() && piece.len() <= 1024 * 1024 - 11);
        read.extend(piece);
    }
    assert!(read == data);
}

#[test]
fn requests_before_others_are_answered_do_not_mix() {
    let host = Host::new();
    let mut client = host.only_client();
    client.create(1, "f", READ_WRITE).unwrap();
    for n in 0..32_u16 {
        let data = vec![n as u8; 100_000];
        let data = uvm_p9::protocol::Data(&data);
        client.send(n, &Request::Write { fid: 1, offset: u64::from(n) * 100_000, data });
    }
    let mut tags: Vec<u16> = (0..32).map(|_| client.receive().tag).collect();
    tags.sort_unstable();
    assert_eq!(tags, (0..32).collect::<Vec<_>>());
    for n in 0..32_u16 {
        client.send(n, &Request::Read { fid: 1, offset: u64::from(n) * 100_000, count: 100_000 });
    }
    for _ in 0..32 {
        let answer = client.receive();
        let Response::Read { data } = answer.response() else { panic!("{answer:?}") };
        assert!(data.0.len() == 100_000 && data.0.iter().all(|&byte| u16::from(byte) == answer.tag));
    }
}

#[test]
fn offsets_have_64_bits() {
    let host = Host::new();
    let mut client = host.only_client();
    client.create(1, "f", READ_WRITE).unwrap();
    let far = (1 << 42) + 7;
    match client.write(1, far, b"far") {
        Ok(3) => {
            assert_eq!(client.read(1, far, 10).unwrap(), b"far");
            assert_eq!(client.attributes(1).unwrap().size, far + 3);
        }
        // Not every file system has files of 4 TiB.
        other => assert_eq!(other, Err(Errno::FBIG)),
    }
    assert_eq!(client.write(1, (1 << 32) + 5, b"near"), Ok(4));
    assert_eq!(client.read(1, (1 << 32) + 5, 4).unwrap(), b"near");
    assert_eq!(client.read(1, u64::MAX, 10), Err(Errno::INVAL));
    assert_eq!(client.read(1, 1 << 63, 10), Err(Errno::INVAL));
    assert!(client.write(1, u64::MAX, b"x").is_err());
}

#[test]
fn appending_ignores_offsets_of_all_clients() {
    let host = Host::new();
    let share = open_share(host.options());
    let (mut one, mut two) = (host.client(&share), host.client(&share));
    one.create(1, "f", flags::OPEN_WRITE | flags::OPEN_APPEND).unwrap();
    two.open_path(1, "f", flags::OPEN_WRITE | flags::OPEN_APPEND).unwrap();
    for _ in 0..10 {
        one.write(1, 0, b"one.").unwrap();
        two.write(1, 0, b"two.").unwrap();
    }
    assert_eq!(fs::read(host.path("f")).unwrap(), b"one.two.".repeat(10));
}

#[test]
fn files_are_emptied_by_opening_and_cut_by_size() {
    let host = Host::new();
    let mut client = host.only_client();
    fs::write(host.path("f"), "0123456789").unwrap();
    client.walk(1, "f").unwrap();
    let size = |size| SetAttributes { valid: flags::SETATTR_SIZE, size, ..SetAttributes::default() };
    client.set(1, size(4)).unwrap();
    assert_eq!(fs::read(host.path("f")).unwrap(), b"0123");
    client.open(1, READ_WRITE).unwrap();
    client.set(1, size(6)).unwrap();
    assert_eq!(fs::read(host.path("f")).unwrap(), b"0123\0\0");
    assert_eq!(client.set(1, size(u64::MAX)), Err(Errno::INVAL));
    client.open_path(2, "f", flags::OPEN_READ).unwrap();
    client.set(2, size(5)).unwrap();
    assert_eq!(fs::read(host.path("f")).unwrap(), b"0123\0");
    client.open_path(3, "f", flags::OPEN_WRITE | flags::OPEN_TRUNCATE).unwrap();
    assert_eq!(fs::read(host.path("f")).unwrap(), b"");
    client.walk(4, "").unwrap();
    assert_eq!(client.set(4, size(1)), Err(Errno::ISDIR));
}

#[test]
fn creating_keeps_what_is_there_unless_it_is_told_otherwise() {
    let host = Host::new();
    let mut client = host.only_client();
    fs::write(host.path("f"), "there").unwrap();
    client.create(1, "f", flags::OPEN_READ).unwrap();
    assert_eq!(client.read(1, 0, 10).unwrap(), b"there");
    assert_eq!(client.create(2, "f", flags::OPEN_READ | flags::OPEN_EXCLUSIVE), Err(Errno::EXIST));
    client.create(3, "f", READ_WRITE | flags::OPEN_TRUNCATE).unwrap();
    assert_eq!(client.read(1, 0, 10).unwrap(), b"");
    client.create(4, "new", READ_WRITE | flags::OPEN_EXCLUSIVE).unwrap();
    assert_eq!(client.create(5, "d", flags::OPEN_READ | flags::OPEN_DIRECTORY), Err(Errno::INVAL));
}

#[test]
fn new_files_have_the_permissions_asked_for_whatever_the_mask() {
    let host = Host::new();
    let mut client = host.only_client();
    for mode in [0o666, 0o777, 0o600, 0o444] {
        let file = format!("f{mode:o}");
        client.walk(1, "").unwrap();
        client.create_at(1, file.as_bytes(), flags::OPEN_WRITE, mode).unwrap();
        assert_eq!(client.write(1, 0, b"x"), Ok(1), "what one makes, one may write");
        client.clunk(1).unwrap();
        assert_eq!(fs::metadata(host.path(&file)).unwrap().permissions().mode() & 0o7777, mode);
        let directory = format!("d{mode:o}");
        client.mkdir(ROOT, directory.as_bytes(), mode | 0o1000).unwrap();
        assert_eq!(fs::metadata(host.path(&directory)).unwrap().permissions().mode() & 0o7777, mode | 0o1000);
    }
}

#[test]
fn an_open_file_goes_on_without_its_name() {
    let host = Host::new();
    let mut client = host.only_client();
    client.create(1, "f", READ_WRITE).unwrap();
    client.walk(2, "f").unwrap();
    client.unlink(ROOT, b"f", 0).unwrap();
    assert_eq!(client.walk(3, "f"), Err(Errno::NOENT));
    client.write(1, 0, b"still").unwrap();
    assert_eq!(client.read(1, 0, 10).unwrap(), b"still");
    let attributes = client.attributes(2).unwrap();
    assert_eq!((attributes.links, attributes.size), (0, 5));
    let mode = SetAttributes { valid: flags::SETATTR_MODE, mode: 0o600, ..SetAttributes::default() };
    client.set(2, mode).unwrap();
    assert_eq!(client.attributes(1).unwrap().mode & 0o777, 0o600);
    // One that was only known by name can be opened still, as in Linux.
    client.open(2, flags::OPEN_READ).unwrap();
    assert_eq!(client.read(2, 0, 10).unwrap(), b"still");
    assert_eq!(client.link(ROOT, 1, b"back"), Err(Errno::NOENT));
}

#[test]
fn renaming_replaces_and_open_files_stay_what_they_are() {
    let host = Host::new();
    let mut client = host.only_client();
    fs::write(host.path("old"), "old").unwrap();
    fs::write(host.path("new"), "new").unwrap();
    fs::create_dir(host.path("d")).unwrap();
    client.open_path(1, "old", flags::OPEN_READ).unwrap();
    client.open_path(2, "new", flags::OPEN_READ).unwrap();
    client.rename_at(ROOT, b"old", ROOT, b"new").unwrap();
    assert_eq!(client.read(1, 0, 10).unwrap(), b"old");
    assert_eq!(client.read(2, 0, 10).unwrap(), b"new");
    assert_eq!(fs::read(host.path("new")).unwrap(), b"old");
    // By fid: it goes with the file, once and again.
    client.walk(3, "d").unwrap();
    client.walk(4, "new").unwrap();
    client.rename(4, 3, b"moved").unwrap();
    client.rename(4, ROOT, b"back").unwrap();
    assert_eq!(fs::read(host.path("back")).unwrap(), b"old");
    client.remove(4).unwrap();
    assert!(!host.path("back").exists());
    assert_eq!(client.attributes(4), Err(Errno::BADF), "the fid is gone");
}

#[test]
fn removing_a_fid_removes_what_it_was_walked_to_or_nothing() {
    let host = Host::new();
    let mut client = host.only_client();
    fs::write(host.path("f"), "mine").unwrap();
    client.walk(1, "f").unwrap();
    fs::rename(host.path("f"), host.path("g")).unwrap();
    fs::write(host.path("f"), "another").unwrap();
    assert_eq!(client.rename(1, ROOT, b"h"), Err(Errno::STALE));
    assert_eq!(client.remove(1), Err(Errno::STALE));
    assert_eq!(client.attributes(1), Err(Errno::BADF), "the fid is gone all the same");
    assert!(host.path("f").exists() && host.path("g").exists());
    client.walk(2, "").unwrap();
    assert_eq!(client.remove(2), Err(Errno::BUSY));
    fs::create_dir(host.path("d")).unwrap();
    client.walk(3, "d").unwrap();
    client.remove(3).unwrap();
    assert!(!host.path("d").exists());
}

#[test]
fn hard_links_are_one_file() {
    let host = Host::new();
    let mut client = host.only_client();
    client.create(1, "f", READ_WRITE).unwrap();
    client.link(ROOT, 1, b"g").unwrap();
    client.write(1, 0, b"both").unwrap();
    assert_eq!(fs::read(host.path("g")).unwrap(), b"both");
    client.walk(2, "g").unwrap();
    let (one, two) = (client.attributes(1).unwrap(), client.attributes(2).unwrap());
    assert_eq!((one.qid, one.links), (two.qid, 2));
    assert_eq!(client.link(ROOT, 1, b"g"), Err(Errno::EXIST));
    fs::create_dir(host.path("d")).unwrap();
    client.walk(3, "d").unwrap();
    assert_eq!(client.link(ROOT, 3, b"e"), Err(Errno::PERM));
}

#[test]
fn a_fid_is_used_for_one_thing() {
    let host = Host::new();
    let mut client = host.only_client();
    fs::write(host.path("f"), "x").unwrap();
    client.open_path(1, "f", flags::OPEN_READ).unwrap();
    assert_eq!(client.open(1, flags::OPEN_READ), Err(Errno::INVAL));
    assert_eq!(client.write(1, 0, b"y"), Err(Errno::BADF));
    assert_eq!(client.read_dir(1, 0, 100), Err(Errno::NOTDIR));
    assert_eq!(client.read(ROOT, 0, 1), Err(Errno::BADF));
    assert_eq!(client.sync(ROOT), Err(Errno::BADF));
    assert_eq!(client.walk(1, "f"), Err(Errno::INVAL), "the number is taken");
    assert_eq!(client.walk_some(1, 1, &[]), Err(Errno::INVAL), "open");
    client.walk(2, "").unwrap();
    assert_eq!(client.walk_some(2, 2, &[b"f"]), Ok(1));
    client.open(2, flags::OPEN_READ).unwrap();
    assert_eq!(client.read(2, 0, 1).unwrap(), b"x");
    assert_eq!(client.clunk(9), Err(Errno::BADF));
    assert_eq!(client.open(9, 0), Err(Errno::BADF));
}

#[test]
fn a_read_only_share_changes_in_no_way() {
    let host = Host::new();
    fs::write(host.path("f"), "as it was").unwrap();
    fs::set_permissions(host.path("f"), fs::Permissions::from_mode(0o666)).unwrap();
    fs::create_dir(host.path("d")).unwrap();
    let before = fs::metadata(host.path("f")).unwrap();
    let mut client = host.client(&open_share(host.options().with_access(Access::ReadOnly)));
    client.walk(1, "f").unwrap();
    client.walk(2, "").unwrap();
    let refused = Err(Errno::ROFS);
    for bits in [flags::OPEN_WRITE, READ_WRITE, flags::OPEN_TRUNCATE, flags::OPEN_WRITE | flags::OPEN_APPEND] {
        assert_eq!(client.open(1, bits), refused, "{bits:o}");
        assert_eq!(client.create(3, "new", bits), refused);
        assert_eq!(client.create(3, "f", bits), refused);
    }
    assert_eq!(client.create(3, "f", flags::OPEN_READ), refused);
    assert_eq!(client.mkdir(ROOT, b"new", 0o755), refused);
    assert_eq!(client.mknod(ROOT, b"new", 0o010_644), refused);
    assert_eq!(client.symlink(ROOT, b"new", "f"), refused);
    assert_eq!(client.link(ROOT, 1, b"new"), refused);
    assert_eq!(client.rename(1, ROOT, b"new"), refused);
    assert_eq!(client.rename_at(ROOT, b"f", ROOT, b"new"), refused);
    assert_eq!(client.unlink(ROOT, b"f", 0), refused);
    assert_eq!(client.unlink(ROOT, b"d", flags::UNLINK_DIRECTORY), refused);
    assert_eq!(client.create_xattr(2, "user.a", 0, 0), refused);
    for bit in (0..9).map(|bit| 1 << bit) {
        assert_eq!(client.set(1, SetAttributes { valid: bit, ..SetAttributes::default() }), refused, "{bit:#x}");
    }
    client.open(1, flags::OPEN_READ).unwrap();
    assert_eq!(client.read(1, 0, 100).unwrap(), b"as it was");
    assert_eq!(client.write(1, 0, b"x"), Err(Errno::BADF));
    client.sync(1).unwrap();
    assert_eq!(client.lock(1, flags::LOCK_READ, (0, 0), 1), Ok(flags::LOCK_SUCCESS));
    client.walk(4, "f").unwrap();
    assert_eq!(client.remove(4), refused);
    let after = fs::metadata(host.path("f")).unwrap();
    assert_eq!((before.ctime(), before.ctime_nsec()), (after.ctime(), after.ctime_nsec()));
    assert_eq!(fs::read_dir(host.path("")).unwrap().count(), 2);
}

#[test]
fn holes_and_far_ends_are_as_on_the_host() {
    let host = Host::new();
    let mut client = host.only_client();
    client.create(1, "f", READ_WRITE).unwrap();
    client.write(1, 1_000_000, b"end").unwrap();
    let file = fs::File::open(host.path("f")).unwrap();
    let mut end = [0; 3];
    file.read_exact_at(&mut end, 1_000_000).unwrap();
    assert_eq!(&end, b"end");
    assert!(client.read(1, 0, 4096).unwrap().iter().all(|&byte| byte == 0));
}
