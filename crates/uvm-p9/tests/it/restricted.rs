//! Shares of some names of a directory only.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use rustix::mount::mount_bind;
use uvm_p9::protocol::{SetAttributes, flags};
use uvm_p9::tree::{Access, Errno, TreeOptions};
use uvm_p9::{Limits, Share, Shares};

use crate::alone::{Namespace, alone};
use crate::client::{Host, ROOT, SECRET, open_share};

fn prepare(host: &Host) -> TreeOptions {
    fs::write(host.path("allowed"), "allowed").unwrap();
    fs::write(host.path("hidden"), SECRET).unwrap();
    fs::create_dir(host.path("d")).unwrap();
    fs::write(host.path("d/hidden"), "below what is allowed").unwrap();
    host.options().restricted_to(["allowed", "d", "later"])
}

#[test]
fn other_names_do_not_exist() {
    let host = Host::new();
    let mut client = host.client(&open_share(prepare(&host)));
    client.open_path(1, "allowed", flags::OPEN_READ).unwrap();
    assert_eq!(client.read(1, 0, 100).unwrap(), b"allowed");
    client.open_path(2, "d/hidden", flags::OPEN_READ).unwrap();
    assert_eq!(client.walk(3, "hidden"), Err(Errno::NOENT));
    assert_eq!(client.walk(3, "missing"), Err(Errno::NOENT));
    client.open_path(3, "", flags::OPEN_DIRECTORY).unwrap();
    let names: BTreeSet<Vec<u8>> = client.names(3, 4096).unwrap().into_iter().collect();
    assert_eq!(names, BTreeSet::from([b"allowed".to_vec(), b"d".to_vec()]));
    assert_eq!(client.names(3, 40).unwrap().len(), 2, "in short pieces, too");
}

#[test]
fn other_names_are_not_made_linked_moved_or_removed() {
    let host = Host::new();
    let mut client = host.client(&open_share(prepare(&host)));
    client.walk(1, "allowed").unwrap();
    client.walk(2, "d").unwrap();
    let refused = Err(Errno::ACCESS);
    for name in [&b"hidden"[..], b"new"] {
        client.walk(3, "").unwrap();
        for bits in [flags::OPEN_READ, flags::OPEN_WRITE | flags::OPEN_TRUNCATE] {
            assert_eq!(client.create_at(3, name, bits, 0o644), refused);
        }
        client.clunk(3).unwrap();
        assert_eq!(client.mkdir(ROOT, name, 0o755), refused);
        assert_eq!(client.mknod(ROOT, name, 0o644), refused);
        assert_eq!(client.symlink(ROOT, name, "x"), refused);
        assert_eq!(client.link(ROOT, 1, name), refused);
        assert_eq!(client.rename(1, ROOT, name), refused);
        assert_eq!(client.rename_at(ROOT, name, 2, b"stolen"), refused);
        assert_eq!(client.rename_at(ROOT, name, ROOT, b"allowed"), refused);
        assert_eq!(client.rename_at(2, b"hidden", ROOT, name), refused);
        assert_eq!(client.unlink(ROOT, name, 0), refused);
        assert_eq!(client.unlink(ROOT, name, flags::UNLINK_DIRECTORY), refused);
    }
    assert_eq!(fs::read(host.path("hidden")).unwrap(), SECRET.as_bytes());
    assert_eq!(fs::read_dir(host.path("")).unwrap().count(), 3);
}

#[test]
fn allowed_names_are_made_moved_and_removed() {
    let host = Host::new();
    let mut client = host.client(&open_share(prepare(&host)));
    client.create(1, "later", flags::OPEN_WRITE).unwrap();
    client.write(1, 0, b"now").unwrap();
    client.rename_at(ROOT, b"later", ROOT, b"allowed").unwrap();
    assert_eq!(fs::read(host.path("allowed")).unwrap(), b"now");
    client.walk(2, "d").unwrap();
    client.link(2, 1, b"again").unwrap();
    client.unlink(ROOT, b"allowed", 0).unwrap();
    assert_eq!(fs::read(host.path("d/again")).unwrap(), b"now");
}

