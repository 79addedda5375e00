//! Where a guest mounts what it is given: links on the way, directories that are there already, what others have mounted.

use tokio::io::{AsyncBufReadExt, BufReader};
use uvm::wire::modify::{MappedVirtualDisk, Modification, Resource};
use uvm::{ErrorKind, Grow, Plan9ShareOptions, ProcessSpec, ScsiDisk, ScsiMount, UtilityVm};
use uvm_testkit::{TestResult, TestVm};

use crate::disks::{device, disks_in, refused, sh};
use crate::faults::chain;
use crate::images::Images;
use crate::layers::mounted;

/// Has the guest's agent remove what is at a disk's place and a path, as a host does that takes an addition back.
async fn remove(vm: &UtilityVm, (controller, lun): (u8, u8), path: &str) -> TestResult {
    let disk = MappedVirtualDisk { controller, lun, mount_path: path.into(), ..MappedVirtualDisk::default() };
    Ok(vm.guest_request(Modification::remove(Resource::MappedVirtualDisk(disk))).await?)
}

fn slot(disk: &ScsiMount) -> TestResult<(u8, u8)> {
    Ok(disk.controller().zip(disk.lun()).ok_or("not attached")?)
}

#[tokio::test]
async fn a_path_over_a_link_is_the_place_that_it_leads_to() -> TestResult {
    let images = Images::new()?;
    let (image, other) = (images.filesystem("data.img", "ext4")?, images.filesystem("other.img", "ext4")?);
    let vm = TestVm::builder("linked").boot().await?;
    let disk = vm.add_scsi(&ScsiDisk::new(&image).with_guest_path("/var/run/data")).await?;
    assert_eq!(sh(&vm, "cat /run/data/hello").await?, "from ext4\n");
    disk.resize(32 << 20, Grow::FileSystem).await?;
    let error = refused(&vm, &ScsiDisk::new(&other).with_guest_path("/run/data")).await;
    assert!(error.contains("is mounted at /run/data already"), "{error}");
    // What stands on it is found by any name.
    sh(&vm, "mkdir -p /tmp/l0 /tmp/l1; ln -s /run/data /tmp/scratch").await?;
    let layers = ["/tmp/l0", "/tmp/l1"].map(str::to_owned);
    for scratch in ["/run/data", "/var/run/data/deep", "/tmp/scratch"] {
        let combined = vm.combine_layers_lcow(&layers, scratch, "/var/run/root").await?;
        let error = chain(&disk.release().await.expect_err("it is in use"));
        assert!(error.contains("the layers combined at /run/root stand on"), "{error}");
        sh(&vm, "echo new > /run/root/new").await?;
        combined.release().await?;
    }
    disk.release().await?;
    assert_eq!(sh(&vm, "ls -d /run/data /run/root 2>/dev/null; readlink /var/run").await?, "../run\n");
    assert_eq!(disks_in(&vm).await?, 0);
    let dir = tempfile::tempdir()?;
    let share = vm.add_plan9(&Plan9ShareOptions::new(dir.path(), "/var/run/share")).await?;
    assert!(mounted(&vm, "/run/share").await?.starts_with("9p "));
    share.release().await?;
    assert_eq!(sh(&vm, "ls -d /run/share 2>/dev/null || echo gone").await?, "gone\n");
    vm.close().await
}

#[tokio::test]
async fn nothing_is_mounted_at_a_link_itself_or_at_a_path_that_goes_up() -> TestResult {
    let images = Images::new()?;
    let image = images.filesystem("data.img", "ext4")?;
    let vm = TestVm::builder("at-a-link").boot().await?;
    let error = refused(&vm, &ScsiDisk::new(&image).with_guest_path("/var/run")).await;
    assert!(error.contains("/var/run is a link to ../run already"), "{error}");
    let dir = tempfile::tempdir()?;
    let share = vm.add_plan9(&Plan9ShareOptions::new(dir.path(), "/var/run")).await;
    let error = chain(&share.map(drop).expect_err("a link"));
    assert!(error.contains("/var/run is a link to ../run already"), "{error}");
    let error = refused(&vm, &ScsiDisk::new(&image).with_guest_path("/run/../proc")).await;
    assert!(error.contains("\"/run/../proc\"") && error.contains("without \"..\""), "{error}");
    // The host may take it back all the same.
    remove(&vm, (0, 0), "/var/run").await?;
    assert_eq!(sh(&vm, "readlink /var/run; ls -d /run/../proc/self").await?, "../run\n/run/../proc/self\n");
    assert_eq!(disks_in(&vm).await?, 0);
    vm.close().await
}

