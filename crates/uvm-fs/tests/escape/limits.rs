//! What else a guest may not do: write what is read-only, use files it was not given, know too many, have other features.

use std::fs;

use uvm_fs::guard::{Access, Owners};
use uvm_fs::raw::operation::*;
use uvm_fs::raw::{Guest, ROOT};

use crate::place::{OWNER, Place};
use crate::requests::{bytes, init, look, open, read, requests, setattr, u64s, with_names};

#[test]
fn what_is_read_only_stays_as_it_is() {
    let place = Place::new();
    let guest = place.guest(Access::ReadOnly);
    let (file, directory) = (look(&guest, ROOT, "f").expect("f"), look(&guest, ROOT, "d").expect("d"));
    let handle = open(&guest, file, libc::O_RDONLY).expect("to read");
    assert_eq!(read(&guest, file, handle).expect("its content"), b"inside");
    for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_TRUNC, libc::O_RDWR | libc::O_TRUNC] {
        assert_eq!(open(&guest, file, flags), Err(libc::EROFS), "{flags:o}");
    }
    for (what, operation, node, body) in requests(b"name", file, directory) {
        let expected = if operation == LOOKUP { libc::ENOENT } else { libc::EROFS };
        assert_eq!(guest.ask(operation, node, &body), Err(Some(expected)), "{what}");
    }
    let write = [u64s(&[handle, 0]), bytes(&[1, 0]), u64s(&[0]), bytes(&[0, 0]), b"x".to_vec()].concat();
    let copy = u64s(&[handle, 0, file, handle, 0, 3, 0]);
    let setxattr = [with_names(&bytes(&[4, 0]), &[b"user.note"]), b"note".to_vec()].concat();
    for (what, operation, body) in [
        ("write", WRITE, write),
        ("fallocate", FALLOCATE, [u64s(&[handle, 0, 4096]), bytes(&[0, 0])].concat()),
        ("copy_file_range", COPY_FILE_RANGE, copy),
        ("setattr mode", SETATTR, setattr(1, 0o777, (0, 0))),
        ("setattr size", SETATTR, setattr(8, 0, (0, 0))),
        ("setattr times", SETATTR, setattr(16 | 32, 0, (0, 0))),
        ("setxattr", SETXATTR, setxattr),
        ("removexattr", REMOVEXATTR, with_names(&[], &[b"user.note"])),
    ] {
        assert_eq!(guest.ask(operation, file, &body), Err(Some(libc::EROFS)), "{what}");
    }
    // What is there is opened by the request that would make it.
    guest.ask(CREATE, ROOT, &with_names(&bytes(&[0, 0o644, 0, 0]), &[b"f"])).expect("opened");
    for flags in [libc::O_RDWR, libc::O_EXCL] {
        let body = with_names(&bytes(&[flags.cast_unsigned(), 0o644, 0, 0]), &[b"f"]);
        guest.ask(CREATE, ROOT, &body).expect_err("not to write, and not to make");
    }
    assert_eq!(fs::read_to_string(place.at("share/f")).expect("the file"), "inside");
    assert_eq!(fs::read_dir(place.at("share")).expect("listed").count(), 4);
}

#[test]
fn numbers_that_were_not_given_are_no_files() {
    let place = Place::new();
    let guest = place.guest(Access::ReadWrite);
    let file = look(&guest, ROOT, "f").expect("f");
    let handle = open(&guest, file, libc::O_RDONLY).expect("opened");
    for node in [0, 2_000, u64::MAX, u64::from(u32::MAX), 1 << 63] {
        assert_eq!(look(&guest, node, "f"), Err(libc::EBADF), "{node}");
        assert_eq!(open(&guest, node, libc::O_RDONLY), Err(libc::EBADF), "{node}");
    }
    for handle in [handle + 1, u64::MAX, 3, 4, 5] {
        assert_eq!(read(&guest, file, handle), Err(libc::EBADF), "{handle}");
    }
    // A handle is that of its file.
    assert_eq!(read(&guest, ROOT, handle), Err(libc::EBADF));
    let list = [u64s(&[handle, 0]), bytes(&[4096, 0]), u64s(&[0]), bytes(&[0, 0])].concat();
    guest.ask(READDIR, file, &list).expect_err("no directory");
}

#[test]
fn a_guest_knows_so_many_files_and_no_more() {
    let place = Place::new();
    let owners = Owners::One { uid: OWNER.0, gid: OWNER.1 };
    let guest = Guest::of(&place.at("share"), Access::ReadWrite, owners, 8).expect("a share");
    init(&guest);
    let mut made = 0;
    let error = loop {
        let name = format!("n{made}");
        match guest.ask(MKNOD, ROOT, &with_names(&bytes(&[0o100_644, 0, 0, 0]), &[name.as_bytes()])) {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
        assert!(made < 100, "there is no limit");
    };
    assert_eq!(error, Some(libc::ENFILE));
}

#[test]
fn a_guest_negotiates_what_is_meant_for_it() {
    let place = Place::new();
    let owners = Owners::One { uid: OWNER.0, gid: OWNER.1 };
    let guest = Guest::of(&place.at("share"), Access::ReadWrite, owners, 100).expect("a share");
    let enabled = init(&guest);
    let refused = [("export", 1 << 4), ("writeback", 1 << 16), ("access lists", 1 << 20), ("labels", 1_u64 << 32)];
    for (what, bit) in refused {
        assert_eq!(enabled & bit, 0, "{what}");
    }
    // Set-user-id bits are taken off by the host: else each write asks for an attribute.
    assert_ne!(enabled & 1 << 28, 0);
}
