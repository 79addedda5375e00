//! The queues of virtio-fs shares, and what the process that serves them is not allowed itself.

use std::fs;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, prlimit};
use uvm::ProcessSpec;
use uvm_testkit::{TestResult, TestVm};

use crate::disks::sh;
use crate::process::text;
use crate::virtio_fs::{by_device, helper_pids, the_helper};

/// Lines that a program of the guest writes one by one, while its VM is stopped and goes on.
const LINES: usize = 1000;
/// And how often at most.
const PAUSES: usize = 200;
/// How long all of it may take.
const PATIENCE: Duration = Duration::from_secs(150);

#[tokio::test]
async fn a_share_goes_on_where_it_was_after_each_pause() -> TestResult {
    let dir = tempfile::tempdir()?;
    let vm = TestVm::builder("fs-pauses").boot().await?;
    let share = vm.share_with(&by_device(dir.path(), "/run/share")).await?;
    let helper = helper_pids(&vm);
    // Several at once, so that there is more than one request in the queue when it is taken away.
    let writer =
        |name: &str| format!("n=0; while [ $n -lt {LINES} ]; do n=$((n + 1)); echo $n >> /run/share/{name}; done");
    let script = format!("({}) & ({}) & {}; wait", writer("a"), writer("b"), writer("c"));
    let program = vm.create_process(&ProcessSpec::new(["sh", "-c", &script])).await?;
    let written = || ["a", "b", "c"].map(|name| lines(dir.path(), name));
    let is_through = || written().iter().all(|lines| *lines >= LINES);
    let mut pauses = 0;
    let pausing = async {
        while pauses < PAUSES && !is_through() {
            // Stopped once more as soon as it has gone on.
            let before = written();
            while written() == before && !is_through() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            vm.pause().await?;
            vm.resume().await?;
            pauses += 1;
        }
        TestResult::Ok(())
    };
    tokio::time::timeout(PATIENCE, pausing).await.map_err(|_| "nothing is written any more")??;
    assert!(pauses > 2, "they were through after {pauses} pauses");
    let output = tokio::time::timeout(PATIENCE, program.output()).await??;
    assert_eq!(text(&output.stderr), "");
    let numbers: Vec<String> = (1..=LINES).map(|number| number.to_string()).collect();
    for name in ["a", "b", "c"] {
        let written = fs::read_to_string(dir.path().join(name))?;
        assert!(written.lines().eq(&numbers), "{name} after {pauses} pauses: {written}");
    }
    assert_eq!(helper_pids(&vm), helper, "another process serves it");
    share.release().await?;
    vm.close().await
}

fn lines(dir: &std::path::Path, name: &str) -> usize {
    fs::read_to_string(dir.join(name)).unwrap_or_default().lines().count()
}

#[tokio::test]
async fn a_limit_of_the_host_for_files_is_an_error_of_the_write() -> TestResult {
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join("file"), "content")?;
    let vm = TestVm::builder("fs-limit").boot().await?;
    let share = vm.share_with(&by_device(dir.path(), "/run/share")).await?;
    let helper = the_helper(&vm)?;
    prlimit(Some(helper), Resource::Fsize, Rlimit { current: Some(1 << 20), maximum: Some(1 << 20) })?;
    let beyond = "dd if=/dev/zero of=/run/share/big bs=64k seek=32 count=1 2>&1; truncate -s 2M /run/share/larger 2>&1; \
        cat /run/share/file";
    let said = sh(&vm, beyond).await?;
    assert_eq!(said.matches("File too large").count(), 2, "{said}");
    assert!(said.ends_with("content"), "{said}");
    assert_eq!(the_helper(&vm)?, helper);
    share.release().await?;
    vm.close().await
}
