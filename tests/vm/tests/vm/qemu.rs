//! The process that runs a VM.

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
