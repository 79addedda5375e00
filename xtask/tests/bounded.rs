//! Bounded commands end every child of their process, those of other tests as well: so this test has a process to itself, and
//! stays the only one of this file.

#[path = "../src/bounded.rs"]
mod bounded;

use std::process::{Command, ExitStatus};
use std::time::Duration;

use bounded::{children, run_bounded};

fn shell(script: &str, deadline: Duration) -> anyhow::Result<ExitStatus> {
    let mut shell = Command::new("sh");
    shell.args(["-c", script]);
    run_bounded(shell, deadline, Duration::ZERO)
}

/// As wine's server does, some leave their parent and its session.
#[test]
fn whatever_a_program_starts_is_ended_with_it() {
    let status = shell("setsid sleep 1000 & exit 3", Duration::from_secs(60)).expect("it ends");
    assert_eq!((status.code(), children().expect("listed")), (Some(3), Vec::new()));
    let hangs = "sleep 1000 & setsid sh -c 'sleep 1000 & sleep 1000' & sleep 1000";
    let error = shell(hangs, Duration::from_millis(300)).expect_err("it hangs").to_string();
    assert_eq!(error, "sh did not end within 300ms: it was ended, with all that it had started");
    assert_eq!(children().expect("listed"), Vec::new());
}
