//! Sessions: beginnings and ends, several clients, requests that wait, and clients that break the protocol.

use std::fs;
use std::io::{Read, Write};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use uvm_p9::protocol::{HEADER_LEN, Header, Name, Request, Response, flags};
use uvm_p9::tree::{Descriptors, Errno};
use uvm_p9::{Ended, Exports, Limits, ServeError, Share, Shares};

use crate::client::{Client, Host, ROOT, name, open_share};

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

/// Attaching to the share `slow` waits until it is told to go on; so does a request that takes long, without a clock.
struct Slow {
    share: Arc<Share>,
    asked: Mutex<Sender<()>>,
    go_on: Mutex<Receiver<()>>,
}

impl Exports for Slow {
    fn find(&self, name: &[u8]) -> Option<Arc<Share>> {
        if name == b"slow" {
            self.asked.lock().unwrap().send(()).unwrap();
            // When the test is over, nothing waits.
            let _ = self.go_on.lock().unwrap().recv();
        }
        Some(Arc::clone(&self.share))
    }
}

fn slow(host: &Host, limits: Limits) -> (Client, Receiver<()>, Sender<()>) {
    let ((ask, asked), (go, go_on)) = (channel(), channel());
    let share = open_share(host.options());
    let mut client = host.connect(Arc::new(Slow { share, asked: Mutex::new(ask), go_on: Mutex::new(go_on) }), limits);
    client.begin();
    client.attach(ROOT, "s").unwrap();
    (client, asked, go)
}

fn attach_slowly(tag: u16, fid: u32, client: &mut Client) {
    let share = name(b"slow");
    client.send(tag, &Request::Attach { fid, auth_fid: flags::NO_FID, user: name(b""), share, uid: 0 });
}

#[test]
fn a_slow_request_stalls_no_other() {
    let host = Host::new();
    let (mut client, asked, go) = slow(&host, Limits::default());
    attach_slowly(7, 5, &mut client);
    asked.recv().unwrap();
    client.create(1, "f", flags::OPEN_READ_WRITE).unwrap();
    client.write(1, 0, b"meanwhile").unwrap();
    go.send(()).unwrap();
    assert_eq!(client.receive().tag, 7);
    client.attributes(5).unwrap();
}

#[test]
fn a_flush_of_a_running_request_is_answered_after_it() {
    let host = Host::new();
    let (mut client, asked, go) = slow(&host, Limits::default());
    attach_slowly(7, 5, &mut client);
    asked.recv().unwrap();
    client.send(8, &Request::Flush { old_tag: 7 });
    client.send(9, &Request::Flush { old_tag: 7 });
    // What comes in between is answered, and shows that the flushes were read.
    client.mkdir(ROOT, b"d", 0o755).unwrap();
    go.send(()).unwrap();
    let tags = [client.receive().tag, client.receive().tag, client.receive().tag];
    assert_eq!(tags, [7, 8, 9]);
    client.attributes(5).unwrap();
}

#[test]
fn a_flush_of_a_waiting_request_has_it_forgotten() {
    let host = Host::new();
    let (mut client, asked, go) = slow(&host, Limits::default().with_threads(1));
    attach_slowly(7, 5, &mut client);
    asked.recv().unwrap();
    // The only thread is taken, so this waits.
    client.send(8, &Request::MakeDirectory { directory: ROOT, name: name(b"forgotten"), mode: 0o755, gid: 0 });
    client.send(9, &Request::Flush { old_tag: 8 });
    assert_eq!(client.receive().tag, 9);
    // The tag is free at once.
    client.send(8, &Request::MakeDirectory { directory: ROOT, name: name(b"made"), mode: 0o755, gid: 0 });
    go.send(()).unwrap();
    let answers = [client.receive(), client.receive()];
    assert_eq!(answers.each_ref().map(|answer| answer.tag), [7, 8]);
    assert!(matches!(answers[1].response(), Response::MakeDirectory { .. }));
    assert!(host.path("made").is_dir() && !host.path("forgotten").exists());
    // And of one that is not there.
    client.send(9, &Request::Flush { old_tag: 1234 });
    assert_eq!(client.receive().tag, 9);
}

#[test]
fn more_requests_than_a_client_may_have_wait_and_are_served_in_the_end() {
    let host = Host::new();
    let limits = Limits::default().with_requests(4).with_threads(2).with_memory(0);
    let (mut client, asked, go) = slow(&host, limits);
    attach_slowly(100, 5, &mut client);
    asked.recv().unwrap();
    for tag in 0..50_u16 {
        let directory = format!("{tag}");
        let name = name(directory.as_bytes());
        client.send(tag, &Request::MakeDirectory { directory: ROOT, name, mode: 0o755, gid: 0 });
    }
    go.send(()).unwrap();
    let mut tags: Vec<u16> = (0..51).map(|_| client.receive().tag).collect();
    tags.sort_unstable();
    assert_eq!(tags, (0..50).chain([100]).collect::<Vec<_>>());
    assert_eq!(fs::read_dir(host.path("")).unwrap().count(), 50);
}

#[test]
fn two_requests_with_one_tag_end_the_session() {
    let host = Host::new();
    let (mut client, asked, go) = slow(&host, Limits::default());
    attach_slowly(7, 5, &mut client);
    asked.recv().unwrap();
    client.send(7, &Request::Clunk { fid: 1 });
    // The connection ends at once; what runs is waited for.
    assert_eq!(client.stream.read(&mut [0]).unwrap(), 0);
    go.send(()).unwrap();
    assert!(matches!(client.ended(), Err(ServeError::TagInUse { tag: 7 })));
}

