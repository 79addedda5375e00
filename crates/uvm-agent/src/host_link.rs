//! What happens over the transport besides the bridge: entropy, clock, log.

use std::fs::OpenOptions;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, Timespec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uvm_mux::{HelloInfo, Link, Mux};

use crate::init_line::Level;
use crate::log::{self, Log};
use crate::sys;

/// How long the host may take to give boot entropy.
const ENTROPY_DEADLINE: Duration = Duration::from_secs(10);
/// The most that is read of it; the protocol says 512 bytes.
const ENTROPY_MAX: u64 = 512;

/// Reads boot entropy from `port` and gives it to the kernel.
pub(crate) async fn read_entropy(mux: Mux, port: u32, log: Log) {
    let read = async {
        mux.up().await.map_err(io::Error::other)?;
        let stream = mux.dial(port).await.map_err(io::Error::other)?;
        let mut bytes = Vec::new();
        stream.take(ENTROPY_MAX).read_to_end(&mut bytes).await?;
        credit(&bytes)
    };
    let result =
        tokio::time::timeout(ENTROPY_DEADLINE, read).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    if let Err(e) = result {
        log.add(Level::Warning, "no boot entropy from the host", &[("port", &port), ("error", &e)]);
    }
}

fn credit(bytes: &[u8]) -> io::Result<()> {
    let random = OpenOptions::new().write(true).open("/dev/random")?;
    sys::add_entropy(&random, bytes)
}

/// Takes what each new owner says of itself: its clock and fresh entropy, before anything else runs in a clone.
pub(crate) async fn follow_owner(mux: Mux, log: Log) {
    let mut link = mux.link();
    loop {
        if matches!(*link.borrow_and_update(), Link::Up { .. })
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

/// Between attempts to hand the log on.
const PAUSE: Duration = Duration::from_millis(100);
/// When nobody listens, the pause grows up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Sends the log to `port`, for ever: a connection that is lost is made again, and no entry is lost with it that was not
/// handed on.
pub(crate) async fn send_log(mux: Mux, port: u32, log: Log) {
    let mut pause = PAUSE;
    loop {
        if mux.up().await.is_err() {
            return;
        }
        if let Ok(mut stream) = mux.dial(port).await {
            pause = PAUSE;
            loop {
                let line = log.next().await;
                if stream.write_all(line.as_bytes()).await.is_err() || stream.flush().await.is_err() {
                    log.put_back(line);
                    break;
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Prints the log on the console: the host wants none of it.
pub(crate) async fn print_log(log: Log) {
    loop {
        log::console(log.next().await.trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init_line::AgentFlags;
    use crate::test_link::link;

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
    async fn a_lost_log_connection_is_made_again_and_loses_no_entry() {
        let (host, guest) = link().await;
        let log = Log::new(&AgentFlags::default());
        let mut listener = host.listen(109).expect("free");
        tokio::spawn(send_log(guest, 109, log.clone()));
        let mut first = listener.accept().await.expect("accepted");
        log.add(Level::Info, "one", &[]);
        let mut buffer = [0; 4096];
        let count = first.read(&mut buffer).await.expect("read");
        assert!(String::from_utf8_lossy(&buffer[..count]).contains("one"));
        drop(first);
        // The entry that finds the connection cut comes on the next one.
        tokio::time::sleep(Duration::from_millis(20)).await;
        log.add(Level::Info, "two", &[]);
        log.add(Level::Info, "three", &[]);
        let mut second = listener.accept().await.expect("accepted again");
        let mut text = String::new();
        while !text.contains("three") {
            let count = second.read(&mut buffer).await.expect("read");
            assert_ne!(count, 0);
            text += &String::from_utf8_lossy(&buffer[..count]);
        }
        assert!(text.contains("two"), "{text}");
    }
}
