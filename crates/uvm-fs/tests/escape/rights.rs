//! What gives rights on the host: bits, devices, owners, attributes, file systems.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use uvm_fs::guard::{Access, Owners};
use uvm_fs::raw::operation::*;
use uvm_fs::raw::{Guest, ROOT};

use crate::place::{OWNER, Place};
use crate::requests::{bytes, init, look, open, setattr, u64s, with_names};

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().expect("it is there").mode() & 0o7777
}

#[test]
fn no_file_gets_bits_that_give_rights() {
    let place = Place::new();
    let guest = place.guest(Access::ReadWrite);
    guest.ask(CREATE, ROOT, &with_names(&bytes(&[2, 0o106_755, 0, 0]), &[b"made"])).expect("made");
    guest.ask(MKNOD, ROOT, &with_names(&bytes(&[0o106_755, 0, 0, 0]), &[b"node"])).expect("made");
    guest.ask(MKDIR, ROOT, &with_names(&bytes(&[0o6755, 0]), &[b"directory"])).expect("made");
    for name in ["made", "node", "directory"] {
        assert_eq!(mode(&place.at("share").join(name)), 0o755, "{name}");
        let node = look(&guest, ROOT, name).expect("it is there");
        guest.ask(SETATTR, node, &setattr(1, 0o107_711, (0, 0))).expect("changed");
        assert_eq!(mode(&place.at("share").join(name)), 0o1711, "{name}");
    }
    // One that says whom new files belong to is kept, where it is.
    fs::set_permissions(place.at("share/d"), fs::Permissions::from_mode(0o2700)).expect("changed");
    let directory = look(&guest, ROOT, "d").expect("it is there");
    guest.ask(SETATTR, directory, &setattr(1, 0o42_755, (0, 0))).expect("changed");
    assert_eq!(mode(&place.at("share/d")), 0o2755);
}

#[test]
fn no_device_comes_to_exist() {
    let place = Place::new();
    let guest = place.guest(Access::ReadWrite);
    for kind in [libc::S_IFCHR, libc::S_IFBLK] {
        for device in [0, 0x103, 0x801] {
            let body = with_names(&bytes(&[kind | 0o666, device, 0, 0]), &[b"device"]);
            assert_eq!(guest.ask(MKNOD, ROOT, &body), Err(Some(libc::EPERM)));
        }
    }
    let whiteout = [u64s(&[ROOT]), bytes(&[libc::RENAME_WHITEOUT, 0])].concat();
    assert_eq!(guest.ask(RENAME2, ROOT, &with_names(&whiteout, &[b"f", b"g"])), Err(Some(libc::EINVAL)));
    assert!(!place.at("share/device").exists() && place.at("share/f").is_file());
    // Fifos and sockets are the guest's.
    for (name, kind) in [("fifo", libc::S_IFIFO), ("socket", libc::S_IFSOCK)] {
        guest.ask(MKNOD, ROOT, &with_names(&bytes(&[kind | 0o600, 0, 0, 0]), &[name.as_bytes()])).expect(name);
        let node = look(&guest, ROOT, name).expect(name);
        // They are never opened: that would wait for somebody.
        open(&guest, node, libc::O_RDWR).expect_err(name);
    }
}

#[test]
fn devices_that_are_there_are_left_alone() {
    let owners = Owners::One { uid: OWNER.0, gid: OWNER.1 };
    let guest = Guest::of(Path::new("/dev"), Access::ReadWrite, owners, 1000).expect("a share");
    init(&guest);
    let null = look(&guest, ROOT, "null").expect("it is there");
    open(&guest, null, libc::O_RDONLY).expect_err("no file");
    for valid in [1, 2, 4, 8] {
        assert_eq!(
            guest.ask(SETATTR, null, &setattr(valid, 0o666, OWNER)).map(drop),
            match valid {
                // Owners that are as they seem to be are no change.
                2 | 4 => Ok(()),
                1 => Err(Some(libc::EPERM)),
                _ => Err(Some(libc::EINVAL)),
            }
        );
    }
}

