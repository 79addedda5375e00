//! Nothing outside of the share is reached, by whatever names.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;

use uvm_p9::protocol::{SetAttributes, Time, flags};
use uvm_p9::tree::{Access, Errno, Tree, TreeError, TreeOptions};

use crate::client::{Client, Host, ROOT, SECRET, open_share};

/// Names that are none, or that would lead elsewhere.
fn evil(host: &Host) -> Vec<Vec<u8>> {
    let secret = host.outside("secret").as_os_str().as_bytes().to_vec();
    let mut names = vec![secret.clone(), [b"/".as_slice(), &secret].concat(), [&secret, b"\0".as_slice()].concat()];
    let plain: [&[u8]; 20] = [
        b"",
        b".",
        b"..",
        b"/",
        b"//",
        b"../secret",
        b"../secrets",
        b"../secrets/f",
        b"../new",
        b"./../secret",
        b"d/../../secret",
        b"d/f",
        b"d/",
        b"up/secret",
        b"leak/",
        b"..\0",
        b"\0",
        b"f\0../secret",
        b"/proc/self/root",
        b"/etc/passwd",
    ];
    names.extend(plain.iter().map(|name| name.to_vec()));
    names
}

/// A share with links that point out of it.
fn prepare(host: &Host) {
    fs::create_dir(host.path("d")).unwrap();
    fs::write(host.path("f"), "inside").unwrap();
    fs::write(host.path("d/f"), "inside").unwrap();
    symlink("../secret", host.path("leak")).unwrap();
    symlink(host.outside("secret"), host.path("absolute")).unwrap();
    symlink("..", host.path("up")).unwrap();
    symlink("../secrets", host.path("secrets")).unwrap();
    symlink("../new", host.path("dangling")).unwrap();
}

const LINKS: [&str; 5] = ["leak", "absolute", "up", "secrets", "dangling"];

#[test]
fn no_operation_takes_a_name_that_is_more_than_one() {
    let host = Host::new();
    prepare(&host);
    let outside = host.snapshot();
    let inside = || fs::read_dir(host.path("")).unwrap().count();
    let before = inside();
    let mut client = host.only_client();
    client.walk(1, "f").unwrap();
    client.walk(2, "d").unwrap();
    for evil in evil(&host) {
        let refused = |done: Result<(), Errno>, what: &str| {
            assert_eq!(done, Err(Errno::INVAL), "{what} \"{}\"", evil.escape_ascii());
        };
        for directory in [ROOT, 2] {
            refused(client.walk_some(directory, 9, &[&evil]).map(drop), "walk");
            client.walk_some(directory, 8, &[]).unwrap();
            for bits in [flags::OPEN_READ, flags::OPEN_READ_WRITE, flags::OPEN_WRITE | flags::OPEN_EXCLUSIVE] {
                refused(client.create_at(8, &evil, bits, 0o666), "create");
            }
            client.clunk(8).unwrap();
            refused(client.mkdir(directory, &evil, 0o777), "mkdir");
            for kind in [0, 0o100_000, 0o010_000, 0o140_000] {
                refused(client.mknod(directory, &evil, kind | 0o666), "mknod");
            }
            refused(client.symlink(directory, &evil, "target"), "symlink");
            refused(client.link(directory, 1, &evil), "link");
            refused(client.rename(1, directory, &evil), "rename");
            refused(client.rename_at(directory, &evil, ROOT, b"stolen"), "rename from");
            refused(client.rename_at(ROOT, b"f", directory, &evil), "rename to");
            refused(client.unlink(directory, &evil, 0), "unlink");
            refused(client.unlink(directory, &evil, flags::UNLINK_DIRECTORY), "rmdir");
        }
    }
    assert_eq!(host.snapshot(), outside);
    assert_eq!(inside(), before);
}

#[test]
fn a_walk_ends_where_it_would_leave() {
    let host = Host::new();
    prepare(&host);
    let mut client = host.only_client();
    let ways: [(&[&[u8]], usize); 7] = [
        (&[b"d", b"..", b"..", b"secret"], 1),
        (&[b"d", b"..", b"f"], 1),
        (&[b"up", b"secret"], 1),
        (&[b"secrets", b"f"], 1),
        (&[b"leak", b""], 1),
        (&[b"f", b".."], 1),
        (&[b"d", b"f", b"../../../secret"], 2),
    ];
    for (way, steps) in ways {
        assert_eq!(client.walk_some(ROOT, 5, way), Ok(steps), "{way:?}");
        assert_eq!(client.attributes(5), Err(Errno::BADF), "a walk that does not arrive gives no fid");
    }
}

