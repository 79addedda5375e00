//! Small things that the guest does by its shell, before the command runs.

use std::time::Duration;

use anyhow::{Context, ensure};
use uvm::{ProcessSpec, UtilityVm};

/// How long that may take, on a guest that is translated, too.
const DONE_WITHIN: Duration = Duration::from_secs(60);

/// Runs a script of the guest's shell with arguments; fails with what it says.
pub(crate) async fn in_guest(vm: &UtilityVm, script: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let command = ["sh", "-c", script, "sh"].into_iter().chain(arguments.iter().copied());
    let done = async { vm.create_process(&ProcessSpec::new(command)).await?.output().await };
    let output = tokio::time::timeout(DONE_WITHIN, done);
    let output = output.await.with_context(|| format!("the guest has not done it within {DONE_WITHIN:?}"))??;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.exit.is_success(), "{}", said.trim());
    Ok(())
}
