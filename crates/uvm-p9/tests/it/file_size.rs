//! The limit of a file's size that the server's process has: in a process of the test's own.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use uvm_p9::protocol::{SetAttributes, flags};
use uvm_p9::tree::Errno;

use crate::alone::{Namespace, alone};
use crate::client::{Host, ROOT};

const LIMIT: u64 = 64 * 1024;

/// The attack: the kernel answers such a write with a signal that ends the process, and so every VM of it.
#[test]
fn what_goes_beyond_the_limit_of_a_files_size_fails_and_ends_nothing() {
    alone(Namespace::None, "file_size::what_goes_beyond_the_limit_of_a_files_size_fails_and_ends_nothing", limited);
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
