//! Attributes of files and file systems.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use uvm_p9::protocol::{Request, Response, SetAttributes, Time, flags};
use uvm_p9::tree::Errno;

use crate::client::{Host, ROOT};

#[test]
fn attributes_are_those_of_the_host() {
    let host = Host::new();
    let mut client = host.only_client();
    fs::write(host.path("f"), "12345").unwrap();
    fs::create_dir(host.path("d")).unwrap();
    std::os::unix::fs::symlink("f", host.path("l")).unwrap();
    for (name, kind) in [("f", flags::QID_FILE), ("d", flags::QID_DIRECTORY), ("l", flags::QID_SYMLINK)] {
        client.walk(1, name).unwrap();
        let told = client.attributes(1).unwrap();
        let is = fs::symlink_metadata(host.path(name)).unwrap();
        assert_eq!(told.valid & flags::GETATTR_BASIC, flags::GETATTR_BASIC);
        assert_eq!((told.qid.kind, told.qid.path), (kind, is.ino()));
        assert_ne!(told.qid.version, 0);
        assert_eq!((told.mode, told.links, told.size), (is.mode(), is.nlink(), is.size()));
        assert_eq!((told.blocks, told.block_size), (is.blocks(), is.blksize()));
        let time = |seconds: i64, nanoseconds: i64| Time {
            seconds: seconds.cast_unsigned(),
            nanoseconds: nanoseconds.cast_unsigned(),
        };
        assert_eq!(told.modified, time(is.mtime(), is.mtime_nsec()));
        assert_eq!(told.changed, time(is.ctime(), is.ctime_nsec()));
        client.clunk(1).unwrap();
    }
}

#[test]
fn the_version_of_a_file_tells_of_changes() {
    let host = Host::new();
    let mut client = host.only_client();
    client.create(1, "f", flags::OPEN_WRITE).unwrap();
    let before = client.attributes(1).unwrap().qid;
    client.write(1, 0, b"more").unwrap();
    let after = client.attributes(1).unwrap().qid;
    assert_eq!(before.path, after.path);
    assert_ne!(before.version, after.version);
}

#[test]
fn times_are_set_to_what_is_given_or_to_now() {
    let host = Host::new();
    let mut client = host.only_client();
    client.create(1, "f", flags::OPEN_WRITE).unwrap();
    let (accessed, modified) = (flags::SETATTR_ACCESSED, flags::SETATTR_MODIFIED);
    let given = SetAttributes {
        valid: accessed | modified | flags::SETATTR_ACCESSED_SET | flags::SETATTR_MODIFIED_SET,
        accessed: Time { seconds: 1000, nanoseconds: 1 },
        modified: Time { seconds: (-5_i64).cast_unsigned(), nanoseconds: 999_999_999 },
        ..SetAttributes::default()
    };
    client.set(1, given).unwrap();
    let is = fs::metadata(host.path("f")).unwrap();
    assert_eq!((is.atime(), is.atime_nsec()), (1000, 1));
    assert_eq!((is.mtime(), is.mtime_nsec()), (-5, 999_999_999));
    // One to now, the other as it is.
    client.set(1, SetAttributes { valid: modified, ..given }).unwrap();
    let is = fs::metadata(host.path("f")).unwrap();
    assert_eq!(is.atime(), 1000);
    assert!(is.mtime() > 1000);
    // The kernel's own numbers for "now" and "as it is" are none of the protocol.
    for nanoseconds in [1_000_000_000, (1 << 30) - 1, (1 << 30) - 2, 1 << 32, u64::MAX] {
        let wrong = SetAttributes { accessed: Time { seconds: 5, nanoseconds }, ..given };
        assert_eq!(client.set(1, wrong), Err(Errno::INVAL), "{nanoseconds}");
    }
    assert_eq!(client.set(1, SetAttributes { valid: 0x200, ..given }), Err(Errno::INVAL));
    client.set(1, SetAttributes { valid: flags::SETATTR_CHANGED, ..given }).unwrap();
}

