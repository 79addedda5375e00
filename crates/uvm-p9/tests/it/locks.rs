//! Byte-range locks between clients.

use std::fs;
use std::sync::Arc;

use uvm_p9::Limits;
use uvm_p9::protocol::flags::{
    LOCK_BLOCKED, LOCK_READ, LOCK_SUCCESS, LOCK_UNLOCK, LOCK_WRITE, OPEN_READ, OPEN_READ_WRITE,
};
use uvm_p9::tree::{Errno, TreeOptions};

use crate::client::{Client, Host, ROOT, open_share};

fn two(host: &Host) -> (Client, Client) {
    fs::write(host.path("f"), "0123456789").unwrap();
    let share = open_share(host.options());
    let mut clients = (host.client(&share), host.client(&share));
    clients.0.open_path(1, "f", OPEN_READ_WRITE).unwrap();
    clients.1.open_path(1, "f", OPEN_READ_WRITE).unwrap();
    clients
}

#[test]
fn a_lock_of_one_client_keeps_another_out() {
    let host = Host::new();
    let (mut one, mut two) = two(&host);
    assert_eq!(one.lock(1, LOCK_WRITE, (2, 4), 7), Ok(LOCK_SUCCESS));
    // The same process number, but another client.
    for kind in [LOCK_READ, LOCK_WRITE] {
        assert_eq!(two.lock(1, kind, (5, 1), 7), Ok(LOCK_BLOCKED));
        assert_eq!(two.lock(1, kind, (0, 0), 7), Ok(LOCK_BLOCKED));
    }
    assert_eq!(two.lock(1, LOCK_WRITE, (0, 2), 7), Ok(LOCK_SUCCESS));
    assert_eq!(two.lock(1, LOCK_WRITE, (6, 0), 7), Ok(LOCK_SUCCESS));
    // What is in the way, but not who in the other client.
    assert_eq!(two.get_lock(1, LOCK_READ, (3, 1), 7), Ok((LOCK_WRITE, 2, 4, 0)));
    assert_eq!(one.get_lock(1, LOCK_READ, (100, 1), 7), Ok((LOCK_WRITE, 6, 0, 0)));
    assert_eq!(two.get_lock(1, LOCK_WRITE, (6, 0), 7), Ok((LOCK_UNLOCK, 6, 0, 7)), "one's own are not");
    // The middle is given back.
    assert_eq!(one.lock(1, LOCK_UNLOCK, (3, 1), 7), Ok(LOCK_SUCCESS));
    assert_eq!(two.lock(1, LOCK_WRITE, (3, 1), 7), Ok(LOCK_SUCCESS));
    assert_eq!(two.lock(1, LOCK_WRITE, (2, 1), 7), Ok(LOCK_BLOCKED));
    assert_eq!(two.lock(1, LOCK_WRITE, (4, 1), 7), Ok(LOCK_BLOCKED));
}

/// As VMs on QEMU have it: each has a share of its own.
#[test]
fn a_lock_keeps_out_the_clients_of_every_share_that_leads_to_the_file() {
    let host = Host::new();
    fs::create_dir(host.path("d")).unwrap();
    fs::write(host.path("d/f"), "0123456789").unwrap();
    let mut one = host.client(&open_share(host.options()));
    let mut two = host.client(&open_share(host.options()));
    let mut three = host.client(&open_share(TreeOptions::new(host.path("d"))));
    one.open_path(1, "d/f", OPEN_READ_WRITE).unwrap();
    two.open_path(1, "d/f", OPEN_READ_WRITE).unwrap();
    three.open_path(1, "f", OPEN_READ_WRITE).unwrap();
    assert_eq!(one.lock(1, LOCK_WRITE, (2, 4), 7), Ok(LOCK_SUCCESS));
    for other in [&mut two, &mut three] {
        assert_eq!(other.lock(1, LOCK_READ, (5, 1), 7), Ok(LOCK_BLOCKED));
        assert_eq!(other.get_lock(1, LOCK_READ, (0, 0), 7), Ok((LOCK_WRITE, 2, 4, 0)));
        // Whoever does not get it takes nothing away from anybody.
        assert_eq!(other.lock(1, LOCK_UNLOCK, (0, 0), 7), Ok(LOCK_SUCCESS));
    }
    one.hang_up().unwrap();
    assert_eq!(two.lock(1, LOCK_WRITE, (0, 0), 7), Ok(LOCK_SUCCESS));
    assert_eq!(three.lock(1, LOCK_WRITE, (0, 0), 7), Ok(LOCK_BLOCKED));
}

