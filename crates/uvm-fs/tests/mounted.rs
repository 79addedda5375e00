//! A share in which file systems without blocks are mounted, as a directory and as a single file; in a mount namespace of
//! the test's own.
#![cfg(target_os = "linux")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::mount::mount_bind;
use uvm_fs::guard::{Access, Guarded, Owners};
use uvm_fs::raw::operation::{
    CREATE, FSYNCDIR, GETXATTR, LISTXATTR, LOOKUP, OPEN, READDIR, REMOVEXATTR, SETATTR, SETXATTR, SYNCFS,
};
use uvm_fs::raw::{Guest, ROOT, unguarded};
use virtiofsd::filesystem::FileSystem;

/// Set to the shared directory in the process that has the namespace.
const CHILD: &str = "UVM_FS_TEST_MOUNTS";

fn bytes(numbers: &[u32], rest: &[u8]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_ne_bytes()).chain(rest.iter().copied()).collect()
}

fn first(answer: &[u8]) -> u64 {
    u64::from_ne_bytes(answer[..8].try_into().expect("eight bytes"))
}

fn look<F: FileSystem + Sync>(guest: &Guest<F>, name: &[u8]) -> u64 {
    first(&guest.ask(LOOKUP, ROOT, name).expect("it is seen"))
}

fn create<F: FileSystem + Sync>(guest: &Guest<F>, name: &[u8], flags: i32) -> Result<Vec<u8>, Option<i32>> {
    guest.ask(CREATE, ROOT, &bytes(&[flags.cast_unsigned(), 0o100_644, 0, 0], name))
}

#[test]
fn what_is_mounted_without_blocks_is_not_opened_by_any_request() {
    if let Some(directory) = std::env::var_os(CHILD) {
        return in_namespace(Path::new(&directory));
    }
    // Of this process, which has nothing mounted in it and can remove it.
    let directory = tempfile::tempdir().expect("a directory");
    let mut child = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        child.args(["--user", "--map-root-user"]);
    }
    child.args(["--mount", "--propagation", "private", "--"]).arg(std::env::current_exe().expect("this program"));
    child.args(["--exact", "what_is_mounted_without_blocks_is_not_opened_by_any_request"]).env(CHILD, directory.path());
    let output = child.stdin(Stdio::null()).output().expect("util-linux has it");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

fn in_namespace(directory: &Path) {
    let at = |name: &str| directory.join(name);
    fs::create_dir(at("p")).expect("made");
    for name in ["x", "f"] {
        fs::write(at(name), "inside").expect("written");
    }
    // What a directory of processes holds, and a file whose writing changes something, if only this test's name.
    mount_bind("/proc/self", at("p")).expect("mounted");
    mount_bind("/proc/self/comm", at("x")).expect("mounted");

    // Without the layer, each of these gets what is mounted: that makes this a test that can fail.
    let bare = Guest::new(unguarded(directory, 1000).expect("a share")).expect("a guest");
    bare.begin([u32::MAX; 2]).expect("negotiated");
    create(&bare, b"p\0", libc::O_RDONLY).expect("opened");
    create(&bare, b"x\0", libc::O_RDWR).expect("opened");

    let owners = Owners::One { uid: 0, gid: 0 };
    let guest: Guest<Guarded<_>> = Guest::of(directory, Access::ReadWrite, owners, 1000).expect("a share");
    guest.begin([u32::MAX; 2]).expect("negotiated");
    let refused = Err(Some(libc::EACCES));
    for flags in [libc::O_RDONLY, libc::O_RDWR, libc::O_RDWR | libc::O_TRUNC] {
        assert_eq!(create(&guest, b"p\0", flags), refused, "{flags:o}");
        assert_eq!(create(&guest, b"x\0", flags), refused, "{flags:o}");
        assert_eq!(create(&guest, b"f\0", flags | libc::O_EXCL), Err(Some(libc::EEXIST)), "{flags:o}");
    }
    let (directory, file) = (look(&guest, b"p\0"), look(&guest, b"x\0"));
    // Whatever handle a guest says it has.
    for handle in 0..8 {
        let body = [u64s(&[handle, 0]), bytes(&[4096, 0], b""), u64s(&[0]), bytes(&[0, 0], b"")].concat();
        assert_eq!(guest.ask(READDIR, directory, &body), refused);
        assert_eq!(guest.ask(FSYNCDIR, directory, &[u64s(&[handle]), bytes(&[0, 0], b"")].concat()), refused);
    }
    for flags in [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR] {
        assert_eq!(guest.ask(OPEN, file, &bytes(&[flags.cast_unsigned(), 0], b"")), refused);
    }
    for valid in [1, 8] {
        let body = [bytes(&[valid, 0], b""), vec![0; 80]].concat();
        assert_eq!(guest.ask(SETATTR, file, &body), refused, "{valid}");
    }
    // To read an attribute, or to bring a file system to its disk, the file is opened as well.
    let with_size = bytes(&[64, 0], b"user.x\0");
    let bodies = [
        (GETXATTR, with_size),
        (LISTXATTR, bytes(&[64, 0], b"")),
        (SETXATTR, bytes(&[1, 0], b"user.x\0v")),
        (REMOVEXATTR, b"user.x\0".to_vec()),
        (SYNCFS, vec![0; 8]),
    ];
    let (bare_file, own) = (look(&bare, b"x\0"), look(&guest, b"f\0"));
    for (operation, body) in bodies {
        assert_eq!(guest.ask(operation, file, &body), refused, "{operation}");
        assert_ne!(bare.ask(operation, bare_file, &body), refused, "{operation}");
        assert_ne!(guest.ask(operation, own, &body), refused, "{operation}");
    }
    // A file of the share is opened by the request that would make it, and one that is not there is made.
    for name in [b"f\0", b"n\0"] {
        let made = create(&guest, name, libc::O_RDWR).expect("opened");
        assert_eq!(first(&made), look(&guest, name));
    }
    assert_eq!(fs::read_to_string(at("f")).expect("the file"), "inside");
    create(&guest, b"f\0", libc::O_RDWR | libc::O_TRUNC).expect("opened");
    assert_eq!(fs::read_to_string(at("f")).expect("the file"), "");
}

fn u64s(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
}
