//! Whom files belong to.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::sync::Arc;

use rustix::process::{getegid, geteuid};
use uvm_p9::Limits;
use uvm_p9::protocol::{Request, Response, SetAttributes, flags};
use uvm_p9::tree::{Errno, Ownership, Tree, TreeError};

use crate::client::{Client, Host, ROOT, name, open_share};

fn set_owner(uid: Option<u32>, gid: Option<u32>) -> SetAttributes {
    let bit = |id: Option<u32>, bit| if id.is_some() { bit } else { 0 };
    let valid = bit(uid, flags::SETATTR_UID) | bit(gid, flags::SETATTR_GID);
    SetAttributes { valid, uid: uid.unwrap_or_default(), gid: gid.unwrap_or_default(), ..SetAttributes::default() }
}

#[test]
fn all_belongs_to_the_owner_by_default() {
    let host = Host::new();
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    fs::write(host.path("f"), "").unwrap();
    if uid == 0 {
        chown(host.path("f"), Some(1234), Some(5678)).unwrap();
    }
    let mut client = host.only_client();
    client.walk(1, "f").unwrap();
    let told = client.attributes(1).unwrap();
    assert_eq!((told.uid, told.gid), (uid, gid));
    // What changes nothing is accepted, so that `cp -p` and `tar` of the owner's own files work.
    client.set(1, set_owner(Some(uid), Some(gid))).unwrap();
    client.set(1, set_owner(Some(uid), None)).unwrap();
    for (uid, gid) in [(Some(uid + 1), None), (None, Some(gid + 1)), (Some(uid + 1), Some(gid)), (Some(u32::MAX), None)]
    {
        assert_eq!(client.set(1, set_owner(uid, gid)), Err(Errno::PERM));
    }
    if uid == 0 {
        assert_eq!(fs::metadata(host.path("f")).unwrap().uid(), 1234, "seeming is not being");
    }
    let mut client = host.client(&open_share(host.options()));
    client.attach_as(5, "s", 4321).unwrap();
    client.mkdir(5, b"d", 0o755).unwrap();
    assert_eq!(fs::metadata(host.path("d")).unwrap().uid(), uid);
}

#[test]
fn owners_pass_through_for_root_alone() {
    let host = Host::new();
    let options = host.options().with_ownership(Ownership::Passthrough);
    if geteuid().is_root() {
        let mut client = host.client(&open_share(options));
        client.attach_as(5, "s", 1000).unwrap();
        pass_through(&host, &mut client);
    } else {
        let error = Tree::open(options).unwrap_err();
        assert!(matches!(error, TreeError::NotRoot { .. }), "{error}");
    }
}

fn pass_through(host: &Host, client: &mut Client) {
    let owner = |file: &str| {
        let metadata = fs::symlink_metadata(host.path(file)).unwrap();
        (metadata.uid(), metadata.gid())
    };
    client.walk_some(5, 6, &[]).unwrap();
    client.call(&Request::Create { fid: 6, name: name(b"f"), flags: 1, mode: 0o6644, gid: 1001 }).unwrap();
    client.call(&Request::MakeDirectory { directory: 5, name: name(b"d"), mode: 0o755, gid: 1002 }).unwrap();
    let target = uvm_p9::protocol::Target::new(b"/etc/passwd").unwrap();
    let passwd = fs::metadata("/etc/passwd").unwrap().uid();
    client.call(&Request::Symlink { directory: 5, name: name(b"l"), target, gid: 1003 }).unwrap();
    let fifo = Request::MakeNode { directory: 5, name: name(b"p"), mode: 0o010_600, major: 0, minor: 0, gid: 1004 };
    client.call(&fifo).unwrap();
    let owners = [owner("f"), owner("d"), owner("l"), owner("p")];
    assert_eq!(owners, [(1000, 1001), (1000, 1002), (1000, 1003), (1000, 1004)]);
    let answer = client.call(&Request::GetAttributes { fid: 6, mask: 0 }).unwrap();
    let Response::GetAttributes { attributes } = answer.response() else { panic!("{answer:?}") };
    assert_eq!((attributes.uid, attributes.gid, attributes.mode & 0o7777), (1000, 1001, 0o644));
    client.set(6, set_owner(Some(5), None)).unwrap();
    assert_eq!(owner("f"), (5, 1001));
    client.set(6, set_owner(None, Some(6))).unwrap();
    assert_eq!(owner("f"), (5, 6));
    // A link's owner is the link's.
    client.walk(7, "l").unwrap();
    client.set(7, set_owner(Some(5), Some(6))).unwrap();
    assert_eq!(owner("l"), (5, 6));
    assert_eq!(fs::metadata("/etc/passwd").unwrap().uid(), passwd);
    // The number that means "as it is" is none to ask for.
    assert_eq!(client.set(6, set_owner(Some(u32::MAX), None)), Err(Errno::INVAL));
    // Set-user-id is dropped here, too.
    let mode = SetAttributes { valid: flags::SETATTR_MODE, mode: 0o6755, ..SetAttributes::default() };
    client.set(6, mode).unwrap();
    assert_eq!(fs::metadata(host.path("f")).unwrap().mode() & 0o7777, 0o755);
    // Who does not say who it is makes files of the server's own.
    client.walk_some(ROOT, 8, &[]).unwrap();
    client.call(&Request::Create { fid: 8, name: name(b"g"), flags: 1, mode: 0o644, gid: u32::MAX }).unwrap();
    assert_eq!(owner("g"), (0, getegid().as_raw()));
}

#[test]
fn clients_are_served_alike_under_any_user_number() {
    let host = Host::new();
    let mut client = host.connect(Arc::new(open_share(host.options())), Limits::default());
    client.begin();
    for (fid, uid) in [0, 1000, u32::MAX - 1, u32::MAX].into_iter().enumerate() {
        client.attach_as(fid as u32, "s", uid).unwrap();
    }
    client.mkdir(2, b"d", 0o755).unwrap();
    assert_eq!(fs::metadata(host.path("d")).unwrap().uid(), geteuid().as_raw());
}
