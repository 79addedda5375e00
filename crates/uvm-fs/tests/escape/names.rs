//! Names and links that lead out of the share.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use uvm_fs::guard::Access;
use uvm_fs::raw::operation::*;
use uvm_fs::raw::{Guest, ROOT, unguarded};

use crate::place::Place;
use crate::requests::{bytes, init, look, open, read, requests, with_names};

fn bad_names(place: &Path) -> Vec<Vec<u8>> {
    let absolute = |name: &str| place.join(name).to_str().expect("text").as_bytes().to_vec();
    let mut names: Vec<Vec<u8>> = [
        "..",
        ".",
        "",
        "/",
        "../secret",
        "../beside",
        "../new",
        "../beside/file",
        "../beside/new",
        "d/new",
        "d/",
        "f/..",
    ]
    .iter()
    .map(|name| name.as_bytes().to_vec())
    .collect();
    names.extend([absolute("secret"), absolute("beside"), absolute("new"), absolute("beside/new"), vec![b'a'; 256]]);
    names.extend(["way/file", "way/new", "../../../../../../etc/passwd"].map(|name| name.as_bytes().to_vec()));
    names
}

#[test]
fn no_name_in_any_request_leads_out_of_the_share() {
    let place = Place::new();
    let guest = place.guest(Access::ReadWrite);
    let before = place.outside();
    let (file, directory) = (look(&guest, ROOT, "f").expect("f"), look(&guest, ROOT, "d").expect("d"));
    for name in bad_names(place.dir.path()) {
        for (what, operation, node, body) in requests(&name, file, directory) {
            let text = String::from_utf8_lossy(&name);
            let error = guest.ask(operation, node, &body).expect_err(&text);
            let expected = if name.len() > 255 { libc::ENAMETOOLONG } else { libc::EINVAL };
            // An empty name is no request where the server looks for one; then the device would end.
            assert!(error == Some(expected) || (name.is_empty() && error.is_none()), "{what} {text:?}: {error:?}");
            assert_eq!(place.outside(), before, "{what} {text:?}");
        }
    }
    assert_eq!(fs::read_to_string(place.at("share/f")).expect("the file"), "inside");
}

/// What makes the test above one that can fail.
#[test]
fn the_file_system_behind_does_leave_the_share() {
    let place = Place::new();
    let guest = Guest::new(unguarded(&place.at("share"), 1000).expect("a share")).expect("a guest");
    init(&guest);
    guest.ask(MKDIR, ROOT, &with_names(&bytes(&[0o755, 0]), &[b"../new"])).ok();
    assert!(place.at("new").is_dir());
    guest.ask(UNLINK, ROOT, &with_names(&[], &[b"../secret"])).expect("unlinked");
    assert!(!place.at("secret").exists());
}

#[test]
fn links_are_text() {
    let place = Place::new();
    let guest = place.guest(Access::ReadWrite);
    let link = look(&guest, ROOT, "link").expect("the link itself");
    assert_eq!(guest.ask(READLINK, link, &[]).expect("its text"), b"../secret");
    open(&guest, link, libc::O_RDONLY).expect_err("no file");
    let way = look(&guest, ROOT, "way").expect("the link itself");
    for (what, operation, body) in [
        ("lookup", LOOKUP, with_names(&[], &[b"file"])),
        ("mkdir", MKDIR, with_names(&bytes(&[0o755, 0]), &[b"new"])),
        ("create", CREATE, with_names(&bytes(&[2, 0o644, 0, 0]), &[b"new"])),
        ("unlink", UNLINK, with_names(&[], &[b"file"])),
    ] {
        guest.ask(operation, way, &body).expect_err(what);
    }
    guest.ask(OPENDIR, way, &bytes(&[0, 0])).expect_err("no directory");
    // Any target: it is the guest that follows.
    guest.ask(SYMLINK, ROOT, &with_names(&[], &[b"new", b"/etc/passwd"])).expect("a link");
    let new = look(&guest, ROOT, "new").expect("the link itself");
    open(&guest, new, libc::O_RDONLY).expect_err("no file");
    // A file in whose place a link is put by now: what was looked up is what is opened.
    let file = look(&guest, ROOT, "f").expect("the file");
    fs::rename(place.at("share/f"), place.at("share/g")).expect("renamed");
    symlink("../secret", place.at("share/f")).expect("linked");
    let handle = open(&guest, file, libc::O_RDONLY).expect("the file");
    assert_eq!(read(&guest, file, handle).expect("its content"), b"inside");
    // And a directory.
    let directory = look(&guest, ROOT, "d").expect("the directory");
    fs::rename(place.at("share/d"), place.at("share/e")).expect("renamed");
    symlink("../beside", place.at("share/d")).expect("linked");
    guest.ask(MKDIR, directory, &with_names(&bytes(&[0o755, 0]), &[b"new"])).expect("made");
    assert!(place.at("share/e/new").is_dir() && !place.at("beside/new").exists());
    assert_eq!(look(&guest, directory, "file"), Err(libc::ENOENT));
}
