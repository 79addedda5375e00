//! Suites for file systems, run over shares of both kinds: checks one by one, and random operations against a model.
//! `cargo xtask soak shares` runs them at length.

use std::fs;
use std::time::Duration;

use uvm::{ProcessSpec, ShareKind, ShareOptions, ShareWay, UtilityVm};
use uvm_test_guest::digest::digest;
use uvm_testkit::{TestResult, TestVm};

use crate::campaign::{self, note};
use crate::cli::built;
use crate::process::text;

/// How many checks `posix` has: none is left out.
const CHECKS: usize = 138;

/// What one run of a suite may take. Short forms take seconds, on a processor that has nothing else to do; 100,000 operations
/// take minutes under the translator.
fn at_most() -> Duration {
    Duration::from_secs(500 + 60 * u64::from(campaign::rounds(0, 100)))
}

#[tokio::test]
async fn a_9p_share_is_a_file_system() -> TestResult {
    suites("suites-9p", "9p", ShareKind::Plan9, ShareWay::Plan9).await
}

#[tokio::test]
async fn a_virtio_fs_share_is_a_file_system() -> TestResult {
    suites("suites-fs", "virtio-fs", ShareKind::VirtioFs, ShareWay::VirtioFs).await
}

/// Runs both suites over one share, and compares what the guest says is in the files with what the host has.
async fn suites(vm_name: &str, kind_name: &str, kind: ShareKind, way: ShareWay) -> TestResult {
    let dir = tempfile::tempdir()?;
    fs::copy(built("../x86_64-unknown-linux-musl/agent/uvm-test-guest", "cargo xtask ci")?, dir.path().join("guest"))?;
    let vm = TestVm::builder(vm_name).boot().await?;
    let share = vm.share_with(&ShareOptions::new(dir.path(), "/run/share").with_kind(kind)).await?;
    assert_eq!(share.way(), way);

    // At length, a list by 9P is of more than one message.
    let names = (200 * campaign::rounds(1, 25)).to_string();
    for round in 0..campaign::rounds(1, 3) {
        // Each has a name of its own: the guest may know the one that the host has removed for another second.
        let name = format!("posix-{round}");
        fs::create_dir(dir.path().join(&name))?;
        let said = guest(&vm, &["posix", kind_name, &format!("/run/share/{name}"), &names]).await?;
        assert_eq!(said, format!("{CHECKS} checks, 0 failed\n"), "{kind_name}, round {round}");
        // Each check's directory is removed by the guest, and so it is gone on the host.
        fs::remove_dir(dir.path().join(&name))?;
    }
    note(&format!("{kind_name}: {CHECKS} checks hold"));

    let operations = 1000 * u64::from(campaign::rounds(2, 100));
    let mut random = campaign::Random::seeded(vm_name);
    for _ in 0..campaign::rounds(2, 10) {
        let seed = random.below(1 << 32).to_string();
        let said = guest(&vm, &["fsx", kind_name, "/run/share/fsx", &seed, &operations.to_string()]).await?;
        let on_host = fs::read(dir.path().join("fsx"))?;
        let wanted = format!(
            "seed {seed}, {operations} operations, {} bytes, digest {:016x}\n",
            on_host.len(),
            digest(&on_host)
        );
        assert_eq!(said, wanted, "{kind_name}: what the guest says of its file, and what the host has");
        note(&format!("{kind_name}: {}", said.trim_end()));
        fs::remove_file(dir.path().join("fsx"))?;
    }
    share.release().await?;
    vm.close().await
}

/// Runs the program that is in the share, and gives what it said. An error if it failed, with all it said.
async fn guest(vm: &UtilityVm, arguments: &[&str]) -> TestResult<String> {
    let line = ["/run/share/guest"].iter().chain(arguments).copied();
    let process = vm.create_process(&ProcessSpec::new(line)).await?;
    let output = tokio::time::timeout(at_most(), process.output()).await;
    let output = output.map_err(|_| format!("{arguments:?}: not within {:?}", at_most()))??;
    if !output.exit.is_success() {
        let (said, told) = (text(&output.stdout), text(&output.stderr));
        return Err(format!("{arguments:?}: {:?}:\n{said}{told}", output.exit).into());
    }
    Ok(text(&output.stdout).to_owned())
}
