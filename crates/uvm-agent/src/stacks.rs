//! What everybody in the VM is doing, for `DumpStacks`: the agent's threads, then every process.

use std::fmt::Write as _;
use std::fs;

use crate::agent::Agent;

/// The report, as text.
pub(crate) fn dump(agent: &Agent) -> String {
    let mut text = format!(
        "uvm-agent {}: {} relays run, {} answers wait for the host\nprocesses started through the bridge: {:?}\n",
        env!("CARGO_PKG_VERSION"),
        agent.relays.count(),
        agent.outbox.len(),
        agent.processes.running(),
    );
    let own = std::process::id();
    for thread in numbers(&format!("/proc/{own}/task")) {
        let _ = writeln!(text, "\nagent thread {thread} {}", describe(&format!("/proc/{own}/task/{thread}")));
    }
    for pid in numbers("/proc").into_iter().filter(|&pid| pid != own) {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        // Kernel threads have none, and are many.
        if !command.is_empty() {
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            let _ = writeln!(text, "\nprocess {pid} {}\n  {}", describe(&format!("/proc/{pid}")), command.trim_end());
        }
    }
    text
}

/// The entries of a directory that are numbers, sorted.
fn numbers(path: &str) -> Vec<u32> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut numbers: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

/// Name, state, and where in the kernel it is, as far as the kernel tells.
fn describe(path: &str) -> String {
    let read = |name: &str| fs::read_to_string(format!("{path}/{name}")).unwrap_or_default();
    let status = read("status");
    let field =
        |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().trim().to_owned();
    let mut text = format!("{} [{}] wchan {}", field("Name:"), field("State:"), read("wchan"));
    for frame in read("stack").lines() {
        let _ = write!(text, "\n    {frame}");
    }
    text
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::flags::AgentFlags;
    use crate::log::Log;
    use crate::process::Reap;

    #[test]
    fn every_thread_and_process_is_in_it() {
        let (_ready, receiver) = oneshot::channel();
        let agent = Agent::new(Reap::Known, Log::new(&AgentFlags::default()), receiver).expect("an agent");
        // It has its arguments once it has said something.
        let mut child = std::process::Command::new("sh")
            .args(["-c", "echo; read line", "argument"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("sh");
        let mut line = [0];
        std::io::Read::read_exact(child.stdout.as_mut().expect("piped"), &mut line).expect("a line");
        let text = dump(&agent);
        child.kill().expect("killed");
        child.wait().expect("waited");
        assert!(text.contains("agent thread"), "{text}");
        assert!(text.contains(&format!("process {} sh", child.id())) && text.contains("read line argument"), "{text}");
    }
}
