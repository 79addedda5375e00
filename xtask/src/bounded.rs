//! Commands that may hang, and what they may leave running. Some of that leaves its parent and its session; so this process
//! adopts its descendants meanwhile, and knows them as its children. What another thread starts meanwhile is ended, too.

use std::fs;
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, wait};

/// Runs a command to its end, or to the deadline, and ends all that it left, which may take `patience` to end by itself.
pub(crate) fn run_bounded(mut command: Command, deadline: Duration, patience: Duration) -> anyhow::Result<ExitStatus> {
    set_child_subreaper(Some(getpid()))?;
    let result = spawn_and_wait(&mut command, deadline);
    let ended = end_children(patience);
    set_child_subreaper(None)?;
    let status = result?;
    ended?;
    Ok(status)
}

fn spawn_and_wait(command: &mut Command, deadline: Duration) -> anyhow::Result<ExitStatus> {
    let name = command.get_program().display().to_string();
    let mut child = command.spawn().with_context(|| format!("cannot run {name}"))?;
    if let Some(status) = wait_until(&mut child, Instant::now() + deadline)? {
        return Ok(status);
    }
    child.kill()?;
    child.wait()?;
    bail!("{name} did not end within {deadline:?}: it was ended, with all that it had started")
}

fn wait_until(child: &mut Child, deadline: Instant) -> anyhow::Result<Option<ExitStatus>> {
    loop {
        let status = child.try_wait()?;
        if status.is_some() || Instant::now() >= deadline {
            return Ok(status);
        }
        thread::sleep(TICK);
    }
}

/// Ends the children of this process until there are none: those of a child that ends become its own.
fn end_children(patience: Duration) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        // An error means that there are none.
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        let children = children()?;
        if children.is_empty() {
            return Ok(());
        }
        ensure!(began.elapsed() < patience + ENDS, "processes that do not end: {children:?}");
        if began.elapsed() >= patience {
            for child in children {
                // It may have ended meanwhile.
                let _ = kill_process(child, Signal::KILL);
            }
        }
        thread::sleep(TICK);
    }
}

/// The children of this process, whichever thread started them.
fn children() -> anyhow::Result<Vec<Pid>> {
    let mut children = Vec::new();
    for task in fs::read_dir("/proc/self/task")? {
        // A thread that has ended meanwhile has none.
        let listed = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        children.extend(listed.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)));
    }
    Ok(children)
}

/// How long a killed process may take to be gone.
const ENDS: Duration = Duration::from_secs(20);
/// How often something is looked at.
const TICK: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, deadline: Duration) -> anyhow::Result<ExitStatus> {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]);
        run_bounded(shell, deadline, Duration::ZERO)
    }

    /// The only test of this program that starts anything: children are those of the whole process, and all are ended. As
    /// wine's server does, some leave their parent and its session.
    #[test]
    fn whatever_a_program_starts_is_ended_with_it() {
        let status = shell("setsid sleep 1000 & exit 3", Duration::from_secs(60)).expect("it ends");
        assert_eq!((status.code(), children().expect("listed")), (Some(3), Vec::new()));
        let hangs = "sleep 1000 & setsid sh -c 'sleep 1000 & sleep 1000' & sleep 1000";
        let error = shell(hangs, Duration::from_millis(300)).expect_err("it hangs").to_string();
        assert_eq!(error, "sh did not end within 300ms: it was ended, with all that it had started");
        assert_eq!(children().expect("listed"), Vec::new());
    }
}
