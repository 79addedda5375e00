//! Layers put over each other in running guests: what is seen, what is written, and what goes wrong.

use std::ffi::OsStr;

use uvm::image::{BootFiles, BootFilesOptions, KernelSource};
use uvm::{ErrorKind, ProcessSpec, ScsiDisk, UtilityVm};
use uvm_testkit::{TestResult, TestVm};

use crate::disks::{disks_in, sh};
use crate::faults::chain;
use crate::images::{Images, tool};

/// Directories of the guest as layers, the top one first: each has a file of its own, and all have `who`.
async fn layers(vm: &UtilityVm, at: &str, count: usize) -> TestResult<Vec<String>> {
    let make = format!(
        "mkdir -p {at} && cd {at} && for n in $(seq 0 {}); do mkdir l$n && echo $n > l$n/only$n && echo $n > l$n/who; done",
        count - 1
    );
    sh(vm, &make).await?;
    Ok((0..count).rev().map(|number| format!("{at}/l{number}")).collect())
}

/// How a path is mounted: its file system and its options.
pub(crate) async fn mounted(vm: &UtilityVm, path: &str) -> TestResult<String> {
    let find = format!(
        "while read -r source at kind options rest; do [ $at = {path} ] && echo $kind $options; done < /proc/mounts; true"
    );
    Ok(sh(vm, &find).await?.trim_end().to_owned())
}

#[tokio::test]
async fn the_top_layer_hides_the_others_and_the_scratch_hides_it() -> TestResult {
    let vm = TestVm::builder("overlay").boot().await?;
    let layers = layers(&vm, "/tmp/layers", 3).await?;
    let combined = vm.combine_layers_lcow(&layers, "/run/scratch", "/run/root").await?;
    assert_eq!(sh(&vm, "cd /run/root && cat who only0 only1 only2").await?, "2\n0\n1\n2\n");
    sh(&vm, "cd /run/root && echo new > who && rm only1 && mkdir -p a/b && echo deep > a/b/c").await?;
    assert_eq!(sh(&vm, "cd /run/root && cat who a/b/c && ls").await?, "new\ndeep\na\nonly0\nonly2\nwho\n");
    assert_eq!(sh(&vm, "cat /run/scratch/upper/who /tmp/layers/l2/who /tmp/layers/l1/only1").await?, "new\n2\n1\n");
    combined.release().await?;
    assert_eq!(sh(&vm, "ls -d /run/root 2>/dev/null || echo gone").await?, "gone\n");
    // What was written is in the scratch, and is there again.
    let again = vm.combine_layers_lcow(&layers, "/run/scratch", "/run/root").await?;
    assert_eq!(sh(&vm, "cd /run/root && cat who && ls").await?, "new\na\nonly0\nonly2\nwho\n");
    vm.remove_combined_layers("/run/root").await?;
    assert_eq!(again.release().await.expect_err("it is gone").kind(), ErrorKind::NotFound);
    vm.close().await
}

#[tokio::test]
async fn without_a_scratch_nothing_is_written() -> TestResult {
    let vm = TestVm::builder("read-only").boot().await?;
    let layers = layers(&vm, "/tmp/layers", 2).await?;
    for (count, kind) in [(1, "tmpfs"), (2, "overlay")] {
        let combined = vm.combine_layers_lcow(&layers[..count], "", "/run/root").await?;
        assert_eq!(sh(&vm, "cat /run/root/who").await?, "1\n");
        assert_eq!(sh(&vm, "ls /run/root | wc -l").await?.trim(), (count + 1).to_string());
        let how = mounted(&vm, "/run/root").await?;
        assert!(how.starts_with(&format!("{kind} ro,")), "{how}");
        assert!(sh(&vm, "touch /run/root/new").await.is_err(), "{count} layers are read-only");
        combined.release().await?;
        assert_eq!(mounted(&vm, "/run/root").await?, "");
    }
    // The layer itself can be written still.
    sh(&vm, "touch /tmp/layers/l1/new").await?;
    vm.close().await
}

#[tokio::test]
async fn hundred_layers_and_names_of_any_kind_are_combined() -> TestResult {
    combine_hundred(TestVm::builder("hundred").boot().await?).await
}

/// It takes layers one by one, which the distribution's does not.
#[tokio::test]
#[ignore = "needs the trimmed kernel, which takes 20 minutes to build: cargo xtask soak kernel"]
async fn hundred_layers_are_combined_by_the_trimmed_kernel() -> TestResult {
    let images = Images::new()?;
    let files = BootFiles::ensure(&BootFilesOptions::from_env()?.with_kernel(KernelSource::Trimmed))?.dir().to_owned();
    let vm = TestVm::builder("hundred-trimmed").with(|options| options.boot_files = Some(files)).boot().await?;
    let layer = vm.add_vpmem(images.filesystem("layer.img", "ext4")?).await?;
    let how = mounted(&vm, &layer.guest_path().ok_or("no path")?).await?;
    assert!(how.contains("dax=always"), "{how}");
    layer.release().await?;
    combine_hundred(vm).await
}

