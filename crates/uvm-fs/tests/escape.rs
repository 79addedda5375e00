//! A hostile guest, by raw requests, against a share next to a secret; in this process, which nothing confines.
#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use uvm_fs::guard::{Access, Guarded, Owners};
use uvm_fs::raw::operation::*;
use uvm_fs::raw::{Guest, ROOT, unguarded};
use virtiofsd::passthrough::PassthroughFs;

const SECRET: &str = "nobody's business";
/// Whose the files are said to be.
const OWNER: (u32, u32) = (4711, 4712);

struct Place {
    dir: TempDir,
}

impl Place {
    /// `share` with a file, a directory and links; beside it a file, and a directory with one.
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("share/d")).expect("made");
        fs::create_dir(at("beside")).expect("made");
        fs::write(at("share/f"), "inside").expect("written");
        fs::write(at("secret"), SECRET).expect("written");
        fs::write(at("beside/file"), SECRET).expect("written");
        symlink("../secret", at("share/link")).expect("linked");
        symlink("../beside", at("share/way")).expect("linked");
        Self { dir }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn guest(&self, access: Access) -> Guest<Guarded<PassthroughFs>> {
        let owners = Owners::One { uid: OWNER.0, gid: OWNER.1 };
        let guest = Guest::of(&self.at("share"), access, owners, 1000).expect("a share");
        init(&guest);
        guest
    }

    /// Everything outside of the share.
    fn outside(&self) -> BTreeMap<PathBuf, (u32, String)> {
        let mut all = BTreeMap::new();
        for directory in [self.dir.path().to_owned(), self.at("beside")] {
            for entry in fs::read_dir(&directory).expect("listed") {
                let path = entry.expect("an entry").path();
                let mode = path.symlink_metadata().expect("its attributes").mode();
                let content = if path.is_file() { fs::read_to_string(&path).expect("read") } else { String::new() };
                all.insert(path, (mode, content));
            }
        }
        all
    }
}

fn bytes(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
}

fn with_names(start: &[u8], names: &[&[u8]]) -> Vec<u8> {
    let mut body = start.to_vec();
    for name in names {
        body.extend_from_slice(name);
        body.push(0);
    }
    body
}

fn u64s(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
}

/// As a guest of this day, with everything it knows.
fn init<F: virtiofsd::filesystem::FileSystem + Sync>(guest: &Guest<F>) -> u64 {
    let answer = guest.begin([u32::MAX; 2]).expect("negotiated");
    let word = |at: usize| u64::from(u32::from_ne_bytes(answer[at..at + 4].try_into().expect("four bytes")));
    word(12) | word(32) << 32
}

fn node(answer: &[u8]) -> u64 {
    u64::from_ne_bytes(answer[..8].try_into().expect("eight bytes"))
}

fn look<F: virtiofsd::filesystem::FileSystem + Sync>(guest: &Guest<F>, parent: u64, name: &str) -> Result<u64, i32> {
    guest.ask(LOOKUP, parent, &with_names(&[], &[name.as_bytes()])).map(|answer| node(&answer)).map_err(number)
}

fn number(error: Option<i32>) -> i32 {
    error.expect("an answer")
}

fn open<F: virtiofsd::filesystem::FileSystem + Sync>(guest: &Guest<F>, node: u64, flags: i32) -> Result<u64, i32> {
    let answer = guest.ask(OPEN, node, &bytes(&[flags.cast_unsigned(), 0])).map_err(number)?;
    Ok(u64::from_ne_bytes(answer[..8].try_into().expect("eight bytes")))
}

/// Every request that has names, with this name in each place; what each is called.
fn requests(name: &[u8], file: u64, directory: u64) -> Vec<(&'static str, u32, u64, Vec<u8>)> {
    let mode = bytes(&[0o100_644, 0, 0, 0]);
    let rename2 = [u64s(&[directory]), bytes(&[0, 0])].concat();
    vec![
        ("lookup", LOOKUP, ROOT, with_names(&[], &[name])),
        ("lookup below", LOOKUP, directory, with_names(&[], &[name])),
        ("symlink", SYMLINK, ROOT, with_names(&[], &[name, b"target"])),
        ("mknod", MKNOD, ROOT, with_names(&mode, &[name])),
        ("mkdir", MKDIR, ROOT, with_names(&bytes(&[0o755, 0]), &[name])),
        ("unlink", UNLINK, ROOT, with_names(&[], &[name])),
        ("unlink below", UNLINK, directory, with_names(&[], &[name])),
        ("rmdir", RMDIR, ROOT, with_names(&[], &[name])),
        ("rename from", RENAME, ROOT, with_names(&u64s(&[directory]), &[name, b"new"])),
        ("rename to", RENAME, ROOT, with_names(&u64s(&[ROOT]), &[b"f", name])),
        ("rename2 from", RENAME2, ROOT, with_names(&rename2, &[name, b"new"])),
        ("rename2 to", RENAME2, ROOT, with_names(&rename2, &[b"f", name])),
        ("link", LINK, ROOT, with_names(&u64s(&[file]), &[name])),
        ("create", CREATE, ROOT, with_names(&bytes(&[2, 0o100_644, 0, 0]), &[name])),
        ("create below", CREATE, directory, with_names(&bytes(&[2, 0o100_644, 0, 0]), &[name])),
    ]
}

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

fn read<F: virtiofsd::filesystem::FileSystem + Sync>(guest: &Guest<F>, node: u64, handle: u64) -> Result<Vec<u8>, i32> {
    let body = [u64s(&[handle, 0]), bytes(&[4096, 0]), u64s(&[0]), bytes(&[0, 0])].concat();
    guest.ask(READ, node, &body).map_err(number)
}

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().expect("it is there").mode() & 0o7777
}

fn setattr(valid: u32, mode: u32, owner: (u32, u32)) -> Vec<u8> {
    [bytes(&[valid, 0]), u64s(&[0; 6]), bytes(&[0, 0, 0, mode, 0, owner.0, owner.1, 0])].concat()
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
