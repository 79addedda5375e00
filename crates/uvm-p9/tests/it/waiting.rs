//! Requests that wait, hang or panic: no other waits for them, and a flush finds them.

use std::fs;
use std::io::Read;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use uvm_p9::protocol::{Request, Response, flags};
use uvm_p9::{Exports, Limits, ServeError, Share};

use crate::client::{Client, Host, ROOT, name, open_share};

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

/// Closing a file takes as long as the file system likes, and the runtime may be that of all shares of a VM.
#[test]
fn the_files_of_a_client_that_goes_are_closed_by_its_own_threads() {
    let host = Host::new();
    let limits = Limits::default().with_threads(1).with_drain(Duration::from_millis(10));
    let (mut client, asked, go) = slow(&host, limits);
    client.create(1, "f", flags::OPEN_READ_WRITE).unwrap();
    let before = host.descriptors();
    attach_slowly(7, 5, &mut client);
    asked.recv().unwrap();
    client.hang_up().unwrap();
    assert_eq!(host.descriptors(), before, "the only thread is taken");
    go.send(()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    // The root's is the share's own, until that is dropped, too.
    while host.descriptors() > 0 {
        assert!(Instant::now() < deadline, "{} descriptors are left", host.descriptors());
        std::thread::yield_now();
    }
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
