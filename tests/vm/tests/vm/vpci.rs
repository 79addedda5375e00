//! PCI devices given to running guests. The host has none to give: QEMU makes one up behind the same path, and a directory
//! stands for what the host's kernel tells of its devices.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use tempfile::TempDir;
use uvm::qemu::QemuOptions;
use uvm::{ErrorKind, UtilityVm};
use uvm_testkit::{TestResult, TestVm};

use crate::disks::sh;
use crate::faults::chain;

/// What QEMU makes up: one that the guest tells from its like that was there at boot by the id that it has in a port alone.
const STAND_IN: &str = "virtio-rng-pci";
const ID: &str = "0x1044";

/// What the host's kernel tells, as QEMU's options want it.
pub(crate) fn vfio(host: &TempDir, options: &mut QemuOptions) {
    options.vfio.sys = host.path().join("sys");
    options.vfio.nodes = host.path().join("vfio");
    options.vfio.stand_in = Some(STAND_IN.into());
}

/// What the host's kernel tells of these devices, each bound to that driver and in a group of its own.
pub(crate) fn host(devices: &[(&str, &str)]) -> TestResult<TempDir> {
    let dir = tempfile::tempdir()?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
    for (group, (address, driver)) in devices.iter().enumerate() {
        let device = dir.path().join("sys/bus/pci/devices").join(address);
        fs::create_dir_all(&device)?;
        symlink(format!("../drivers/{driver}"), device.join("driver"))?;
        symlink(format!("../../kernel/iommu_groups/{group}"), device.join("iommu_group"))?;
        let members = dir.path().join(format!("sys/kernel/iommu_groups/{group}/devices"));
        fs::create_dir_all(&members)?;
        fs::write(members.join(address), "")?;
        let node = dir.path().join(format!("vfio/{group}"));
        fs::create_dir_all(dir.path().join("vfio"))?;
        fs::write(&node, "")?;
        fs::set_permissions(&node, fs::Permissions::from_mode(0o666))?;
    }
    Ok(dir)
}

/// A VM of such a host, with ports for so many devices.
async fn boot(name: &str, host: &TempDir, ports: u32) -> TestResult<TestVm> {
    let mut qemu = QemuOptions::default();
    vfio(host, &mut qemu);
    let builder = TestVm::builder(name).with_both(move |options, host| {
        options.pci_ports = ports;
        host.vfio = qemu.vfio;
    });
    builder.boot().await
}

/// The guest's addresses of such devices.
async fn seen(vm: &UtilityVm) -> TestResult<Vec<String>> {
    let script = format!("cd /sys/bus/pci/devices; for d in *; do grep -q {ID} $d/device && echo $d; done; true");
    Ok(sh(vm, &script).await?.lines().map(str::to_owned).collect())
}

#[tokio::test]
async fn d60_d61_d62_a_device_is_plugged_in_shared_and_taken_out() -> TestResult {
    let host = host(&[("0000:01:00.0", "vfio-pci"), ("0000:02:00.0", "vfio-pci"), ("0000:03:00.0", "vfio-pci")])?;
    let vm = boot("vpci", &host, 2).await?;
    assert_eq!(seen(&vm).await?, [""; 0]);
    let one = vm.assign_device("0000:01:00.0").await?;
    let address = one.guest_address().ok_or("no address")?.to_owned();
    assert_eq!(seen(&vm).await?, [address.as_str()]);
    // Spelt otherwise, it is the same.
    let same = vm.assign_device("01:00.0").await?;
    assert_eq!(same.guest_address(), Some(address.as_str()));
    let two = vm.assign_device("0000:02:00.0").await?;
    assert_ne!(two.guest_address(), Some(address.as_str()));
    assert_eq!(seen(&vm).await?.len(), 2);
    let error = chain(&vm.assign_device("0000:03:00.0").await.expect_err("there are two ports"));
    assert!(error.contains("all 2 PCI ports are taken"), "{error}");
    one.release().await?;
    assert_eq!(seen(&vm).await?.len(), 2, "somebody has it");
    same.release().await?;
    assert_eq!(seen(&vm).await?, [two.guest_address().ok_or("no address")?]);
    // The port is free.
    for _ in 0..3 {
        let three = vm.assign_device("0000:03:00.0").await?;
        assert_eq!(three.guest_address(), Some(address.as_str()));
        three.release().await?;
    }
    let other = two.guest_address().ok_or("no address")?.to_owned();
    two.release().await?;
    assert_eq!(seen(&vm).await?, [""; 0]);
    // The one that was left longest ago comes first: the guest may not have forgotten yet what was in the other.
    for expected in [&address, &other, &address] {
        let device = vm.assign_device("0000:01:00.0").await?;
        assert_eq!(device.guest_address(), Some(expected.as_str()));
        device.release().await?;
    }
    vm.close().await
}

#[tokio::test]
async fn a_guest_that_does_not_let_go_keeps_the_device_until_it_does() -> TestResult {
    let host = host(&[("0000:01:00.0", "vfio-pci")])?;
    let vm = boot("vpci-busy", &host, 1).await?;
    let device = vm.assign_device("0000:01:00.0").await?;
    vm.pause().await?;
    let error = chain(&device.release().await.expect_err("the guest does nothing"));
    assert!(error.contains("the guest to let go of the device"), "{error}");
    vm.resume().await?;
    device.release().await?;
    assert_eq!(seen(&vm).await?, [""; 0]);
    vm.assign_device("0000:01:00.0").await?.release().await?;
    vm.close().await
}

#[tokio::test]
async fn what_cannot_be_given_is_named_with_what_mends_it() -> TestResult {
    let host = host(&[("0000:01:00.0", "nvme"), ("0000:02:00.0", "vfio-pci")])?;
    let vm = boot("vpci-refused", &host, 1).await?;
    for (device, kind, why) in [
        ("0000:01:00.0", ErrorKind::InvalidInput, "bound to the driver nvme, not to vfio-pci; driverctl set-override"),
        ("0000:09:00.0", ErrorKind::InvalidInput, "no such device"),
        (r"PCI\\VEN_8086", ErrorKind::InvalidInput, "a PCI address is needed"),
    ] {
        let error = vm.assign_device(device).await.expect_err(device);
        assert_eq!(error.kind(), kind, "{error}");
        let error = chain(&error);
        assert!(error.contains(why), "{error}");
    }
    assert_eq!(seen(&vm).await?, [""; 0]);
    // Nothing is left of them.
    vm.assign_device("0000:02:00.0").await?.release().await?;
    vm.close().await?;
    let vm = TestVm::builder("vpci-none").boot().await?;
    let error = vm.assign_device("0000:01:00.0").await.expect_err("it has no ports");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(chain(&error).contains("no PCI ports configured"), "{error}");
    vm.close().await
}