#[test]
fn readers_share_and_processes_of_one_client_are_told_apart() {
    let host = Host::new();
    let (mut one, mut two) = two(&host);
    one.open_path(2, "f", OPEN_READ).unwrap();
    assert_eq!(one.lock(1, LOCK_READ, (0, 0), 7), Ok(LOCK_SUCCESS));
    assert_eq!(two.lock(1, LOCK_READ, (0, 0), 8), Ok(LOCK_SUCCESS));
    assert_eq!(one.lock(1, LOCK_WRITE, (0, 0), 7), Ok(LOCK_BLOCKED));
    assert_eq!(two.lock(1, LOCK_UNLOCK, (0, 0), 8), Ok(LOCK_SUCCESS));
    assert_eq!(one.lock(1, LOCK_WRITE, (0, 0), 7), Ok(LOCK_SUCCESS), "a lock is made stronger");
    assert_eq!(one.lock(2, LOCK_WRITE, (0, 0), 9), Ok(LOCK_BLOCKED), "another process, another fid");
    assert_eq!(one.get_lock(2, LOCK_WRITE, (0, 0), 9), Ok((LOCK_WRITE, 0, 0, 7)));
    assert_eq!(one.lock(1, LOCK_WRITE, (0, 0), 9), Ok(LOCK_SUCCESS), "another process, the same open file");
}

/// A shell locks a descriptor by one program, and unlocks it by another.
#[test]
fn flock_is_undone_by_whichever_process_has_the_open_file() {
    let host = Host::new();
    let (mut one, mut two) = two(&host);
    assert_eq!(one.flock(1, LOCK_WRITE, 7), Ok(LOCK_SUCCESS));
    // By another open file of the same process nothing of this one's is undone.
    one.open_path(2, "f", OPEN_READ).unwrap();
    assert_eq!(one.flock(2, LOCK_UNLOCK, 8), Ok(LOCK_SUCCESS));
    assert_eq!(two.flock(1, LOCK_WRITE, 7), Ok(LOCK_BLOCKED));
    assert_eq!(one.flock(1, LOCK_UNLOCK, 8), Ok(LOCK_SUCCESS));
    assert_eq!(two.flock(1, LOCK_WRITE, 7), Ok(LOCK_SUCCESS));
    assert_eq!(two.flock(1, LOCK_UNLOCK, 7), Ok(LOCK_SUCCESS));
    // A part of the file was not locked by `flock`.
    assert_eq!(one.lock(1, LOCK_WRITE, (0, 5), 7), Ok(LOCK_SUCCESS));
    assert_eq!(one.flock(1, LOCK_UNLOCK, 8), Ok(LOCK_SUCCESS));
    assert_eq!(two.flock(1, LOCK_WRITE, 7), Ok(LOCK_BLOCKED));
}

/// A process has locked one open file, and unlocks another one, which it has from the process that locked that.
#[test]
fn flock_undoes_the_lock_of_its_own_open_file_first() {
    let host = Host::new();
    let (mut one, mut two) = two(&host);
    one.open_path(2, "f", OPEN_READ).unwrap();
    assert_eq!(one.flock(1, LOCK_READ, 7), Ok(LOCK_SUCCESS));
    assert_eq!(one.flock(2, LOCK_READ, 6), Ok(LOCK_SUCCESS));
    assert_eq!(one.flock(2, LOCK_UNLOCK, 7), Ok(LOCK_SUCCESS));
    assert_eq!(one.get_lock(2, LOCK_WRITE, (0, 0), 9), Ok((LOCK_READ, 0, 0, 7)));
    // As Linux sends it when the process closes the other one.
    assert_eq!(one.flock(2, LOCK_UNLOCK, 7), Ok(LOCK_SUCCESS));
    assert_eq!(two.flock(1, LOCK_WRITE, 9), Ok(LOCK_BLOCKED));
    assert_eq!(one.flock(1, LOCK_UNLOCK, 7), Ok(LOCK_SUCCESS));
    assert_eq!(two.flock(1, LOCK_WRITE, 9), Ok(LOCK_SUCCESS));
}

/// A parent has locked a file, and a child of its ends: Linux closes the child's copy, and sends that the child unlocks it.
#[test]
fn a_process_that_closes_its_copy_of_a_file_undoes_no_lock_of_another() {
    let host = Host::new();
    let (mut one, mut two) = two(&host);
    assert_eq!(one.lock(1, LOCK_WRITE, (0, 0), 7), Ok(LOCK_SUCCESS));
    assert_eq!(one.lock(1, LOCK_UNLOCK, (0, 0), 8), Ok(LOCK_SUCCESS));
    assert_eq!(two.lock(1, LOCK_WRITE, (0, 0), 7), Ok(LOCK_BLOCKED));
    assert_eq!(one.lock(1, LOCK_UNLOCK, (0, 0), 7), Ok(LOCK_SUCCESS));
    assert_eq!(two.lock(1, LOCK_WRITE, (0, 0), 7), Ok(LOCK_SUCCESS));
}

