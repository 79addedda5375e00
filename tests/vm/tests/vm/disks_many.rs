//! As many disks as there are places, at once, and one place again and again.

use std::path::PathBuf;

use tokio::task::JoinSet;
use uvm::{ScsiDisk, ScsiMount, UtilityVm};
use uvm_testkit::{TestResult, TestVm};

use crate::campaign;
use crate::disks::{disks_in, refused, sh};
use crate::images::Images;
use crate::qemu::{self, descriptors};

async fn attach_all(vm: &UtilityVm, images: &[PathBuf]) -> TestResult<Vec<ScsiMount>> {
    let mut adding = JoinSet::new();
    for image in images {
        let (vm, disk) = (vm.clone(), ScsiDisk::new(image));
        adding.spawn(async move { vm.add_scsi(&disk).await });
    }
    let mut disks = Vec::new();
    while let Some(disk) = adding.join_next().await {
        disks.push(disk??);
    }
    Ok(disks)
}

async fn release_all(disks: Vec<ScsiMount>) -> TestResult {
    let mut removing = JoinSet::new();
    for disk in disks {
        removing.spawn(async move { disk.release().await });
    }
    while let Some(released) = removing.join_next().await {
        released??;
    }
    Ok(())
}

/// Each disk is told where it is, in the guest, and this is read back there; then on the host.
async fn write_and_verify(vm: &UtilityVm, disks: &[ScsiMount]) -> TestResult {
    let script = "cd /sys/bus/scsi/devices; \
                  for d in *:0:*:*; do [ -d $d/block ] && echo ${d#*:0:} | dd of=/dev/$(ls $d/block) conv=fsync 2>/dev/null; done; \
                  for d in *:0:*:*; do [ -d $d/block ] && [ $(head -n 1 /dev/$(ls $d/block)) = ${d#*:0:} ] && echo same; done; true";
    assert_eq!(sh(vm, script).await?.lines().count(), disks.len());
    for disk in disks {
        let (controller, lun) = disk.controller().zip(disk.lun()).ok_or("not attached")?;
        let path = disk.host_path().ok_or("not attached")?;
        let written = format!("{controller}:{lun}\n");
        assert!(std::fs::read(path)?.starts_with(written.as_bytes()), "{}", path.display());
    }
    Ok(())
}

#[tokio::test]
async fn every_place_is_filled_and_emptied_at_once() -> TestResult {
    let controllers = campaign::rounds(1, 4);
    let images = Images::new()?;
    let vm = TestVm::builder("full").with(move |options| options.scsi_controllers = controllers).boot().await?;
    let qemu = qemu::pid(&vm).await?;
    let paths: Vec<_> =
        (0..controllers * 64).map(|index| images.raw(&format!("{index}.img"), 1)).collect::<Result<_, _>>()?;
    let one_more = ScsiDisk::new(images.raw("more.img", 1)?);
    // What QEMU opens once, it keeps.
    release_all(attach_all(&vm, &paths).await?).await?;
    let before = (descriptors(qemu)?, descriptors(std::process::id())?);
    for round in 0..campaign::rounds(1, 20) {
        let disks = attach_all(&vm, &paths).await?;
        assert_eq!(disks_in(&vm).await?, paths.len());
        let error = refused(&vm, &one_more).await;
        assert!(error.contains(&paths.len().to_string()), "{error}");
        write_and_verify(&vm, &disks).await?;
        release_all(disks).await?;
        assert_eq!(disks_in(&vm).await?, 0);
        assert_eq!(descriptors(qemu)?, before.0, "of QEMU, round {round}");
    }
    // Other tests of this process have descriptors of their own.
    if controllers > 1 {
        assert_eq!(descriptors(std::process::id())?, before.1);
    }
    vm.close().await
}

/// Nothing that a guest does late about a place's last disk is done to the next one.
#[tokio::test]
async fn a_place_is_taken_again_at_once() -> TestResult {
    let images = Images::new()?;
    let disk = ScsiDisk::new(images.filesystem("again.img", "ext4")?).with_guest_path("/mnt");
    let vm = TestVm::builder("again").boot().await?;
    for round in 0..campaign::rounds(60, 1000) {
        let mount = vm.add_scsi(&disk).await?;
        assert_eq!((mount.controller(), mount.lun()), (Some(0), Some(0)), "round {round}");
        // Now and then, so that the next addition mostly follows at once.
        if round % 10 == 0 {
            assert_eq!(sh(&vm, &format!("echo {round} > /mnt/round; cat /mnt/round")).await?, format!("{round}\n"));
        }
        mount.release().await?;
    }
    assert_eq!(disks_in(&vm).await?, 0);
    vm.close().await
}
