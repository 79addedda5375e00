//! Removing what VMs without an owner left.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal};

use super::StateRoot;
use super::dir::{Holder, Orphan, Part};
use super::journal::HostObject;
use crate::cgroup;

/// One VM's leftovers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reclaimed {
    /// The VM's id.
    pub id: String,
    /// What was written down of it, in words.
    pub objects: Vec<String>,
    /// Why something could not be removed. The state directory is kept then, for the next attempt.
    pub error: Option<String>,
}

/// Removes what is left of every VM in `root` whose owner is gone; with `dry_run` only tells, and writes nothing. Blocking:
/// milliseconds, or up to seconds where processes have to be killed.
///
/// # Errors
/// `root` cannot be read or locked. What goes wrong with one VM is told in its [`Reclaimed::error`].
pub fn gc(root: &StateRoot, dry_run: bool) -> io::Result<Vec<Reclaimed>> {
    let mut all = Vec::new();
    let mut tell = |id: &str, objects: Vec<String>, result: io::Result<()>| {
        all.push(Reclaimed { id: id.to_owned(), objects, error: result.err().map(|e| e.to_string()) });
    };
    let entries = root.entries()?;
    for id in &entries.vms {
        let path = root.path().join(id);
        let turn = root.turn()?;
        let holder = Holder::of(&path);
        // What nobody owned is locked now: nobody else needs to wait.
        drop(turn);
        match holder {
            Ok(Holder::Nobody(orphan)) => {
                let objects = orphan.objects.iter().map(HostObject::describe).collect();
                tell(id, objects, if dry_run { Ok(()) } else { reclaim(&path, orphan) });
            }
            Ok(Holder::Lives { .. } | Holder::NoVm) => {}
            Err(e) => tell(id, Vec::new(), Err(e)),
        }
    }
    for (name, id) in &entries.parts {
        let path = root.path().join(name);
        // Kept: who makes one has the turn and may not have made its lock.
        let _turn = root.turn()?;
        match Part::abandoned(&path) {
            Ok(Some(part)) => {
                let objects = vec!["half of a state directory".to_owned()];
                tell(id, objects, if dry_run { Ok(()) } else { part.discard(&path) });
            }
            Ok(None) => {}
            Err(e) => tell(id, Vec::new(), Err(io::Error::new(e.kind(), format!("{name}: {e}")))),
        }
    }
    Ok(all)
}

/// Removes the leftovers that `orphan` lists, and then its directory at `path`.
pub(super) fn reclaim(path: &Path, orphan: Orphan) -> io::Result<()> {
    remove_objects(&orphan.objects)?;
    orphan.remove(path)
}

/// Removes what is written down, the last made first. Goes on after an error and tells the first.
pub(super) fn remove_objects(objects: &[HostObject]) -> io::Result<()> {
    let mut first_error = Ok(());
    for object in objects.iter().rev() {
        let result = match object {
            HostObject::Owner { .. } => Ok(()),
            HostObject::Process { token } => kill_by_token(token),
            HostObject::Cgroup { path } => cgroup::remove(path),
            HostObject::File { path } => match fs::remove_file(path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
                result => result,
            },
        };
        if let (Ok(()), Err(e)) = (&first_error, result) {
            first_error = Err(io::Error::new(e.kind(), format!("{}: {e}", object.describe())));
        }
    }
    first_error
}

/// How long killed processes may take to go.
const KILL_DEADLINE: Duration = Duration::from_secs(5);

/// Kills every process with `token` among its arguments and waits until they are gone.
fn kill_by_token(token: &str) -> io::Result<()> {
    let began = Instant::now();
    loop {
        let found = processes_with(token)?;
        if found.is_empty() {
            return Ok(());
        }
        if began.elapsed() > KILL_DEADLINE {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{found:?} outlived SIGKILL by {KILL_DEADLINE:?}"),
            ));
        }
        for pid in found {
            // A pidfd, then a second look: the number may have changed hands since the list was made.
            let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { continue };
            if has_token(pid, token) {
                match rustix::process::pidfd_send_signal(&pidfd, Signal::KILL) {
                    Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                    Err(e) => return Err(e.into()),
                }
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn processes_with(token: &str) -> io::Result<Vec<Pid>> {
    let own = rustix::process::getpid();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let pid = name.to_str().and_then(|n| n.parse().ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid.filter(|&pid| pid != own && has_token(pid, token)) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Whether one of the arguments is exactly `token`. A zombie has no arguments: it is gone but for its parent.
fn has_token(pid: Pid, token: &str) -> bool {
    let arguments = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    arguments.split(|&b| b == 0).any(|argument| argument == std::ffi::OsStr::new(token).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_by_its_whole_argument_and_killed() {
        let token = format!("token-{}", std::process::id());
        // A shell that waits by itself, without a child that would outlive it.
        let sleeper = |argument: &str| {
            let mut command = std::process::Command::new("/bin/sh");
            command.args(["-c", "read line", argument]).stdin(std::process::Stdio::piped()).spawn().expect("sh")
        };
        let (mut victim, mut bystander) = (sleeper(&token), sleeper(&format!("{token}-other")));
        // Reap as its parent must, or it would stay a zombie.
        let reaper = std::thread::spawn(move || victim.wait());
        kill_by_token(&token).expect("killed");
        reaper.join().expect("joined").expect("waited");
        assert!(bystander.try_wait().expect("waited").is_none());
        bystander.kill().expect("killed");
        bystander.wait().expect("waited");
    }
}
