//! How many VMs tests run at the same time, over all test programs of this user: a file lock each.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

/// VMs at the same time. More only get in each other's way on small machines; a campaign may ask for more by
/// `UVM_TEST_SLOTS`.
const SLOTS: usize = 3;
/// How long a test may wait for its turn. A whole test run takes less.
const DEADLINE: Duration = Duration::from_secs(3600);

/// The right to run a VM, until it is dropped or its holder dies.
#[derive(Debug)]
pub struct Slot(#[expect(dead_code, reason = "it holds the lock")] Vec<File>);

impl Slot {
    /// Waits for `count` slots, at most all there are. Blocking.
    ///
    /// # Errors
    /// The lock files cannot be made, or nobody gave way within an hour.
    pub fn take(count: usize) -> io::Result<Self> {
        let directory = directory();
        std::fs::create_dir_all(&directory)?;
        let began = Instant::now();
        // Whoever wants several takes them under this lock, or two could wait for each other.
        let gate = File::create(directory.join("gate"))?;
        lock(&gate, began)?;
        let slots = std::env::var("UVM_TEST_SLOTS").ok().and_then(|n| n.parse().ok()).unwrap_or(SLOTS).max(1);
        let count = count.clamp(1, slots);
        let mut held = Vec::new();
        while held.len() < count {
            for index in 0..slots {
                let file = OpenOptions::new()
                    .create(true)
                    .write(true)
                    .truncate(false)
                    .open(directory.join(index.to_string()))?;
                if held.len() < count && rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                    held.push(file);
                }
            }
            wait(began)?;
        }
        Ok(Self(held))
    }

    /// As [`take`](Self::take), from async code.
    ///
    /// # Errors
    /// As there.
    pub async fn take_async(count: usize) -> io::Result<Self> {
        tokio::task::spawn_blocking(move || Self::take(count)).await.map_err(io::Error::other)?
    }
}

fn directory() -> PathBuf {
    std::env::temp_dir().join(format!("uvm-test-slots-{}", rustix::process::geteuid().as_raw()))
}

fn lock(file: &File, began: Instant) -> io::Result<()> {
    while rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive).is_err() {
        wait(began)?;
    }
    Ok(())
}

fn wait(began: Instant) -> io::Result<()> {
    if began.elapsed() > DEADLINE {
        return Err(io::Error::new(io::ErrorKind::TimedOut, format!("no turn to run a VM within {DEADLINE:?}")));
    }
    std::thread::sleep(Duration::from_millis(20));
    Ok(())
}
