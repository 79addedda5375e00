//! Tests that change their process: each has one of its own.

use std::process::{Command, Stdio};

/// Whether the process has mounts of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Namespace {
    /// It has those of all others.
    None,
    /// It has, and what it mounts is seen by nobody else.
    Mounts,
}

/// Set in such a process.
const CHILD: &str = "UVM_P9_TEST_ALONE";

/// Runs `work` in a process in which nothing else runs: this program again, told to run the test called `test`, which calls
/// this once more.
pub(crate) fn alone(namespace: Namespace, test: &str, work: impl FnOnce()) {
    if std::env::var_os(CHILD).is_some() {
        return work();
    }
    let program = std::env::current_exe().unwrap();
    let mut child = match namespace {
        Namespace::None => Command::new(program),
        Namespace::Mounts => {
            let mut unshare = Command::new("unshare");
            if !rustix::process::geteuid().is_root() {
                unshare.args(["--user", "--map-root-user"]);
            }
            unshare.args(["--mount", "--propagation", "private", "--"]).arg(program);
            unshare
        }
    };
    let output = child.args(["--exact", test]).env(CHILD, "1").stdin(Stdio::null()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.contains("1 passed"), "{}: {said}", output.status);
}
