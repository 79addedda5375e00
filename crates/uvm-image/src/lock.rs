//! One builder at a time for each thing that is built.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::error::{ImageError, Intent, IoContext};
use crate::progress::{Progress, Step};
use crate::store::ImageStore;

/// The right to make one thing, held until dropped. The kernel takes it back when the holder dies, however it dies.
///
/// The lock file stays: removing it would let two processes hold "the" lock on two files.
pub(crate) struct BuildLock {
    file: File,
}

impl BuildLock {
    /// Waits for the lock `name`; `what` is the thing made under it, for messages.
    pub(crate) fn acquire(store: &ImageStore, name: &str, what: &str) -> Result<Self, ImageError> {
        Self::acquire_within(store, name, what, store.deadlines.lock)
    }

    /// As [`acquire`](Self::acquire), for what is known to take longer.
    pub(crate) fn acquire_within(
        store: &ImageStore,
        name: &str,
        what: &str,
        deadline: Duration,
    ) -> Result<Self, ImageError> {
        let dir = store.data_dir.locks();
        fs::create_dir_all(&dir).at(Intent::Create, &dir)?;
        let path = dir.join(format!("{name}.lock"));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(&path)
            .at(Intent::Create, &path)?;
        let began = Instant::now();
        let mut told = false;
        loop {
            store.cancel.check()?;
            if try_lock(&file, FlockOperation::NonBlockingLockExclusive).at(Intent::Lock, &path)? {
                break;
            }
            if began.elapsed() >= deadline {
                let holder = holder(&path);
                return Err(ImageError::LockTimeout { what: what.to_owned(), holder, waited: began.elapsed() });
            }
            if !told {
                let detail = format!("{what}, which {} is making", holder(&path));
                tracing::info!("{} {detail}", Step::Waiting);
                store.progress.send(Progress::Started { step: Step::Waiting, detail });
                told = true;
            }
            pause(deadline.saturating_sub(began.elapsed()));
        }
        if told {
            store.progress.send(Progress::Finished { step: Step::Waiting });
        }
        let lock = Self { file };
        lock.sign().at(Intent::Write, &path)?;
        Ok(lock)
    }

    /// A second owner of the lock, to be a child's standard input: a child that outlives this process (which may be
    /// killed) keeps the lock until it ends, and reads nothing from it, because the file's offset is at its end.
    pub(crate) fn for_child(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Writes who holds the lock into it.
    fn sign(&self) -> io::Result<()> {
        let mut file = &self.file;
        let program = std::env::current_exe().ok();
        let name = program.as_deref().and_then(Path::file_name).map_or("?".into(), |name| name.to_string_lossy());
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        writeln!(file, "process {} ({name})", std::process::id())
    }
}

/// Takes a lock with an operation that does not block; `false` if another has it.
pub(crate) fn try_lock(file: &File, operation: FlockOperation) -> io::Result<bool> {
    match flock(file, operation) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Waits until it is worth trying again, but no longer than `at_most`.
pub(crate) fn pause(at_most: Duration) {
    sleep(POLL.min(at_most));
}

/// Who signed the lock last; a process that has just taken it may not have signed yet.
fn holder(path: &Path) -> String {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(256).read_to_string(&mut text));
    match text.trim() {
        "" => "another process".into(),
        _ if read.is_err() => "another process".into(),
        signed => signed.into(),
    }
}

const POLL: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use crate::data_dir::DataDir;
    use crate::progress::{CancelFlag, ProgressSink};

    fn store(dir: &tempfile::TempDir, lock: Duration) -> ImageStore {
        let mut store = ImageStore::new(DataDir::at(dir.path()).unwrap());
        store.deadlines.lock = lock;
        store
    }

    #[test]
    fn a_second_builder_gives_up_in_time_and_names_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let _held = BuildLock::acquire(&store(&dir, Duration::ZERO), "x", "boot files x").unwrap();
        let error = BuildLock::acquire(&store(&dir, Duration::from_millis(60)), "x", "boot files x").err().unwrap();
        let text = error.to_string();
        assert!(text.contains("boot files x"), "{text}");
        assert!(text.contains(&format!("process {} (", std::process::id())), "{text}");
        BuildLock::acquire(&store(&dir, Duration::ZERO), "y", "another thing").expect("other names are free");
    }

    #[test]
    fn a_waiting_builder_says_so_and_goes_on_when_the_first_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let held = BuildLock::acquire(&store(&dir, Duration::ZERO), "x", "it").unwrap();
        let (sender, events) = mpsc::channel();
        let waiting = store(&dir, Duration::from_secs(60))
            .with_progress(ProgressSink::new(move |event| sender.send(event).unwrap()));
        let waiter = thread::spawn(move || BuildLock::acquire(&waiting, "x", "it").map(drop));
        assert!(matches!(events.recv().unwrap(), Progress::Started { step: Step::Waiting, .. }));
        drop(held);
        waiter.join().unwrap().unwrap();
        assert_eq!(events.recv().unwrap(), Progress::Finished { step: Step::Waiting });
    }

    #[test]
    fn waiting_can_be_cancelled() {
        let dir = tempfile::tempdir().unwrap();
        let _held = BuildLock::acquire(&store(&dir, Duration::ZERO), "x", "it").unwrap();
        let cancel = CancelFlag::default();
        let waiting = store(&dir, Duration::from_secs(60)).with_cancel(cancel.clone());
        let waiter = thread::spawn(move || BuildLock::acquire(&waiting, "x", "it").map(drop));
        cancel.cancel();
        assert!(matches!(waiter.join().unwrap(), Err(ImageError::Cancelled)));
    }

    #[test]
    fn a_child_keeps_the_lock_of_its_dead_parent() {
        let dir = tempfile::tempdir().unwrap();
        let held = BuildLock::acquire(&store(&dir, Duration::ZERO), "x", "it").unwrap();
        let mut child = std::process::Command::new("sh")
            .args(["-c", "read line && exit 9; exec sleep 60"])
            .stdin(held.for_child().unwrap())
            .spawn()
            .unwrap();
        drop(held);
        BuildLock::acquire(&store(&dir, Duration::from_millis(60)), "x", "it").err().expect("the child holds it");
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.code(), None, "it read nothing from the lock file and was killed in its sleep: {status}");
        BuildLock::acquire(&store(&dir, Duration::from_secs(5)), "x", "it").unwrap();
    }
}