#[tokio::test]
async fn a_removal_takes_what_is_its_own_and_nothing_else() -> TestResult {
    let images = Images::new()?;
    let (image, other) = (images.filesystem("data.img", "ext4")?, images.filesystem("other.img", "ext4")?);
    let vm = TestVm::builder("own").boot().await?;
    for as_link in [false, true] {
        let wanted = ScsiDisk::new(&image).with_guest_path("/run/data");
        let disk = vm.add_scsi(&if as_link { wanted.as_block_device() } else { wanted }).await?;
        let is_there = async || {
            if as_link {
                assert_eq!(sh(&vm, "readlink /run/data").await?.trim(), device(&vm, &disk).await?);
            } else {
                assert_eq!(sh(&vm, "cat /run/data/hello").await?, "from ext4\n");
            }
            TestResult::Ok(())
        };
        // Of a place that nothing is in, as after an addition that came to nothing; of another disk's.
        remove(&vm, (3, 60), "/run/data").await?;
        is_there().await?;
        let second = vm.add_scsi(&ScsiDisk::new(&other)).await?;
        remove(&vm, slot(&second)?, "/run/data").await?;
        is_there().await?;
        assert_eq!(disks_in(&vm).await?, 1, "the other one has gone");
        second.release().await?;
        disk.release().await?;
        assert_eq!(sh(&vm, "ls -d /run/data 2>/dev/null || echo gone").await?, "gone\n");
    }
    // A disk that has gone from the guest is its own still.
    let disk = vm.add_scsi(&ScsiDisk::new(&image).with_guest_path("/run/data")).await?;
    let node = device(&vm, &disk).await?;
    sh(&vm, &format!("sync; echo 1 > /sys/block/{}/device/delete", node.trim_start_matches("/dev/"))).await?;
    disk.release().await?;
    assert_eq!(mounted(&vm, "/run/data").await?, "");
    // And what somebody has put over it stays, and keeps it.
    let disk = vm.add_scsi(&ScsiDisk::new(&image).with_guest_path("/run/data")).await?;
    sh(&vm, "mount -t tmpfs over /run/data").await?;
    let error = disk.release().await.expect_err("it is covered");
    assert_eq!(error.kind(), ErrorKind::Guest, "{error}");
    let said = chain(&error);
    assert!(said.contains("unmount /run/data, over which over is mounted"), "{said}");
    sh(&vm, "umount /run/data").await?;
    disk.release().await?;
    vm.close().await
}

#[tokio::test]
async fn a_directory_that_was_there_before_is_there_afterwards() -> TestResult {
    let images = Images::new()?;
    let image = images.filesystem("data.img", "ext4")?;
    let vm = TestVm::builder("kept").boot().await?;
    let before = sh(&vm, "mkdir -m 751 /tmp/l0 /tmp/l1 /tmp/root; stat -c '%a %i' /root /mnt /tmp/root").await?;
    let disk = vm.add_scsi(&ScsiDisk::new(&image).with_guest_path("/root")).await?;
    assert_eq!(sh(&vm, "cat /root/hello").await?, "from ext4\n");
    let dir = tempfile::tempdir()?;
    let share = vm.add_plan9(&Plan9ShareOptions::new(dir.path(), "/mnt")).await?;
    let layers = ["/tmp/l0", "/tmp/l1"].map(str::to_owned);
    let combined = vm.combine_layers_lcow(&layers, "", "/tmp/root").await?;
    combined.release().await?;
    share.release().await?;
    disk.release().await?;
    assert_eq!(sh(&vm, "stat -c '%a %i' /root /mnt /tmp/root").await?, before);
    // What was made for it goes, with what was made above it left.
    let disk = vm.add_scsi(&ScsiDisk::new(&image).with_guest_path("/tmp/made/data")).await?;
    disk.release().await?;
    assert_eq!(sh(&vm, "ls -A /tmp/made; ls -d /tmp/made").await?, "/tmp/made\n");
    vm.close().await
}

#[tokio::test]
async fn a_disk_that_another_mount_namespace_keeps_stays_where_it_is() -> TestResult {
    let images = Images::new()?;
    let image = images.filesystem("data.img", "ext4")?;
    let vm = TestVm::builder("kept").boot().await?;
    // With a directory that goes, the kernel takes what is mounted there from other namespaces, too.
    sh(&vm, "mkdir -p /run/kept/disk").await?;
    let disk = vm.add_scsi(&ScsiDisk::new(&image).with_guest_path("/run/kept/disk")).await?;
    let keeps = ProcessSpec::new(["unshare", "-m", "sh", "-c", "echo ready; exec sleep 1000"]);
    let mut keeps = vm.create_process(&keeps).await?;
    let mut line = String::new();
    BufReader::new(keeps.stdout.as_mut().ok_or("no output")?).read_line(&mut line).await?;
    assert_eq!(line, "ready\n");
    let error = chain(&disk.release().await.expect_err("it is kept"));
    assert!(error.contains("has for itself"), "{error}");
    // It is still attached, and so still there.
    assert_eq!(sh(&vm, "cat /run/kept/disk/hello; echo more > /run/kept/disk/more").await?, "from ext4\n");
    assert!(keeps.kill().await?, "it runs");
    keeps.wait().await?;
    drop(keeps);
    disk.release().await?;
    vm.close().await
}
