//! Descriptors of the process: what the device takes, and what happens when there are none. One test, since the process has
//! one limit and one table.
#![cfg(target_os = "linux")]

#[expect(dead_code, reason = "what other tests need of it")]
mod driver;

use std::error::Error;
use std::time::{Duration, Instant};

use driver::{CID, Guest, connection, start};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uvm_vsock::header::Op;
use uvm_vsock::{Config, Down, Vsock, VsockError};

const STREAMS: u32 = 1500;

/// Descriptors and threads of this process.
fn held() -> (usize, usize) {
    let count = |path| std::fs::read_dir(path).expect("there").count();
    (count("/proc/self/fd"), count("/proc/self/task"))
}

fn comes_to(wanted: (usize, usize), what: &str) {
    let began = Instant::now();
    while held() != wanted {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}: {:?} instead of {wanted:?}", held());
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn limit(descriptors: Option<u64>) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: descriptors.or(maximum), maximum }).expect("allowed");
}

/// The lowest limit that lets this process open `more` descriptors: what is free below the highest counts.
fn room_for(more: usize) -> u64 {
    let files: Vec<_> = (0..more).map(|_| std::fs::File::open("/dev/null").expect("there")).collect();
    let highest = files.iter().map(std::os::fd::AsRawFd::as_raw_fd).max();
    highest.map_or(3, |fd| u64::from(fd.cast_unsigned()) + 1)
}

async fn many_streams_take_none(config: Config) {
    let (vsock, mut guest) = start(config.with_max_streams(STREAMS).with_backlog(STREAMS));
    let mut listener = vsock.listen(5).expect("free");
    let before = held();
    for port in 0..STREAMS {
        guest.dial(5, port);
    }
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        streams.push(listener.accept().await.expect("it lives"));
    }
    assert_eq!(held(), before);
    for (port, stream) in (0..STREAMS).zip(&mut streams) {
        guest.say(Op::Data, 5, port, &port.to_le_bytes());
        assert_eq!((stream.read_u32_le().await.expect("it goes on"), stream.ports()), (port, (5, port)));
        stream.write_all(&(!port).to_le_bytes()).await.expect("it goes on");
        let (header, payload) = guest.receive();
        assert_eq!((header.to_port, payload), (port, (!port).to_le_bytes().to_vec()));
    }
    guest.say(Op::Request, 5, STREAMS, &[]);
    assert_eq!(guest.receive().0.op, Some(Op::Reset), "one too many");
    assert!(matches!(vsock.dial(7).await, Err(VsockError::TooManyStreams { limit: STREAMS })));
    assert_eq!(held(), before);
}

#[tokio::test]
async fn streams_take_none_a_device_gives_all_back_and_without_them_it_says_so() {
    let config = Config::new(CID).expect("allowed");
    limit(None);
    let nothing = held();
    many_streams_take_none(config).await;
    comes_to(nothing, "after a device");

    // Fewer than a device needs, one by one.
    let mut refused = 0;
    let vsock = loop {
        let (listener, connection) = connection();
        limit(Some(room_for(refused)));
        let served = Vsock::serve(config, listener);
        limit(None);
        match served {
            Ok(vsock) => break (vsock, connection),
            Err(error) => {
                let cause = error.source().map(ToString::to_string).unwrap_or_default();
                assert!(matches!(error, VsockError::Start { .. }) && cause.contains("os error 24"), "{error}: {cause}");
            }
        }
        drop(connection);
        comes_to(nothing, "after a device that did not start");
        refused += 1;
        assert!(refused < 64, "it never starts");
    };
    assert!(refused > 0, "a device takes descriptors");

    // It started; the guest's memory and events come as descriptors, too.
    let (vsock, connection) = vsock;
    let guest = Guest::attach(connection);
    let mut link = vsock.link();
    limit(Some(room_for(1) - 1));
    let driver = std::thread::spawn(move || {
        let mut guest = guest;
        guest.try_start_driver()
    });
    tokio::time::timeout(Duration::from_secs(60), link.wait_for(|_| vsock.dead().is_some()))
        .await
        .expect("in time")
        .ok();
    limit(None);
    assert!(matches!(vsock.dead(), Some(Down::Protocol { .. } | Down::Detached)), "{:?}", vsock.dead());
    assert!(driver.join().expect("no panic").is_err(), "the VM's process is told");
    drop((vsock, link));
    comes_to(nothing, "after a device whose guest's memory could not be had");
}
