//! What a VM may not leave on the host: processes, mounts, control groups, sockets, files, threads, network interfaces.
//!
//! Tests run at the same time, so only what carries the VM's id or lies in its state directory is looked for, wherever
//! things have names; network interfaces and namespaces, which no test makes, are compared as a whole.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A check that was begun before a VM came to exist.
#[derive(Clone, Debug)]
pub struct LeakCheck {
    id: String,
    state_root: PathBuf,
    network: BTreeSet<String>,
}

impl LeakCheck {
    /// Begins a check for the VM `id`, whose state directory is made in `state_root`.
    pub fn begin(id: &str, state_root: &Path) -> Self {
        Self { id: id.to_owned(), state_root: state_root.to_owned(), network: network() }
    }

    /// What is left, in words. Threads get a moment to end; all else must be gone.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left = self.host_leftovers();
        let threads = settle(|| threads(&self.id));
        left.extend(threads.into_iter().map(|name| format!("thread {name}")));
        left
    }

    /// What is left besides what this process holds itself: for owners that were killed.
    pub fn host_leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        let all = processes(&self.id).into_iter().chain(helpers(&self.id));
        left.extend(all.map(|process| format!("process {process}")));
        let root = self.state_root.display().to_string();
        let named = |line: &&str| mentions(line, &self.id) || line.contains(&root);
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        left.extend(read("/proc/self/mountinfo").lines().filter(named).map(|line| format!("mount {line}")));
        left.extend(read("/proc/net/unix").lines().filter(named).map(|line| format!("socket {line}")));
        left.extend(
            cgroups(Path::new("/sys/fs/cgroup"), &format!("uvm-{}.", self.id))
                .into_iter()
                .map(|p| format!("cgroup {p}")),
        );
        let entries = fs::read_dir(&self.state_root).into_iter().flatten().flatten();
        left.extend(entries.map(|entry| format!("state {}", entry.path().display())));
        let temporary = fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
        left.extend(
            temporary
                .filter(|entry| entry.file_name().to_str().is_some_and(|name| mentions(name, &self.id)))
                .map(|entry| format!("temporary file {}", entry.path().display())),
        );
        left.extend(network().difference(&self.network).map(|name| format!("network {name}")));
        left
    }

    /// Passes if nothing is left.
    ///
    /// # Errors
    /// All that is left.
    pub fn pass(&self) -> Result<(), Leak> {
        let left = self.leftovers();
        if left.is_empty() { Ok(()) } else { Err(Leak { id: self.id.clone(), left }) }
    }
}

/// Something is left of a VM.
#[derive(Debug)]
pub struct Leak {
    id: String,
    left: Vec<String>,
}

impl std::fmt::Display for Leak {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VM {} left behind:\n  {}", self.id, self.left.join("\n  "))
    }
}

impl std::error::Error for Leak {}

/// Whether `text` names the VM `id`, and not one whose id only begins or ends so.
fn mentions(text: &str, id: &str) -> bool {
    let part_of_id = |c: char| c.is_ascii_alphanumeric() || c == '-';
    text.match_indices(id).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + id.len()..]);
        (!before.ends_with(part_of_id) || before.ends_with("uvm-")) && !after.starts_with(part_of_id)
    })
}

/// The QEMU of the VM `id`: its process, and what it was started with.
pub fn processes(id: &str) -> Vec<String> {
    running("qemu-system", id)
}

/// The processes that serve shares to the VM `id`.
pub fn helpers(id: &str) -> Vec<String> {
    running("uvm-fs", id)
}

/// Processes of this program with `id` in an argument.
fn running(program: &str, id: &str) -> Vec<String> {
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().into_string() else { continue };
        if pid == own || !pid.bytes().all(|b| b.is_ascii_digit()) {
            continue;
        }
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let text = String::from_utf8_lossy(&arguments).replace('\0', " ");
        if text.contains(program) && mentions(&text, id) {
            found.push(format!("{pid}: {}", text.chars().take(120).collect::<String>()));
        }
    }
    found
}

/// Threads of this process that belong to the VM `id`.
fn threads(id: &str) -> Vec<String> {
    // The end of the id: the kernel keeps 15 bytes of a name.
    let name = format!("uvm-{}", id.get(id.len().saturating_sub(11)..).unwrap_or(id));
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    tasks
        .filter_map(|task| fs::read_to_string(task.path().join("comm")).ok())
        .map(|comm| comm.trim_end().to_owned())
        .filter(|comm| *comm == name)
        .collect()
}

fn settle(look: impl Fn() -> Vec<String>) -> Vec<String> {
    let began = Instant::now();
    loop {
        let left = look();
        if left.is_empty() || began.elapsed() > Duration::from_secs(5) {
            return left;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Control groups beneath a directory whose names begin so.
fn cgroups(directory: &Path, begins: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if entry.file_name().to_string_lossy().starts_with(begins) {
            found.push(entry.path().display().to_string());
        }
        found.extend(cgroups(&entry.path(), begins));
    }
    found
}

fn network() -> BTreeSet<String> {
    let names = |path: &str| {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.path().display().to_string()).collect::<Vec<_>>()
    };
    names("/sys/class/net").into_iter().chain(names("/run/netns")).collect()
}

#[cfg(test)]
mod tests {
    use super::mentions;

    #[test]
    fn one_vm_is_not_taken_for_another() {
        assert!(mentions("-name cli-7-1,debug-threads=on", "cli-7-1"));
        assert!(mentions("/run/uvm/cli-7-1/lock", "cli-7-1"));
        assert!(mentions("uvm-cli-7-1.8d3a2c51", "cli-7-1"), "a control group");
        for other in ["-name cli-7-12,debug-threads=on", "-name my-cli-7-1", "cli-7-1-2"] {
            assert!(!mentions(other, "cli-7-1"), "{other}");
        }
    }
}