/// Everything a fid of a link can be asked for: done to the link, or not at all.
#[test]
fn links_are_not_followed_by_any_operation() {
    let host = Host::new();
    prepare(&host);
    let _ =
        rustix::fs::setxattr(host.outside("secret"), "user.secret", SECRET.as_bytes(), rustix::fs::XattrFlags::empty());
    let outside = host.snapshot();
    let mut client = host.only_client();
    for link in LINKS {
        let target = fs::read_link(host.path(link)).unwrap();
        client.walk(1, link).unwrap();
        assert_eq!(client.attributes(1).unwrap().qid.kind, flags::QID_SYMLINK);
        assert_eq!(client.read_link(1).unwrap(), target.as_os_str().as_bytes());
        for bits in [0, 1, 2, flags::OPEN_DIRECTORY, flags::OPEN_TRUNCATE, flags::OPEN_WRITE | flags::OPEN_TRUNCATE] {
            assert_eq!(client.open(1, bits), Err(Errno::LOOP), "{link} {bits:o}");
        }
        // Through the name, as what is to be made or opened.
        for bits in [flags::OPEN_READ, flags::OPEN_WRITE, flags::OPEN_WRITE | flags::OPEN_TRUNCATE] {
            assert_eq!(client.create(2, link, bits), Err(Errno::LOOP), "{link} {bits:o}");
        }
        assert_eq!(client.create(2, link, flags::OPEN_WRITE | flags::OPEN_EXCLUSIVE), Err(Errno::EXIST));
        assert_eq!(client.mkdir(ROOT, link.as_bytes(), 0o777), Err(Errno::EXIST));
        // As a directory.
        assert_eq!(client.mkdir(1, b"new", 0o777), Err(Errno::NOTDIR));
        assert_eq!(client.symlink(1, b"new", "x"), Err(Errno::NOTDIR));
        assert_eq!(client.mknod(1, b"new", 0o644), Err(Errno::NOTDIR));
        assert_eq!(client.create_at(1, b"new", 1, 0o644), Err(Errno::NOTDIR));
        assert_eq!(client.link(1, ROOT, b"new"), Err(Errno::NOTDIR));
        assert_eq!(client.unlink(1, b"f", 0), Err(Errno::NOTDIR));
        assert_eq!(client.rename_at(1, b"f", ROOT, b"stolen"), Err(Errno::NOTDIR));
        assert_eq!(client.rename_at(ROOT, b"f", 1, b"f"), Err(Errno::NOTDIR));
        // Attributes.
        let set = |valid| SetAttributes {
            valid,
            mode: 0o777,
            size: 0,
            accessed: Time { seconds: 7, nanoseconds: 7 },
            modified: Time { seconds: 7, nanoseconds: 7 },
            ..SetAttributes::default()
        };
        assert_eq!(client.set(1, set(flags::SETATTR_MODE)), Err(Errno::OPNOTSUPP));
        assert_eq!(client.set(1, set(flags::SETATTR_SIZE)), Err(Errno::INVAL));
        let times = flags::SETATTR_ACCESSED | flags::SETATTR_MODIFIED;
        client.set(1, set(times | flags::SETATTR_ACCESSED_SET | flags::SETATTR_MODIFIED_SET)).unwrap();
        assert_eq!(fs::symlink_metadata(host.path(link)).unwrap().mtime(), 7);
        assert!(client.walk_xattr(1, 2, "user.secret").is_err());
        assert_eq!(client.walk_xattr(1, 2, "").unwrap_or(0), 0);
        let _ = client.clunk(2);
        client.walk(2, link).unwrap();
        let written = client.create_xattr(2, "user.evil", 1, 0).and_then(|()| client.write(2, 0, b"x"));
        assert!(written.is_err() || client.clunk(2).is_err());
        // A further name is one of the link.
        client.link(ROOT, 1, b"linked").unwrap();
        assert_eq!(fs::read_link(host.path("linked")).unwrap(), target);
        client.unlink(ROOT, b"linked", 0).unwrap();
        let _ = client.clunk(2);
        client.clunk(1).unwrap();
    }
    assert_eq!(host.snapshot(), outside);
    assert!(rustix::fs::getxattr(host.outside("secret"), "user.evil", &mut [0; 8][..]).is_err());
}

#[test]
fn a_client_makes_any_links_and_they_stay_as_they_are() {
    let host = Host::new();
    let mut client = host.only_client();
    for target in ["../secret", "/etc/passwd", "..", "a/b/c", &"x".repeat(4095)] {
        client.symlink(ROOT, b"l", target).unwrap();
        client.walk(1, "l").unwrap();
        assert_eq!(client.read_link(1).unwrap(), target.as_bytes());
        assert_eq!(client.open(1, flags::OPEN_READ), Err(Errno::LOOP));
        client.clunk(1).unwrap();
        client.unlink(ROOT, b"l", 0).unwrap();
    }
    assert_eq!(client.symlink(ROOT, b"l", "a\0b"), Err(Errno::INVAL));
    assert_eq!(client.symlink(ROOT, b"l", ""), Err(Errno::NOENT));
    assert_eq!(client.read_link(ROOT), Err(Errno::INVAL));
}

