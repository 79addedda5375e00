//! Extended attributes.

use std::fs;
use std::sync::Arc;

use rustix::fs::{XattrFlags, getxattr, setxattr};
use uvm_p9::Limits;
use uvm_p9::protocol::flags::{XATTR_CREATE, XATTR_REPLACE};
use uvm_p9::tree::Errno;

use crate::client::{Client, Host, ROOT, open_share};

/// A host with the file `f`, or `None` where its file system has no extended attributes.
fn host() -> Option<Host> {
    let host = Host::new();
    fs::write(host.path("f"), "").unwrap();
    match setxattr(host.path("f"), "user.host", b"of the host", XattrFlags::empty()) {
        Ok(()) => Some(host),
        Err(errno) => {
            eprintln!("no extended attributes on {}: {errno}", host.path("f").display());
            None
        }
    }
}

fn set(client: &mut Client, name: &str, value: &[u8], flags: u32) -> Result<(), Errno> {
    client.walk(20, "f")?;
    let written = client.create_xattr(20, name, value.len() as u64, flags).and_then(|()| {
        for (n, piece) in value.chunks(10_000).enumerate() {
            client.write(20, n as u64 * 10_000, piece)?;
        }
        Ok(())
    });
    let clunked = client.clunk(20);
    written.and(clunked)
}

fn get(client: &mut Client, name: &str) -> Result<Vec<u8>, Errno> {
    client.walk(20, "f")?;
    let size = client.walk_xattr(20, 21, name);
    client.clunk(20).unwrap();
    let mut value = Vec::new();
    loop {
        let piece = client.read(21, value.len() as u64, 100)?;
        if piece.is_empty() {
            client.clunk(21).unwrap();
            assert_eq!(size?, value.len() as u64);
            return Ok(value);
        }
        value.extend(piece);
    }
}

#[test]
fn attributes_of_users_are_set_read_listed_and_removed() {
    let Some(host) = host() else { return };
    let mut client = host.only_client();
    assert_eq!(get(&mut client, "user.host").unwrap(), b"of the host");
    set(&mut client, "user.guest", b"of the guest", 0).unwrap();
    let mut buffer = [0; 100];
    let count = getxattr(host.path("f"), "user.guest", &mut buffer[..]).unwrap();
    assert_eq!(&buffer[..count], b"of the guest");
    let list = get(&mut client, "").unwrap();
    let mut names: Vec<&[u8]> = list.split(|&byte| byte == 0).filter(|name| !name.is_empty()).collect();
    names.sort_unstable();
    assert_eq!(names, [&b"user.guest"[..], b"user.host"]);
    assert_eq!(set(&mut client, "user.guest", b"x", XATTR_CREATE), Err(Errno::EXIST));
    assert_eq!(set(&mut client, "user.new", b"x", XATTR_REPLACE), Err(Errno::NODATA));
    set(&mut client, "user.guest", b"y", XATTR_REPLACE).unwrap();
    assert_eq!(get(&mut client, "user.guest").unwrap(), b"y");
    set(&mut client, "user.empty", b"", 0).unwrap();
    assert_eq!(get(&mut client, "user.empty").unwrap(), b"");
    // How Linux says "remove".
    set(&mut client, "user.guest", b"", XATTR_REPLACE).unwrap();
    client.walk(1, "f").unwrap();
    assert_eq!(client.walk_xattr(1, 2, "user.guest"), Err(Errno::NODATA));
    assert_eq!(set(&mut client, "user.guest", b"", XATTR_REPLACE), Err(Errno::NODATA));
}

#[test]
fn attributes_that_give_rights_are_neither_told_nor_set() {
    let Some(host) = host() else { return };
    // As root the host can have some.
    let _ = setxattr(host.path("f"), "trusted.host", b"x", XattrFlags::empty());
    let capability = [0, 0, 0, 2, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut client = host.only_client();
    client.walk(1, "f").unwrap();
    for name in
        ["security.capability", "security.selinux", "trusted.host", "system.posix_acl_access", "user", "user.", "x"]
    {
        assert_eq!(client.walk_xattr(1, 2, name), Err(Errno::OPNOTSUPP), "{name}");
        for flags in [0, XATTR_CREATE, XATTR_REPLACE] {
            assert_eq!(set(&mut client, name, &capability, flags), Err(Errno::OPNOTSUPP), "{name}");
        }
    }
    assert_eq!(get(&mut client, "").unwrap(), b"user.host\0");
}

#[test]
fn what_was_announced_has_to_come_and_no_more() {
    let Some(host) = host() else { return };
    let mut client = host.only_client();
    client.walk(1, "f").unwrap();
    client.create_xattr(1, "user.a", 10, 0).unwrap();
    assert_eq!(client.write(1, 1, b"x"), Err(Errno::INVAL), "not in order");
    assert_eq!(client.write(1, 0, b"12345678901"), Err(Errno::NOSPC));
    client.write(1, 0, b"12345").unwrap();
    assert_eq!(client.write(1, 0, b"1"), Err(Errno::INVAL), "that was written");
    assert_eq!(client.read(1, 0, 10), Err(Errno::BADF));
    assert_eq!(client.clunk(1), Err(Errno::INVAL), "five are missing");
    assert_eq!(client.attributes(1), Err(Errno::BADF), "the fid is gone all the same");
    client.walk(1, "f").unwrap();
    assert_eq!(client.walk_xattr(1, 2, "user.a"), Err(Errno::NODATA));
    assert_eq!(client.create_xattr(1, "user.a", 65_537, 0), Err(Errno::NOSPC));
    assert_eq!(client.create_xattr(1, "user.a", u64::MAX, 0), Err(Errno::NOSPC));
    assert_eq!(client.create_xattr(1, "user.a", 1, 3), Err(Errno::INVAL));
}

#[test]
fn a_client_holds_so_many_bytes_of_attributes_and_no_more() {
    let Some(host) = host() else { return };
    let share = open_share(host.options());
    let mut client = host.connect(Arc::new(share), Limits::default().with_xattr_bytes(128 * 1024));
    client.begin();
    client.attach(ROOT, "s").unwrap();
    client.walk(1, "f").unwrap();
    for fid in 2..4 {
        client.walk(fid, "f").unwrap();
        client.create_xattr(fid, "user.a", 50_000, 0).unwrap();
    }
    client.walk(4, "f").unwrap();
    assert_eq!(client.create_xattr(4, "user.a", 50_000, 0), Err(Errno::NOMEM));
    assert_eq!(client.walk_xattr(1, 5, "user.host"), Err(Errno::NOMEM));
    assert_eq!(client.clunk(2), Err(Errno::INVAL));
    // What is read is counted as it is once it is known: many short ones fit.
    for fid in 10..100 {
        assert_eq!(client.walk_xattr(1, fid, "user.host"), Ok(11));
    }
}
