//! Bringing processors online.
//!
//! All are present, one was booted: the others come online here, faster than the kernel would have done it, and while the
//! bridge is being connected.

use std::fs;
use std::io;
use std::path::Path;
use std::thread;

use tokio::sync::oneshot;

use crate::flags::Level;
use crate::log::Log;

const CPUS: &str = "/sys/devices/system/cpu";

/// Brings all processors online, on a thread of its own. The answer comes when that is done.
pub(crate) fn bring_online(log: Log) -> oneshot::Receiver<()> {
    let (done, receiver) = oneshot::channel();
    if fs::read_to_string(Path::new(CPUS).join("offline")).is_ok_and(|list| list.trim().is_empty()) {
        // Nobody can have dropped the other end yet.
        let _ = done.send(());
        return receiver;
    }
    let work = move || {
        if let Err(e) = bring_online_in(Path::new(CPUS)) {
            log.add(Level::Warning, "not all processors came online", &[("error", &e)]);
        }
        // Whoever does not wait any more does not want to know.
        let _ = done.send(());
    };
    if thread::Builder::new().name("uvm-cpus".into()).stack_size(64 * 1024).spawn(work).is_err() {
        // The sender is dropped: the receiver sees the end, and the processors stay offline.
        crate::log::console("no thread to bring processors online");
    }
    receiver
}

fn bring_online_in(cpus: &Path) -> io::Result<()> {
    let mut outcome = Ok(());
    for entry in fs::read_dir(cpus)? {
        let online = entry?.path().join("online");
        // The boot processor has no such file.
        if fs::read_to_string(&online).is_ok_and(|text| text.trim() == "0")
            && let Err(e) = fs::write(&online, "1")
        {
            outcome = Err(io::Error::new(e.kind(), format!("{}: {e}", online.display())));
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_are_offline_are_told_to_come() {
        let cpus = tempfile::tempdir().expect("a directory");
        for (name, online) in [("cpu0", None), ("cpu1", Some("0\n")), ("cpu2", Some("1\n")), ("cpuidle", None)] {
            fs::create_dir(cpus.path().join(name)).expect("made");
            if let Some(online) = online {
                fs::write(cpus.path().join(name).join("online"), online).expect("written");
            }
        }
        bring_online_in(cpus.path()).expect("done");
        assert_eq!(fs::read_to_string(cpus.path().join("cpu1/online")).expect("read"), "1");
        assert_eq!(fs::read_to_string(cpus.path().join("cpu2/online")).expect("read"), "1\n");
        assert!(!cpus.path().join("cpu0/online").exists());
    }
}