fn assert_never_opened(client: &mut Client, name: &str) {
    for bits in [0, 1, 2, flags::OPEN_NON_BLOCKING, flags::OPEN_TRUNCATE, flags::OPEN_DIRECTORY] {
        client.walk(1, name).unwrap();
        assert_eq!(client.open(1, bits), Err(Errno::PERM), "{name} {bits:o}");
        client.clunk(1).unwrap();
        if bits != flags::OPEN_DIRECTORY {
            assert_eq!(client.create(1, name, bits), Err(Errno::PERM), "{name} {bits:o}");
        }
    }
    client.walk(1, name).unwrap();
    let size = SetAttributes { valid: flags::SETATTR_SIZE, ..SetAttributes::default() };
    assert_eq!(client.set(1, size), Err(Errno::INVAL));
    client.clunk(1).unwrap();
}

/// Each open would block for good, or do something to the host.
#[test]
fn fifos_sockets_and_devices_of_the_host_are_never_opened() {
    let host = Host::new();
    let _listener = UnixListener::bind(host.path("socket")).unwrap();
    let mut client = host.only_client();
    client.mknod(ROOT, b"fifo", 0o010_666).unwrap();
    assert_never_opened(&mut client, "socket");
    assert_never_opened(&mut client, "fifo");
    // `/dev` has devices, which everybody may open.
    let share = open_share(TreeOptions::new("/dev").with_access(Access::ReadWrite));
    let mut client = host.client(&share);
    assert_never_opened(&mut client, "null");
    client.walk(1, "null").unwrap();
    let mode = SetAttributes { valid: flags::SETATTR_MODE, mode: 0o600, ..SetAttributes::default() };
    assert_eq!(client.set(1, mode), Err(Errno::PERM));
}

#[test]
fn fifos_and_sockets_are_made_and_devices_are_not() {
    let host = Host::new();
    let mut client = host.only_client();
    client.mknod(ROOT, b"fifo", 0o010_644).unwrap();
    client.mknod(ROOT, b"socket", 0o140_644).unwrap();
    client.mknod(ROOT, b"file", 0o100_640).unwrap();
    let mode = |name: &str| fs::symlink_metadata(host.path(name)).unwrap().mode();
    assert_eq!((mode("fifo"), mode("socket"), mode("file")), (0o010_644, 0o140_644, 0o100_640));
    assert_eq!(client.mknod(ROOT, b"null", 0o020_666), Err(Errno::PERM));
    assert_eq!(client.mknod(ROOT, b"disk", 0o060_666), Err(Errno::PERM));
    for kind in [0o040_000, 0o120_000, 0o170_000, 0o030_000] {
        assert_eq!(client.mknod(ROOT, b"odd", kind | 0o644), Err(Errno::INVAL));
    }
    assert_eq!(fs::read_dir(host.path("")).unwrap().count(), 3);
}

#[test]
fn file_systems_of_processes_are_not_entered() {
    let host = Host::new();
    let mut client = host.client(&open_share(TreeOptions::new("/")));
    assert_eq!(client.walk_some(ROOT, 1, &[b"proc"]), Err(Errno::ACCESS));
    assert_eq!(client.walk_some(ROOT, 1, &[b"proc", b"self", b"mem"]), Err(Errno::ACCESS));
    let refused = Tree::open(TreeOptions::new("/proc/self/fd")).unwrap_err();
    assert!(matches!(refused, TreeError::IsProc { .. }), "{refused}");
}

#[test]
fn a_share_of_no_directory_is_refused() {
    let host = Host::new();
    fs::write(host.path("f"), "").unwrap();
    for path in ["f", "missing"] {
        let error = Tree::open(TreeOptions::new(host.path(path))).unwrap_err();
        assert!(matches!(error, TreeError::Open { .. }), "{error}");
    }
    for name in ["", "..", "a/b", "a\0"] {
        let error = Tree::open(host.options().restricted_to([name])).unwrap_err();
        assert!(matches!(error, TreeError::BadName { .. }), "{error}");
    }
}

#[test]
fn names_are_bytes_and_end_at_255() {
    let host = Host::new();
    let mut client = host.only_client();
    let long = [b'n'; 255];
    for name in [&b"\xff\xfe"[..], b"a b", b"-rf", b"...", b"\n", &long] {
        client.mkdir(ROOT, name, 0o755).unwrap();
        assert_eq!(client.walk_some(ROOT, 1, &[name]), Ok(1));
        client.clunk(1).unwrap();
        client.unlink(ROOT, name, flags::UNLINK_DIRECTORY).unwrap();
    }
}
