//! A host without room for what a guest writes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use uvm::{ProcessSpec, ScsiDisk, UtilityVm};
use uvm_testkit::{TestResult, TestVm};

use crate::disks::sh;

/// A file system of the host that holds so much.
struct Small(PathBuf, #[expect(dead_code, reason = "it removes the directory")] tempfile::TempDir);

impl Small {
    fn new(mib: u32) -> TestResult<Self> {
        let dir = tempfile::Builder::new().prefix("uvm-test-").tempdir()?;
        let path = dir.path().join("small");
        std::fs::create_dir(&path)?;
        mount("uvm-test", &path, "tmpfs", MountFlags::empty(), Some(size(mib).as_c_str()))?;
        Ok(Self(path, dir))
    }

    fn resize(&self, mib: u32) -> TestResult {
        Ok(mount_remount(&self.0, MountFlags::empty(), size(mib).as_c_str())?)
    }
}

fn size(mib: u32) -> std::ffi::CString {
    std::ffi::CString::new(format!("size={mib}m")).unwrap_or_default()
}

impl Drop for Small {
    fn drop(&mut self) {
        // A test that failed may leave a VM that ends just now.
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// Waits until the VM is in a state of this name.
async fn state(vm: &UtilityVm, wanted: &str) -> TestResult {
    let reached = async {
        while vm.properties().await?.state != wanted {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        TestResult::Ok(())
    };
    let reached = tokio::time::timeout(Duration::from_secs(60), reached).await;
    reached.map_err(|_| format!("it was never {wanted}"))?
}

fn holds(image: &Path, mib: usize) -> TestResult<bool> {
    let bytes = std::fs::read(image)?;
    Ok(bytes[..mib << 20].iter().all(|byte| *byte == b'x') && bytes[mib << 20..].iter().all(|byte| *byte == 0))
}

#[tokio::test]
async fn a_vm_waits_for_room_on_the_host_and_loses_nothing() -> TestResult {
    if !rustix::process::geteuid().is_root() {
        // Nobody else can make a small file system; CI says that this was not run.
        return Ok(());
    }
    let small = Small::new(4)?;
    let image = small.0.join("disk.img");
    std::fs::File::create(&image)?.set_len(64 << 20)?;
    let vm = TestVm::builder("full-disk").boot().await?;
    let disk = vm.add_scsi(&ScsiDisk::new(&image)).await?;
    let write = "head -c 16777216 /dev/zero | tr '\\0' x | dd of=/dev/sda bs=1M conv=fsync 2>&1";
    let writer = vm.create_process(&ProcessSpec::new(["sh", "-c", write])).await?;
    state(&vm, "waiting for room on the host").await?;
    let phase = vm.last_words().phase.unwrap_or_default();
    assert!(phase.contains("waits for room") && phase.contains("disk.img"), "{phase}");
    // Nobody lets a VM go on that its owner has paused meanwhile.
    vm.pause().await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(vm.properties().await?.state, "paused");
    vm.resume().await?;
    state(&vm, "waiting for room on the host").await?;
    small.resize(64)?;
    let output = writer.output().await?;
    assert!(output.exit.is_success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(vm.properties().await?.state, "running");
    assert_eq!(sh(&vm, "echo goes on").await?, "goes on\n");
    disk.release().await?;
    assert!(holds(&image, 16)?);
    vm.close().await
}
