//! Sessions: beginnings and ends, several clients, what each may have.

use std::fs;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uvm_p9::protocol::{Name, Request, Response, flags};
use uvm_p9::tree::{Descriptors, Errno};
use uvm_p9::{Ended, Exports, Limits, ServeError, Share, Shares};

use crate::client::{Host, ROOT, name, open_share};

#[test]
fn the_message_size_is_the_smaller_of_both() {
    let host = Host::new();
    let share = open_share(host.options());
    let mut client = host.connect(Arc::new(share), Limits::default().with_message_size(65_536));
    assert_eq!(client.version(u32::MAX), 65_536);
    assert_eq!(client.version(8192), 8192);
    client.attach(ROOT, "s").unwrap();
    fs::write(host.path("f"), vec![1; 10_000]).unwrap();
    client.open_path(1, "f", flags::OPEN_READ).unwrap();
    assert_eq!(client.read(1, 0, u32::MAX).unwrap().len(), 8192 - 11);
    std::os::unix::fs::symlink("x".repeat(4095), host.path("l")).unwrap();
    client.walk(2, "l").unwrap();
    assert_eq!(client.read_link(2).unwrap().len(), 4095);
    assert_eq!(client.version(4096), 4096);
    client.attach(ROOT, "s").unwrap();
    client.walk(2, "l").unwrap();
    assert_eq!(client.read_link(2), Err(Errno::NAMETOOLONG), "it does not fit");
}

#[test]
fn other_versions_are_unknown_and_begin_nothing() {
    let host = Host::new();
    for (version, size) in [(&b"9P2000"[..], 8192), (b"9P2000.u", 8192), (b"", 8192)] {
        let mut client = host.connect(Arc::new(open_share(host.options())), Limits::default());
        client.send(flags::NO_TAG, &Request::Version { message_size: size, version: name(version) });
        let answer = client.receive();
        let Response::Version { version, .. } = answer.response() else { panic!("{answer:?}") };
        assert_eq!(version.as_bytes(), flags::VERSION_UNKNOWN);
        client.send(1, &Request::Clunk { fid: 0 });
        assert!(matches!(client.ended(), Err(ServeError::NoVersion { kind: 120 })));
    }
    let mut client = host.connect(Arc::new(open_share(host.options())), Limits::default());
    client.send(flags::NO_TAG, &Request::Version { message_size: 4095, version: name(flags::VERSION) });
    let answer = client.receive();
    assert_eq!(answer.response(), Response::Error { errno: 22 });
}

#[test]
fn a_new_session_has_nothing_of_the_old_one() {
    let host = Host::new();
    fs::write(host.path("f"), "").unwrap();
    let share = open_share(host.options());
    let before = host.descriptors();
    let mut client = host.client(&share);
    for fid in 1..50 {
        client.open_path(fid, "f", flags::OPEN_READ).unwrap();
    }
    assert_eq!(host.descriptors(), before + 98);
    client.begin();
    assert_eq!(host.descriptors(), before);
    assert_eq!(client.attributes(ROOT), Err(Errno::BADF));
    client.attach(ROOT, "s").unwrap();
    client.walk(1, "f").unwrap();
}

#[test]
fn a_client_that_goes_leaves_nothing_behind() {
    let host = Host::new();
    fs::create_dir(host.path("d")).unwrap();
    fs::write(host.path("d/f"), "").unwrap();
    let share = open_share(host.options());
    let before = host.descriptors();
    for way in 0..4 {
        let mut client = host.client(&share);
        for fid in 1..20 {
            client.open_path(fid, "d/f", flags::OPEN_READ).unwrap();
            client.open_path(fid + 100, "d", flags::OPEN_READ).unwrap();
            client.walk(fid + 200, "d/f").unwrap();
        }
        assert_eq!(client.lock(1, flags::LOCK_WRITE, (0, 0), 1), Ok(flags::LOCK_SUCCESS));
        // Each way while requests are on their way.
        for tag in 10..40 {
            client.send(tag, &Request::Read { fid: 1, offset: 0, count: 1_000_000 });
        }
        match way {
            0 => drop(client.hang_up()),
            1 => assert!(matches!(client.stop(), Ok(Ended::Shutdown))),
            2 => {
                client.stream.write_all(&[9, 0, 0]).unwrap();
                client.stream.shutdown(std::net::Shutdown::Write).unwrap();
                assert!(matches!(client.ended(), Err(ServeError::Connection { .. })));
            }
            _ => {
                client.stream.write_all(&[0; 7]).unwrap();
                assert!(matches!(client.ended(), Err(ServeError::BadSize { size: 0, .. })));
            }
        }
        assert_eq!(host.descriptors(), before, "way {way}");
    }
}