/// The attack: a client of two shares puts a file of one into the other, whose names somebody trusts, or the other way
/// round.
#[test]
fn nothing_gets_from_one_share_into_another() {
    let host = Host::new();
    let restricted = Share::open("restricted", prepare(&host)).unwrap();
    fs::create_dir(host.path("open")).unwrap();
    fs::write(host.path("open/f"), "mine").unwrap();
    let open = Share::open("open", TreeOptions::new(host.path("open"))).unwrap();
    let shares = Arc::new(Shares::default());
    shares.add(restricted).unwrap();
    shares.add(open).unwrap();
    let mut client = host.connect(shares, Limits::default());
    client.begin();
    client.attach(ROOT, "restricted").unwrap();
    client.attach(10, "open").unwrap();
    client.walk_some(10, 11, &[b"f"]).unwrap();
    client.walk(12, "allowed").unwrap();
    let refused = Err(Errno::XDEV);
    assert_eq!(client.link(ROOT, 11, b"later"), refused);
    assert_eq!(client.link(10, 12, b"stolen"), refused);
    assert_eq!(client.rename(11, ROOT, b"allowed"), refused);
    assert_eq!(client.rename(12, 10, b"stolen"), refused);
    assert_eq!(client.rename_at(10, b"f", ROOT, b"allowed"), refused);
    assert_eq!(client.rename_at(ROOT, b"allowed", 10, b"f"), refused);
    assert_eq!(fs::read(host.path("allowed")).unwrap(), b"allowed");
    assert_eq!(fs::read_dir(host.path("open")).unwrap().count(), 1);
}

#[test]
fn a_single_file_can_be_read_only() {
    let host = Host::new();
    let options = prepare(&host).restricted_to(["allowed"]).with_access(Access::ReadOnly);
    let mut client = host.client(&open_share(options));
    client.open_path(1, "allowed", flags::OPEN_READ).unwrap();
    assert_eq!(client.read(1, 0, 100).unwrap(), b"allowed");
    assert_eq!(client.walk(2, "d"), Err(Errno::NOENT));
    assert_eq!(client.create(2, "allowed", flags::OPEN_WRITE), Err(Errno::ROFS));
}

/// The attack: the directory itself is opened to everybody, or closed to the host's programs, by a client that has one
/// name of it.
#[test]
fn the_directory_itself_is_not_changed() {
    let host = Host::new();
    let mut client = host.client(&open_share(prepare(&host)));
    let attributes = || {
        let is = fs::metadata(host.path("")).unwrap();
        (is.mode(), is.uid(), is.gid(), is.atime(), is.mtime(), is.ctime(), is.ctime_nsec())
    };
    let before = attributes();
    let (own, refused) = (client.attributes(ROOT).unwrap(), Err(Errno::ACCESS));
    let set = SetAttributes { mode: 0o777, uid: own.uid, gid: own.gid, size: 0, ..SetAttributes::default() };
    for valid in [
        flags::SETATTR_MODE,
        flags::SETATTR_UID,
        flags::SETATTR_GID,
        flags::SETATTR_SIZE,
        flags::SETATTR_ACCESSED,
        flags::SETATTR_MODIFIED,
        flags::SETATTR_ACCESSED | flags::SETATTR_ACCESSED_SET,
        flags::SETATTR_MODIFIED | flags::SETATTR_MODIFIED_SET,
    ] {
        assert_eq!(client.set(ROOT, SetAttributes { valid, ..set }), refused, "{valid:#x}");
    }
    client.open_path(1, "", flags::OPEN_DIRECTORY).unwrap();
    assert_eq!(client.set(1, SetAttributes { valid: flags::SETATTR_MODE, ..set }), refused, "an open one");
    for (size, bits) in [(1, 0), (1, flags::XATTR_CREATE), (1, flags::XATTR_REPLACE), (0, flags::XATTR_REPLACE)] {
        client.walk(2, "").unwrap();
        assert_eq!(client.create_xattr(2, "user.x", size, bits), refused);
        client.clunk(2).unwrap();
    }
    assert_eq!(attributes(), before);
    client.walk(3, "d").unwrap();
    client.set(3, SetAttributes { valid: flags::SETATTR_MODE, mode: 0o700, ..set }).unwrap();
}

/// The directory is the same one, and so are the names that its client has of it.
#[test]
fn the_directory_mounted_within_itself_is_as_restricted() {
    let test = "restricted::the_directory_mounted_within_itself_is_as_restricted";
    alone(Namespace::Mounts, test, || {
        let host = Host::new();
        fs::create_dir_all(host.path("seen/again")).unwrap();
        fs::write(host.path("hidden"), SECRET).unwrap();
        mount_bind(host.path(""), host.path("seen/again")).unwrap();
        let mut client = host.client(&open_share(host.options().restricted_to(["seen"])));
        assert_eq!(client.walk(1, "seen/again/hidden"), Err(Errno::NOENT));
        client.walk(1, "seen/again").unwrap();
        assert_eq!(client.mkdir(1, b"new", 0o755), Err(Errno::ACCESS));
        assert_eq!(client.unlink(1, b"hidden", 0), Err(Errno::ACCESS));
        let mode = SetAttributes { valid: flags::SETATTR_MODE, mode: 0o777, ..SetAttributes::default() };
        assert_eq!(client.set(1, mode), Err(Errno::ACCESS));
        client.open(1, flags::OPEN_READ).unwrap();
        assert_eq!(client.names(1, 8192).unwrap(), [b"seen"]);
    });
}