async fn combine_hundred(vm: TestVm) -> TestResult {
    let long = format!("/tmp/{}/{}", "a".repeat(200), "b".repeat(200));
    // Short names; names that fill the kernel's page of options many times; names with what separates options.
    for (at, scratch) in [("/tmp/l", "/run/s0"), (&*long, "/run/s1"), ("/tmp/o,d:d\\\\", "/run/s,2")] {
        let layers = layers(&vm, &format!("'{at}'"), 100).await?;
        let layers: Vec<_> = layers.iter().map(|layer| layer.replace('\'', "")).collect();
        let combined = vm.combine_layers_lcow(&layers, scratch, "/run/root").await?;
        assert_eq!(sh(&vm, "cd /run/root && cat who only0 only57 only99 && ls | wc -l").await?, "99\n0\n57\n99\n101\n");
        sh(&vm, "echo new > /run/root/only57").await?;
        assert_eq!(sh(&vm, &format!("cat '{scratch}/upper/only57'")).await?, "new\n");
        combined.release().await?;
        let read_only = vm.combine_layers_lcow(&layers, "", "/run/root").await?;
        assert_eq!(sh(&vm, "cd /run/root && cat who only57").await?, "99\n57\n");
        read_only.release().await?;
    }
    assert_eq!(sh(&vm, "ls -A /run | grep '^[.]' || echo none").await?, "none\n", "links are left");
    vm.close().await
}

#[tokio::test]
async fn what_is_written_to_a_disk_stays_and_the_disk_stays_while_it_is_written() -> TestResult {
    let images = Images::new()?;
    let scratch = images.filesystem("scratch.img", "ext4")?;
    let vm = TestVm::builder("persisted").boot().await?;
    let layers = layers(&vm, "/tmp/layers", 2).await?;
    let disk = vm.add_scsi(&ScsiDisk::new(&scratch).with_guest_path("/run/gcs/c/1")).await?;
    let combined = vm.combine_layers_lcow(&layers, "/run/gcs/c/1", "/run/rootfs").await?;
    sh(&vm, "echo kept > /run/rootfs/kept; rm /run/rootfs/only0").await?;
    // The kernel would unmount it, and miss it later.
    let error = chain(&disk.release().await.expect_err("it is in use"));
    assert!(error.contains("the layers combined at /run/rootfs stand on"), "{error}");
    assert_eq!(sh(&vm, "cat /run/rootfs/kept; ls /run/gcs/c/1/upper").await?, "kept\nkept\nonly0\n");
    combined.release().await?;
    disk.release().await?;
    assert_eq!(disks_in(&vm).await?, 0);
    let quiet = ["-fn"].map(OsStr::new);
    tool("e2fsck", quiet.into_iter().chain([scratch.as_os_str()]))?;
    // Another VM finds it.
    let other = TestVm::builder("found").boot().await?;
    let layers = self::layers(&other, "/tmp/layers", 2).await?;
    let disk = other.add_scsi(&ScsiDisk::new(&scratch).with_guest_path("/run/gcs/c/1")).await?;
    let combined = other.combine_layers_lcow(&layers, "/run/gcs/c/1", "/run/gcs/c/1/rootfs").await?;
    assert_eq!(sh(&other, "cd /run/gcs/c/1/rootfs; cat kept; ls").await?, "kept\nkept\nonly1\nwho\n");
    combined.release().await?;
    disk.release().await?;
    vm.close().await?;
    other.close().await
}

#[tokio::test]
async fn combined_layers_in_use_stay_and_go_later() -> TestResult {
    let vm = TestVm::builder("combined-busy").boot().await?;
    let layers = layers(&vm, "/tmp/layers", 2).await?;
    let combined = vm.combine_layers_lcow(&layers, "/run/scratch", "/run/root").await?;
    let user = vm.create_process(&ProcessSpec::new(["sleep", "1000"]).with_cwd("/run/root")).await?;
    let error = combined.release().await.expect_err("it is in use");
    assert_eq!(error.kind(), ErrorKind::Guest, "{error}");
    let said = chain(&error);
    assert!(said.contains("/run/root, which is in use by sleep ("), "{said}");
    assert_eq!(sh(&vm, "echo more > /run/root/more; cat /run/root/more /run/root/who").await?, "more\n1\n");
    user.kill().await?;
    user.wait().await?;
    drop(user);
    combined.release().await?;
    assert_eq!(mounted(&vm, "/run/root").await?, "");
    vm.close().await
}

#[tokio::test]
async fn what_cannot_be_combined_is_named_and_leaves_nothing() -> TestResult {
    let vm = TestVm::builder("combined-refused").boot().await?;
    let layers = layers(&vm, "/tmp/layers", 2).await?;
    let refused = async |layers: &[String], scratch: &str, root: &str, word: &str| {
        let error = vm.combine_layers_lcow(layers, scratch, root).await.map(drop).expect_err(word);
        let said = chain(&error);
        assert!(said.contains(word), "{word}: {said}");
    };
    refused(&[], "", "/run/root", "0 layers: 1 to 500").await;
    refused(&["/tmp/none".into()], "", "/run/root", "layer /tmp/none").await;
    refused(&["/tmp/layers/l0/who".into()], "", "/run/root", "is not a directory").await;
    refused(&layers, "", "/", "mount path \"/\"").await;
    // A file system that cannot hold what is written; the kernel says so.
    refused(&layers, "/proc", "/run/root", "/proc/upper").await;
    assert_eq!(sh(&vm, "ls -d /run/root 2>/dev/null || echo gone").await?, "gone\n", "what was made for it");
    let combined = vm.combine_layers_lcow(&layers, "/run/scratch", "/run/root").await?;
    refused(&layers, "/run/other", "/run/root", "is mounted at /run/root already").await;
    refused(&layers, "/run/scratch", "/run/else", "is written to by the layers combined at /run/root").await;
    assert_eq!(sh(&vm, "cat /run/root/who").await?, "1\n");
    combined.release().await?;
    vm.close().await
}