#[test]
fn a_server_that_is_dropped_releases_all_in_the_background() {
    let host = Host::new();
    fs::write(host.path("f"), "").unwrap();
    let share = open_share(host.options());
    let before = host.descriptors();
    let (mut client, mut other) = (host.client(&share), host.client(&share));
    client.open_path(1, "f", flags::OPEN_READ_WRITE).unwrap();
    assert_eq!(client.lock(1, flags::LOCK_WRITE, (0, 0), 1), Ok(flags::LOCK_SUCCESS));
    client.cancel();
    let deadline = Instant::now() + Duration::from_secs(60);
    while host.descriptors() > before {
        assert!(Instant::now() < deadline, "{} descriptors are left", host.descriptors() - before);
        std::thread::yield_now();
    }
    other.open_path(1, "f", flags::OPEN_READ_WRITE).unwrap();
    assert_eq!(other.lock(1, flags::LOCK_WRITE, (0, 0), 1), Ok(flags::LOCK_SUCCESS));
}

#[test]
fn a_client_that_says_no_more_is_answered_before_it_ends() {
    let host = Host::new();
    let mut client = host.only_client();
    client.send(5, &Request::MakeDirectory { directory: ROOT, name: name(b"d"), mode: 0o755, gid: 0 });
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.receive().tag, 5);
    assert!(matches!(client.ended(), Ok(Ended::Disconnected)));
    assert!(host.path("d").is_dir());
}

#[test]
fn many_clients_share_a_tree() {
    let host = Host::new();
    let share = open_share(host.options());
    let before = host.descriptors();
    std::thread::scope(|scope| {
        for n in 0..24_u32 {
            let mut client = host.client(&share);
            scope.spawn(move || {
                let own = format!("{n}");
                client.create(1, &own, flags::OPEN_READ_WRITE).unwrap();
                for round in 0..50 {
                    client.write(1, round * 4, &n.to_le_bytes()).unwrap();
                    client.mkdir(ROOT, format!("{n}-{round}").as_bytes(), 0o755).unwrap();
                }
                assert_eq!(client.read(1, 0, 1000).unwrap(), n.to_le_bytes().repeat(50));
                client.hang_up().unwrap();
            });
        }
    });
    assert_eq!(fs::read_dir(host.path("")).unwrap().count(), 24 * 51);
    assert_eq!(host.descriptors(), before);
}

#[test]
fn shares_are_attached_to_by_name() {
    let host = Host::new();
    let share = open_share(host.options());
    let mut client = host.connect(Arc::new(Arc::clone(&share)), Limits::default());
    client.begin();
    for (fid, known) in ["s", "", "/"].into_iter().enumerate() {
        client.attach(fid as u32, known).unwrap();
    }
    for unknown in ["t", "/s", "../s", "s/", "/etc"] {
        assert_eq!(client.attach(9, unknown), Err(Errno::NOENT), "{unknown}");
    }
    let auth = Request::Attach { fid: 9, auth_fid: 0, user: name(b""), share: name(b"s"), uid: 0 };
    assert!(client.call(&auth).is_err());
    // Behind several, the name has to be said.
    let shares = Arc::new(Shares::default());
    shares.add(share).unwrap();
    assert!(shares.add(open_share(host.options())).is_err(), "the name is taken");
    let mut client = host.connect(shares, Limits::default());
    client.begin();
    assert_eq!(client.attach(ROOT, ""), Err(Errno::NOENT));
    client.attach(ROOT, "s").unwrap();
}