#[test]
fn a_request_that_hangs_ends_a_session_that_begins_anew_and_releases_when_it_returns() {
    let host = Host::new();
    let limits = Limits::default().with_drain(Duration::from_millis(1));
    let (mut client, asked, go) = slow(&host, limits);
    attach_slowly(7, 5, &mut client);
    asked.recv().unwrap();
    client.send(flags::NO_TAG, &Request::Version { message_size: 8192, version: name(flags::VERSION) });
    assert!(matches!(client.ended(), Err(ServeError::Stuck { .. })));
    drop(go);
}

struct Panics;

impl Exports for Panics {
    fn find(&self, _: &[u8]) -> Option<Arc<Share>> {
        panic!("on purpose")
    }
}

#[test]
fn a_panic_ends_the_session_and_nothing_else() {
    let host = Host::new();
    let mut client = host.connect(Arc::new(Panics), Limits::default());
    client.begin();
    attach_slowly(7, 5, &mut client);
    assert!(matches!(client.ended(), Err(ServeError::Panicked)));
}

fn raw(client: &mut Client, kind: u8, body: &[u8]) -> Result<(), Errno> {
    let header = Header { size: (HEADER_LEN + body.len()) as u32, kind, tag: 1 };
    client.stream.write_all(&[&header.encode()[..], body].concat()).unwrap();
    match client.receive().response() {
        Response::Error { errno } => Err(Errno::from_raw_os_error(errno.cast_signed())),
        _ => Ok(()),
    }
}

#[test]
fn messages_that_make_no_sense_are_answered_with_an_error() {
    let host = Host::new();
    let mut client = host.only_client();
    let long = [&0u32.to_le_bytes()[..], &256u16.to_le_bytes(), &[b'n'; 256], &0u32.to_le_bytes()].concat();
    assert_eq!(raw(&mut client, 76, &long), Err(Errno::NAMETOOLONG));
    let seventeen = [&[0; 4][..], &[1, 0, 0, 0], &17u16.to_le_bytes(), &[0; 34]].concat();
    assert_eq!(raw(&mut client, 110, &seventeen), Err(Errno::INVAL));
    assert_eq!(raw(&mut client, 120, &[0; 3]), Err(Errno::INVAL), "cut");
    assert_eq!(raw(&mut client, 120, &[9; 5]), Err(Errno::INVAL), "too long");
    assert_eq!(raw(&mut client, 100, &[0; 3]), Err(Errno::INVAL), "a version that is cut");
    // Authentication, and what only 9P2000 has.
    for kind in [0, 6, 102, 107, 112, 114, 124, 126, 255] {
        assert_eq!(raw(&mut client, kind, &[]), Err(Errno::OPNOTSUPP), "{kind}");
    }
    let data = [&0u32.to_le_bytes()[..], &[0; 8], &u32::MAX.to_le_bytes(), b"short"].concat();
    assert_eq!(raw(&mut client, 118, &data), Err(Errno::INVAL), "data that are not there");
    client.attributes(ROOT).unwrap();
}

#[test]
fn a_message_of_no_possible_length_ends_the_session() {
    let host = Host::new();
    for size in [0, 6, 1024 * 1024 + 1, u32::MAX] {
        let mut client = host.only_client();
        client.stream.write_all(&Header { size, kind: 120, tag: 1 }.encode()).unwrap();
        let error = client.ended().unwrap_err();
        assert!(matches!(error, ServeError::BadSize { size: told, most: 1_048_576 } if told == size), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever comes: it ends, and nothing is left, nor is anything outside touched.
    #[test]
    fn any_bytes_end_in_order(bytes in prop::collection::vec(any::<u8>(), 0..2000), frames: bool) {
        let host = Host::new();
        fs::write(host.path("f"), "x").unwrap();
        let outside = host.snapshot();
        let before = host.descriptors();
        let share = open_share(host.options());
        let mut client = host.client(&share);
        client.walk(1, "f").unwrap();
        let mut reader = client.stream.try_clone().unwrap();
        let reading = std::thread::spawn(move || drop(reader.read_to_end(&mut Vec::new())));
        if frames {
            // As whole messages with fids and tags that mean something.
            for (n, piece) in bytes.chunks(24).enumerate() {
                let kinds = [8, 12, 14, 16, 18, 20, 22, 24, 26, 30, 32, 40, 50, 52, 54, 70, 72, 74, 76, 104, 108, 110, 116, 118, 120, 122];
                let kind = kinds[usize::from(piece[0]) % kinds.len()];
                let body = [&[piece[0] & 1, 0, 0, 0], &piece[1..]].concat();
                let size = (HEADER_LEN + body.len()) as u32;
                let _ = client.stream.write_all(&Header { size, kind, tag: n as u16 }.encode());
                let _ = client.stream.write_all(&body);
            }
        } else {
            let _ = client.stream.write_all(&bytes);
        }
        let _ = client.stream.shutdown(std::net::Shutdown::Write);
        let _ = client.ended();
        reading.join().unwrap();
        drop(share);
        prop_assert_eq!(host.descriptors(), before);
        prop_assert_eq!(host.snapshot(), outside);
    }
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
