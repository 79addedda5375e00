//! What comes over the transport besides the bridge: entropy and the time.

use std::fs::OpenOptions;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, Timespec};
use tokio::io::AsyncReadExt;
use uvm_mux::{HelloInfo, Mux};

use crate::failure::with_causes;
use crate::flags::Level;
use crate::link::{Link, Stream};
use crate::log::Log;
use crate::sys;

/// How long the host may take to give boot entropy.
const ENTROPY_DEADLINE: Duration = Duration::from_secs(10);
/// The most that is read of it; the protocol says 512 bytes.
const ENTROPY_MAX: u64 = 512;

/// Reads boot entropy from `port` and gives it to the kernel.
pub(crate) async fn read_entropy(link: Link, port: u32, log: Log) {
    let attempt = async {
        link.up().await.map_err(io::Error::other)?;
        let stream = link.dial(port).await.map_err(io::Error::other)?;
        credit(&read(stream).await?)
    };
    let result =
        tokio::time::timeout(ENTROPY_DEADLINE, attempt).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    match result {
        Ok(()) => log.add(Level::Debug, "boot entropy credited", &[("port", &port)]),
        Err(e) => {
            let cause = e.get_ref().map_or_else(|| e.to_string(), |e| with_causes(e));
            log.add(Level::Warning, "no boot entropy from the host", &[("port", &port), ("error", &cause)]);
        }
    }
}

async fn read(stream: Stream) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.take(ENTROPY_MAX).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

fn credit(bytes: &[u8]) -> io::Result<()> {
    let random = OpenOptions::new().write(true).open("/dev/random")?;
    sys::add_entropy(&random, bytes)
}

/// Takes what each new owner says of itself: its clock and fresh entropy, before anything else runs in a clone.
pub(crate) async fn follow_owner(mux: Mux, log: Log) {
    let mut link = mux.link();
    loop {
        if matches!(*link.borrow_and_update(), uvm_mux::Link::Up { .. })
            && let Some(hello) = mux.hello()
        {
            heed(&hello, &log);
        }
        if link.changed().await.is_err() {
            return;
        }
    }
}

fn heed(hello: &HelloInfo, log: &Log) {
    if let Err(e) = credit(&hello.entropy) {
        log.add(Level::Warning, "cannot credit the owner's entropy", &[("error", &e)]);
    }
    if let Some(time) = correction(SystemTime::now(), hello.clock_ns)
        && let Err(e) = rustix::time::clock_settime(ClockId::Realtime, time)
    {
        log.add(Level::Warning, "cannot set the clock", &[("error", &e.to_string())]);
    }
}

/// How far the clock may be behind before it is set.
const TOLERANCE: Duration = Duration::from_secs(1);

/// The time to set: the owner's, if ours is behind. The greeting may be older than its arrival (the guest had to boot), so
/// a clock that is ahead of it is right; one that is behind was stopped, in a VM that was saved.
fn correction(now: SystemTime, owner_ns: u64) -> Option<Timespec> {
    let owner = Duration::from_nanos(owner_ns);
    let ours = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    (owner > ours + TOLERANCE).then(|| Timespec {
        tv_sec: owner.as_secs().try_into().unwrap_or_default(),
        tv_nsec: owner.subsec_nanos().into(),
    })
}

/// Keeps a stream to `port` open for as long as the agent lives: a standard stream that it was given and has no use for.
pub(crate) async fn hold(link: Link, port: u32, log: Log) {
    if link.up().await.is_err() {
        return;
    }
    match link.dial(port).await {
        Ok(stream) => {
            let _stream = stream;
            std::future::pending::<()>().await;
        }
        Err(e) => log.add(Level::Warning, "a standard stream is not connected", &[("error", &with_causes(&e))]),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::flags::AgentFlags;
    use crate::test_link;

    #[test]
    fn only_a_clock_that_was_stopped_is_set() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let ns = |seconds: u64| seconds * 1_000_000_000 + 5;
        assert!(correction(now, ns(999_000)).is_none(), "the greeting is old");
        assert!(correction(now, ns(1_000_000)).is_none(), "they agree");
        let set = correction(now, ns(1_000_100)).expect("ours was stopped");
        assert_eq!((set.tv_sec, set.tv_nsec), (1_000_100, 5));
    }

    #[tokio::test]
    async fn entropy_is_read_to_its_end_over_either_carrier_and_no_further() {
        for mut pair in test_link::pairs(1).await {
            let host = tokio::spawn(async move {
                // More than the protocol says, and an end that is not a close.
                pair.host.write_all(&[7; 600]).await.expect("written");
                pair.host
            });
            assert_eq!(read(pair.guest).await.expect("read"), [7; 512]);
            drop(host.await.expect("joined"));
        }
        for mut pair in test_link::pairs(1).await {
            pair.host.write_all(b"short").await.expect("written");
            pair.host.shutdown().await.expect("closed");
            assert_eq!(read(pair.guest).await.expect("read"), b"short");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_does_not_close_or_listen_is_a_warning_and_not_the_end() {
        let (link, dir) = test_link::sockets();
        for (listens, cause) in [(true, "timed out"), (false, "No such file")] {
            let log = Log::new(&AgentFlags::default());
            let path = dir.path().join("1");
            let listener = listens.then(|| tokio::net::UnixListener::bind(&path).expect("free"));
            read_entropy(link.clone(), 1, log.clone()).await;
            let entry = log.try_next().expect("a warning");
            assert!(entry.contains("no boot entropy") && entry.contains(cause), "{entry}");
            assert_eq!(listener.is_some(), listens);
            // As the host's listener goes, so does its name.
            let _ = std::fs::remove_file(&path);
        }
    }
}
