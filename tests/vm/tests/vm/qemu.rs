//! The process that runs a VM.

use std::path::{Path, PathBuf};

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
    Ok(open_files(process)?.filter(|target| target.to_string_lossy().starts_with("socket:")).count())
}

/// Whether it has a file open.
pub(crate) fn has_open(process: u32, path: &Path) -> TestResult<bool> {
    let path = path.canonicalize()?;
    Ok(open_files(process)?.any(|target| target == path))
}

/// What its descriptors stand for.
fn open_files(process: u32) -> TestResult<impl Iterator<Item = PathBuf>> {
    let all = std::fs::read_dir(format!("/proc/{process}/fd"))?;
    // One that is closed meanwhile is none.
    Ok(all.filter_map(|entry| entry.ok()?.path().read_link().ok()))
}