#[test]
fn letting_go_of_the_file_unlocks_it() {
    let host = Host::new();
    let (mut one, mut two) = two(&host);
    assert_eq!(one.lock(1, LOCK_WRITE, (0, 0), 7), Ok(LOCK_SUCCESS));
    // Through another fid of the same file nothing is let go.
    one.open_path(2, "f", OPEN_READ).unwrap();
    one.clunk(2).unwrap();
    assert_eq!(two.lock(1, LOCK_WRITE, (0, 0), 7), Ok(LOCK_BLOCKED));
    one.clunk(1).unwrap();
    assert_eq!(two.lock(1, LOCK_WRITE, (0, 0), 7), Ok(LOCK_SUCCESS));
}

#[test]
fn a_client_that_goes_or_begins_anew_holds_no_locks() {
    let host = Host::new();
    let (mut one, mut two) = two(&host);
    assert_eq!(one.lock(1, LOCK_WRITE, (0, 0), 7), Ok(LOCK_SUCCESS));
    one.begin();
    assert_eq!(two.lock(1, LOCK_WRITE, (0, 0), 7), Ok(LOCK_SUCCESS));
    two.hang_up().unwrap();
    one.attach(ROOT, "s").unwrap();
    one.open_path(1, "f", OPEN_READ_WRITE).unwrap();
    assert_eq!(one.lock(1, LOCK_WRITE, (0, 0), 7), Ok(LOCK_SUCCESS));
}

#[test]
fn locks_go_with_the_file_not_with_its_name() {
    let host = Host::new();
    let (mut one, mut two) = two(&host);
    assert_eq!(one.lock(1, LOCK_WRITE, (0, 0), 7), Ok(LOCK_SUCCESS));
    fs::hard_link(host.path("f"), host.path("g")).unwrap();
    two.open_path(2, "g", OPEN_READ).unwrap();
    assert_eq!(two.lock(2, LOCK_READ, (0, 0), 7), Ok(LOCK_BLOCKED));
    two.create(3, "other", OPEN_READ_WRITE).unwrap();
    assert_eq!(two.lock(3, LOCK_WRITE, (0, 0), 7), Ok(LOCK_SUCCESS));
}

#[test]
fn what_cannot_be_locked_is_refused() {
    let host = Host::new();
    let (mut one, _two) = two(&host);
    assert_eq!(one.lock(1, 3, (0, 0), 7), Err(Errno::INVAL));
    assert_eq!(one.get_lock(1, LOCK_UNLOCK, (0, 0), 7), Err(Errno::INVAL));
    assert_eq!(one.lock(1, LOCK_READ, (u64::MAX, 2), 7), Err(Errno::OVERFLOW));
    assert_eq!(one.lock(1, LOCK_READ, (u64::MAX, 1), 7), Ok(LOCK_SUCCESS));
    assert_eq!(one.lock(ROOT, LOCK_READ, (0, 0), 7), Err(Errno::BADF));
    one.open_path(2, "", OPEN_READ).unwrap();
    assert_eq!(one.lock(2, LOCK_READ, (0, 0), 7), Err(Errno::ISDIR));
}

#[test]
fn a_client_has_so_many_locks_and_no_more() {
    let host = Host::new();
    let (_one, _two) = two(&host);
    let share = open_share(host.options());
    let mut client = host.connect(Arc::new(share), Limits::default().with_locks(10));
    client.begin();
    client.attach(ROOT, "s").unwrap();
    client.open_path(1, "f", OPEN_READ_WRITE).unwrap();
    for n in 0..10 {
        assert_eq!(client.lock(1, LOCK_WRITE, (2 * n, 1), 7), Ok(LOCK_SUCCESS));
    }
    assert_eq!(client.lock(1, LOCK_WRITE, (20, 1), 7), Err(Errno::NOLCK));
    assert_eq!(client.lock(1, LOCK_WRITE, (0, 0), 7), Ok(LOCK_SUCCESS), "one in place of ten");
    assert_eq!(client.lock(1, LOCK_WRITE, (20, 1), 7), Ok(LOCK_SUCCESS));
}
