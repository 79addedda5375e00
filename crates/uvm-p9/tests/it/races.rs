//! What is swapped while a client looks it up.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use uvm_p9::protocol::{SetAttributes, flags};
use uvm_p9::tree::Errno;

use crate::client::{Client, Host, ROOT, SECRET, open_share};

const ROUNDS: u32 = 3000;

fn swap(one: &Path, other: &Path) {
    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
}

/// Swaps two names of the share for as long as `client` is at it. At least once between any two of its rounds would be too
/// much to ask of a scheduler; a few thousand times altogether is not.
fn while_swapping(host: &Host, one: &str, other: &str, mut client: impl FnMut(u32)) {
    let done = AtomicBool::new(false);
    let (one, other) = (host.path(one), host.path(other));
    thread::scope(|scope| {
        let swapping = scope.spawn(|| {
            let mut swaps = 0;
            while !done.load(Ordering::Relaxed) || swaps < ROUNDS {
                swap(&one, &other);
                swaps += 1;
            }
        });
        for round in 0..ROUNDS {
            client(round);
        }
        done.store(true, Ordering::Relaxed);
        swapping.join().unwrap();
    });
}

fn read_by_name(client: &mut Client, path: &[&[u8]]) -> Result<Vec<u8>, Errno> {
    if client.walk_some(ROOT, 1, path)? < path.len() {
        return Err(Errno::NOENT);
    }
    let read = client.open(1, flags::OPEN_READ).and_then(|()| client.read(1, 0, 100));
    client.clunk(1).unwrap();
    read
}

#[test]
fn a_directory_that_becomes_a_link_leads_nowhere() {
    let host = Host::new();
    fs::create_dir(host.path("d")).unwrap();
    fs::write(host.path("d/f"), "inside").unwrap();
    symlink(host.outside("secrets"), host.path("l")).unwrap();
    let outside = host.snapshot();
    let mut client = host.only_client();
    let (mut inside, mut failed) = (0, 0);
    while_swapping(&host, "d", "l", |round| {
        match read_by_name(&mut client, &[b"d", b"f"]) {
            Ok(read) => {
                assert_eq!(read, b"inside");
                inside += 1;
            }
            Err(_) => failed += 1,
        }
        let new = format!("new-{round}");
        if client.walk_some(ROOT, 2, &[b"d"]) == Ok(1) {
            let _ = client.mkdir(2, new.as_bytes(), 0o755);
            let _ = client.rename_at(ROOT, b"d", ROOT, b"d");
            let _ = client.unlink(2, new.as_bytes(), flags::UNLINK_DIRECTORY);
            let _ = client.create_at(2, b"made", flags::OPEN_WRITE | flags::OPEN_TRUNCATE, 0o644);
            client.clunk(2).unwrap();
        }
    });
    assert_eq!(host.snapshot(), outside);
    assert_eq!(inside + failed, ROUNDS);
}

#[test]
fn a_file_that_becomes_a_link_is_not_opened_written_or_changed() {
    let host = Host::new();
    fs::write(host.path("f"), "inside").unwrap();
    symlink(host.outside("secret"), host.path("l")).unwrap();
    let outside = host.snapshot();
    let mut client = host.only_client();
    while_swapping(&host, "f", "l", |_| {
        if let Ok(read) = read_by_name(&mut client, &[b"f"]) {
            assert_ne!(read, SECRET.as_bytes());
        }
        if client.create(2, "f", flags::OPEN_READ_WRITE | flags::OPEN_TRUNCATE).is_ok() {
            assert_ne!(client.read(2, 0, 100).unwrap(), SECRET.as_bytes());
            client.write(2, 0, b"overwritten").unwrap();
            client.clunk(2).unwrap();
        }
        client.walk(3, "f").unwrap();
        let all = flags::SETATTR_MODE | flags::SETATTR_SIZE | flags::SETATTR_ACCESSED | flags::SETATTR_MODIFIED;
        for valid in [all, flags::SETATTR_SIZE, flags::SETATTR_MODE, flags::SETATTR_MODIFIED] {
            let _ = client.set(3, SetAttributes { valid, mode: 0o777, ..SetAttributes::default() });
        }
        client.clunk(3).unwrap();
    });
    assert_eq!(host.snapshot(), outside);
}

/// What is opened is of the type that was looked at, or the open would wait for a writer of the fifo.
#[test]
fn a_file_that_becomes_a_fifo_is_not_opened() {
    let host = Host::new();
    fs::write(host.path("f"), "inside").unwrap();
    let mut client = host.only_client();
    client.mknod(ROOT, b"fifo", 0o010_666).unwrap();
    while_swapping(&host, "f", "fifo", |_| {
        match read_by_name(&mut client, &[b"f"]) {
            Ok(read) => assert_eq!(read, b"inside"),
            Err(errno) => assert_eq!(errno, Errno::PERM),
        }
        match client.create(2, "f", flags::OPEN_READ) {
            Ok(()) => client.clunk(2).unwrap(),
            Err(errno) => assert_eq!(errno, Errno::PERM),
        }
    });
}

/// One client moves a directory about, another looks things up in it: it is one of the tree all the time.
#[test]
fn a_directory_that_moves_is_followed_or_lost_but_stays_inside() {
    let host = Host::new();
    let share = open_share(host.options());
    for directory in ["a", "b", "a/moving"] {
        fs::create_dir(host.path(directory)).unwrap();
    }
    fs::write(host.path("a/moving/f"), "inside").unwrap();
    let (mut mover, mut reader) = (host.client(&share), host.client(&share));
    mover.walk(1, "a").unwrap();
    mover.walk(2, "b").unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..ROUNDS / 2 {
                mover.rename_at(1, b"moving", 2, b"moving").unwrap();
                mover.rename_at(2, b"moving", 1, b"moving").unwrap();
            }
        });
        reader.walk(9, "a").unwrap();
        for _ in 0..ROUNDS {
            assert!(reader.walk_some(9, 8, &[b"..", b"..", b"secret"]).is_err());
            if let Ok(read) = read_by_name(&mut reader, &[b"a", b"moving", b"f"]) {
                assert_eq!(read, b"inside");
            }
            if reader.walk_some(ROOT, 7, &[b"b", b"moving"]) == Ok(2) {
                assert!(reader.walk_some(7, 8, &[b".."]).is_err());
                reader.clunk(7).unwrap();
            }
        }
    });
}
