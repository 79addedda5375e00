//! The process that runs a VM.

use std::path::PathBuf;

use uvm::UtilityVm;
use uvm_testkit::TestResult;

/// Its number.
pub(crate) async fn pid(vm: &UtilityVm) -> TestResult<u32> {
    Ok(vm.properties().await?.host_pid.ok_or("no QEMU")?)
}

/// How many descriptors a process has open.
pub(crate) fn descriptors(process: u32) -> TestResult<usize> {
    Ok(std::fs::read_dir(format!("/proc/{process}/fd"))?.count())
}

/// How many sockets it has open.
pub(crate) fn sockets(process: u32) -> TestResult<usize> {
    let is_socket = |target: PathBuf| target.to_string_lossy().starts_with("socket:");
    let all = std::fs::read_dir(format!("/proc/{process}/fd"))?;
    // One that is closed meanwhile is none.
    Ok(all.filter(|entry| entry.as_ref().is_ok_and(|entry| entry.path().read_link().is_ok_and(is_socket))).count())
}