#[test]
fn a_share_that_is_removed_ends_its_clients_and_no_others() {
    let host = Host::new();
    let shares = Arc::new(Shares::default());
    for share in ["one", "two"] {
        shares.add(Share::open(share, host.options()).unwrap()).unwrap();
    }
    let client = |share: &str| {
        let mut client = host.connect(Arc::clone(&shares) as Arc<dyn Exports>, Limits::default());
        client.begin();
        client.attach(ROOT, share).unwrap();
        client
    };
    let (one, mut two) = (client("one"), client("two"));
    let before = host.descriptors();
    assert!(shares.remove(b"one"));
    assert!(matches!(one.ended(), Ok(Ended::ShareClosed)));
    assert!(host.descriptors() < before);
    assert!(!shares.remove(b"one"));
    two.mkdir(ROOT, b"d", 0o755).unwrap();
    assert_eq!(two.attach(5, "one"), Err(Errno::NOENT));
}

#[test]
fn a_client_has_so_many_fids_and_a_share_so_many_descriptors() {
    let host = Host::new();
    fs::write(host.path("f"), "").unwrap();
    let share = open_share(host.options());
    let mut client = host.connect(Arc::new(share), Limits::default().with_fids(10));
    client.begin();
    client.attach(ROOT, "s").unwrap();
    for fid in 1..10 {
        client.walk(fid, "f").unwrap();
    }
    assert_eq!(client.walk(10, "f"), Err(Errno::MFILE));
    client.clunk(1).unwrap();
    client.walk(10, "f").unwrap();

    // One is the root's.
    let share = open_share(host.options().with_descriptors(Descriptors::new(6)));
    let (mut one, mut two) = (host.client(&share), host.client(&share));
    one.open_path(1, "f", flags::OPEN_READ).unwrap();
    one.open_path(2, "f", flags::OPEN_READ).unwrap();
    two.walk(1, "f").unwrap();
    assert_eq!(two.open(1, flags::OPEN_READ), Err(Errno::NFILE));
    assert_eq!(two.walk(2, "f"), Err(Errno::NFILE));
    two.walk(2, "").unwrap();
    one.hang_up().unwrap();
    two.open(1, flags::OPEN_READ).unwrap();
}

/// The attack: a guest opens files of every share it has, until the process cannot open any.
#[test]
fn several_shares_have_one_budget_of_descriptors() {
    let host = Host::new();
    fs::write(host.path("f"), "").unwrap();
    let all = Descriptors::new(100);
    let before = host.descriptors();
    let shares: Vec<_> = (0..8).map(|_| open_share(host.options().with_descriptors(all.part(25)))).collect();
    let mut clients: Vec<_> = shares.iter().map(|share| host.client(share)).collect();
    for client in &mut clients {
        let refused = (1..200).find_map(|fid| client.walk(fid, "f").err());
        assert_eq!(refused, Some(Errno::NFILE));
    }
    assert_eq!(host.descriptors() - before, 100);
    // The first has as many as a share may, and its end is the others' gain.
    assert_eq!(clients.remove(0).hang_up().unwrap(), Ended::Disconnected);
    assert_eq!(host.descriptors() - before, 76);
    clients[6].walk(300, "f").unwrap();
}

#[test]
fn names_of_any_length_fit_a_version_or_are_refused() {
    let host = Host::new();
    let mut client = host.connect(Arc::new(open_share(host.options())), Limits::default());
    let version = [b'9'; 255];
    client.send(1, &Request::Version { message_size: 8192, version: Name::new(&version).unwrap() });
    let answer = client.receive();
    let Response::Version { version, .. } = answer.response() else { panic!("{answer:?}") };
    assert_eq!(version.as_bytes(), flags::VERSION_UNKNOWN);
}