#[test]
fn owners_are_what_the_share_says() {
    let place = Place::new();
    let guest = place.guest(Access::ReadWrite);
    let own = fs::metadata(place.at("share")).expect("there").uid();
    guest.ask(CREATE, ROOT, &with_names(&bytes(&[2, 0o644, 0, 0]), &[b"made"])).expect("made");
    let file = look(&guest, ROOT, "f").expect("f");
    let shown = |answer: &[u8], at: usize| {
        [at, at + 4].map(|at| u32::from_ne_bytes(answer[at..at + 4].try_into().expect("four bytes")))
    };
    let attributes = guest.ask(GETATTR, file, &u64s(&[0, 0])).expect("attributes");
    assert_eq!(shown(&attributes, 16 + 68), [OWNER.0, OWNER.1]);
    let looked = guest.ask(LOOKUP, ROOT, &with_names(&[], &[b"f"])).expect("looked up");
    assert_eq!(shown(&looked, 40 + 68), [OWNER.0, OWNER.1]);
    guest.ask(SETATTR, file, &setattr(2 | 4, 0, OWNER)).expect("they are as they seem to be");
    for (valid, owner) in [(2, (0, 0)), (4, (0, 0)), (2 | 4, (OWNER.0, 0))] {
        assert_eq!(guest.ask(SETATTR, file, &setattr(valid, 0, owner)), Err(Some(libc::EPERM)));
    }
    assert_eq!(fs::metadata(place.at("share/f")).expect("there").uid(), own);
    // Files are made as this process makes them.
    assert_eq!(fs::metadata(place.at("share/made")).expect("there").uid(), own);
}

#[test]
fn attributes_that_give_rights_do_not_exist() {
    let place = Place::new();
    let guest = place.guest(Access::ReadWrite);
    let file = look(&guest, ROOT, "f").expect("f");
    let set = |name: &[u8]| {
        let body = with_names(&bytes(&[4, 0]), &[name]);
        guest.ask(SETXATTR, file, &[body, b"note".to_vec()].concat())
    };
    let get = |name: &[u8], size: u32| guest.ask(GETXATTR, file, &with_names(&bytes(&[size, 0]), &[name]));
    for name in ["security.capability", "trusted.x", "system.posix_acl_access", "user.", "none"] {
        let name = name.as_bytes();
        assert_eq!(set(name), Err(Some(libc::EOPNOTSUPP)));
        assert_eq!(get(name, 64), Err(Some(libc::EOPNOTSUPP)));
        assert_eq!(guest.ask(REMOVEXATTR, file, &with_names(&[], &[name])), Err(Some(libc::EOPNOTSUPP)));
    }
    set(b"user.note").expect("set");
    assert_eq!(get(b"user.note", 64).expect("its value"), b"note");
    // A guest that asks for more than there can be.
    assert_eq!(get(b"user.note", u32::MAX), Err(Some(libc::ENOMEM)));
    let list = |size: u32| guest.ask(LISTXATTR, file, &bytes(&[size, 0]));
    assert_eq!(list(4096).expect("the list"), b"user.note\0");
    assert_eq!(list(0).expect("its length")[..4], 10_u32.to_ne_bytes());
    assert_eq!(list(3), Err(Some(libc::ERANGE)));
    guest.ask(REMOVEXATTR, file, &with_names(&[], &[b"user.note"])).expect("removed");
    assert_eq!(list(4096).expect("the list"), b"");
}

/// The root of this machine, with all that is mounted in it.
#[test]
fn file_systems_that_give_rights_are_not_entered() {
    let owners = Owners::One { uid: OWNER.0, gid: OWNER.1 };
    let guest = Guest::of(Path::new("/"), Access::ReadOnly, owners, 1000).expect("a share");
    init(&guest);
    let processes = look(&guest, ROOT, "proc").expect("it is seen");
    assert_eq!(look(&guest, processes, "self"), Err(libc::EACCES));
    assert_eq!(look(&guest, processes, "1"), Err(libc::EACCES));
    assert_eq!(guest.ask(OPENDIR, processes, &bytes(&[0, 0])), Err(Some(libc::EACCES)));
    assert_eq!(open(&guest, processes, libc::O_RDONLY), Err(libc::EACCES));
    // Forgotten and looked up again, in a session that does not want to know of file systems: the same.
    guest.begin([0; 2]).expect("negotiated");
    let processes = look(&guest, ROOT, "proc").expect("it is seen");
    assert_eq!(look(&guest, processes, "self"), Err(libc::EACCES));
    let etc = look(&guest, ROOT, "etc").expect("it is there");
    look(&guest, etc, "passwd").expect("it is there");
}
