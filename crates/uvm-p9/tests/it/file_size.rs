//! The limit of a file's size that the server's process has: in a process of the test's own.

use std::process::{Command, Stdio};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use uvm_p9::protocol::{SetAttributes, flags};
use uvm_p9::tree::Errno;

use crate::client::{Host, ROOT};

/// Set in the process that has the limit.
const CHILD: &str = "UVM_P9_TEST_FILE_SIZE";

const LIMIT: u64 = 64 * 1024;

/// The attack: the kernel answers such a write with a signal that ends the process, and so every VM of it.
#[test]
fn what_goes_beyond_the_limit_of_a_files_size_fails_and_ends_nothing() {
    if std::env::var_os(CHILD).is_some() {
        return limited();
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "file_size::what_goes_beyond_the_limit_of_a_files_size_fails_and_ends_nothing"]);
    let output = child.env(CHILD, "1").stdin(Stdio::null()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.contains("1 passed"), "{}: {said}", output.status);
}

fn limited() {
    let maximum = getrlimit(Resource::Fsize).maximum;
    setrlimit(Resource::Fsize, Rlimit { current: Some(LIMIT), maximum }).unwrap();
    let host = Host::new();
    let mut client = host.only_client();
    client.create(1, "f", flags::OPEN_READ_WRITE).unwrap();
    assert_eq!(client.write(1, LIMIT, b"x"), Err(Errno::FBIG));
    assert_eq!(client.write(1, 1 << 60, b"x"), Err(Errno::FBIG));
    assert_eq!(client.write(1, LIMIT - 2, b"four"), Ok(2), "as far as it goes");
    let sized = |size| SetAttributes { valid: flags::SETATTR_SIZE, size, ..SetAttributes::default() };
    assert_eq!(client.set(1, sized(LIMIT + 1)), Err(Errno::FBIG));
    client.set(1, sized(LIMIT)).unwrap();
    client.walk_some(ROOT, 2, &[b"f"]).unwrap();
    assert_eq!(client.set(2, sized(LIMIT + 1)), Err(Errno::FBIG), "not open");
    client.open(2, flags::OPEN_WRITE | flags::OPEN_APPEND).unwrap();
    assert_eq!(client.write(2, 0, b"x"), Err(Errno::FBIG), "at its end, that is");
}
