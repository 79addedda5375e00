//! `flock` on what somebody else has opened.

use std::io;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Locks or unlocks the open file that is standard input, and says so; `try` says whether it could, and does not wait. `lock`
/// does not end: Linux tells a 9P server that the file is unlocked when the process that has locked it closes it.
pub(crate) fn on_input(how: &str) -> io::Result<()> {
    let operation = match how {
        "lock" => FlockOperation::LockExclusive,
        "try" => FlockOperation::NonBlockingLockExclusive,
        "unlock" => FlockOperation::Unlock,
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    match flock(io::stdin(), operation) {
        Err(Errno::AGAIN) => println!("held by another"),
        done => {
            done?;
            println!("done");
        }
    }
    if how != "lock" {
        return Ok(());
    }
    loop {
        std::thread::park();
    }
}