#[test]
fn set_user_id_and_set_group_id_are_dropped_however_they_are_asked_for() {
    let host = Host::new();
    let mut client = host.only_client();
    let mode = |path: &str| fs::metadata(host.path(path)).unwrap().permissions().mode() & 0o7777;
    client.walk(1, "").unwrap();
    client.create_at(1, b"made", flags::OPEN_WRITE, 0o6755).unwrap();
    assert_eq!(mode("made"), 0o755);
    client.mknod(ROOT, b"node", 0o106_755).unwrap();
    assert_eq!(mode("node"), 0o755);
    client.mkdir(ROOT, b"directory", 0o6777).unwrap();
    assert_eq!(mode("directory"), 0o777);
    let set = |mode| SetAttributes { valid: flags::SETATTR_MODE, mode, ..SetAttributes::default() };
    client.set(1, set(0o106_711)).unwrap();
    assert_eq!(mode("made"), 0o711);
    client.walk(2, "directory").unwrap();
    client.set(2, set(0o7755)).unwrap();
    assert_eq!(mode("directory"), 0o1755);
}

#[test]
fn whoever_writes_to_a_set_user_id_file_takes_that_from_it() {
    let host = Host::new();
    let mut client = host.only_client();
    let prepare = || {
        fs::write(host.path("f"), "#!/bin/true").unwrap();
        fs::set_permissions(host.path("f"), fs::Permissions::from_mode(0o6755)).unwrap();
    };
    let mode = || fs::metadata(host.path("f")).unwrap().permissions().mode() & 0o7777;
    prepare();
    client.open_path(1, "f", flags::OPEN_READ).unwrap();
    assert_eq!(mode(), 0o6755, "reading leaves it");
    client.open_path(2, "f", flags::OPEN_WRITE).unwrap();
    client.write(2, 0, b"#!/bin/evil").unwrap();
    assert_eq!(mode(), 0o755);
    // The host sets it while the client has the file open.
    prepare();
    client.write(2, 0, b"#!/bin/evil").unwrap();
    assert_eq!(mode(), 0o755);
    prepare();
    let size = SetAttributes { valid: flags::SETATTR_SIZE, size: 3, ..SetAttributes::default() };
    client.walk(3, "f").unwrap();
    client.set(3, size).unwrap();
    assert_eq!(mode(), 0o755);
    prepare();
    client.set(2, size).unwrap();
    assert_eq!(mode(), 0o755);
    prepare();
    client.open_path(4, "f", flags::OPEN_READ | flags::OPEN_TRUNCATE).unwrap();
    assert_eq!(mode(), 0o755);
}

#[test]
fn a_group_that_a_directory_hands_down_goes_on() {
    let host = Host::new();
    let mut client = host.only_client();
    fs::create_dir(host.path("d")).unwrap();
    fs::set_permissions(host.path("d"), fs::Permissions::from_mode(0o2755)).unwrap();
    client.walk(1, "d").unwrap();
    client.mkdir(1, b"below", 0o770).unwrap();
    let mode = |path: &str| fs::metadata(host.path(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode("d/below"), 0o2770);
    let set = |mode| SetAttributes { valid: flags::SETATTR_MODE, mode, ..SetAttributes::default() };
    client.set(1, set(0o2700)).unwrap();
    assert_eq!(mode("d"), 0o2700);
    client.set(1, set(0o700)).unwrap();
    client.set(1, set(0o2700)).unwrap();
    assert_eq!(mode("d"), 0o700, "gone is gone");
}

#[test]
fn the_file_system_is_that_of_the_host() {
    let host = Host::new();
    let mut client = host.only_client();
    let answer = client.call(&Request::StatFs { fid: ROOT }).unwrap();
    let Response::StatFs { file_system } = answer.response() else { panic!("{answer:?}") };
    let is = rustix::fs::statfs(host.path("")).unwrap();
    assert_eq!((file_system.kind, file_system.max_name), (is.f_type.cast_unsigned() as u32, 255));
    assert_eq!((u64::from(file_system.block_size), file_system.blocks), (is.f_bsize.cast_unsigned(), is.f_blocks));
}
