//! Layers as memory of running guests: mapped, parked, had again, and as disks where that cannot be.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use uvm::{ErrorKind, LayerMechanism, ProcessSpec, UtilityVm, VpmemMount};
use uvm_testkit::{TestResult, TestVm};

use crate::disks::{disks_in, sh};
use crate::faults::chain;
use crate::images::{Images, tool};
use crate::layers::mounted;
use crate::qemu;

/// A running VM that can have so many layers.
async fn boot(name: &str, count: u32) -> TestResult<TestVm> {
    TestVm::builder(name).with(move |options| options.vpmem_devices = count).boot().await
}

/// Where a layer is, which must be as memory.
fn memory(layer: &VpmemMount) -> TestResult<String> {
    assert_eq!(layer.mechanism(), &LayerMechanism::Memory);
    Ok(layer.guest_path().ok_or("no path")?)
}

/// Why a layer is a disk, which it must be.
fn disk(layer: &VpmemMount) -> String {
    match layer.mechanism() {
        LayerMechanism::Disk { why } => why.clone(),
        other => panic!("a disk was expected, not {other:?}"),
    }
}

/// What the guest has of memory-backed disks: their nodes, and how many of their devices have no driver.
async fn pmem_in(vm: &UtilityVm) -> TestResult<String> {
    let unbound = "for d in /sys/bus/virtio/devices/*; do [ $(cat $d/device) = 0x001b ] && [ ! -e $d/driver ] && echo free; done | wc -l";
    let nodes = sh(vm, "ls /sys/block | grep -c pmem; true").await?;
    Ok(format!("{} nodes, {} free", nodes.trim(), sh(vm, unbound).await?.trim()))
}

/// Whether QEMU has a file open or mapped.
fn qemu_has(pid: u32, path: &Path) -> TestResult<bool> {
    let path = path.canonicalize()?;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let name = path.to_str().ok_or("a path that is no text")?;
    Ok(qemu::has_open(pid, &path)? || maps.lines().any(|line| line.ends_with(name)))
}

#[tokio::test]
async fn layers_are_mapped_without_copies_and_cannot_be_written() -> TestResult {
    let images = Images::new()?;
    let vm = boot("mapped", 4).await?;
    assert_eq!(pmem_in(&vm).await?, "0 nodes, 0 free");
    let mut layers = Vec::new();
    for (slot, kind) in ["ext4", "erofs"].into_iter().enumerate() {
        let image = images.filesystem(&format!("{kind}.img"), kind)?;
        whole(&image)?;
        let layer = vm.add_vpmem(&image).await?;
        let at = memory(&layer)?;
        assert_eq!((layer.slot(), &*at), (Some(u32::try_from(slot)?), &*format!("/run/layers/p{slot}")));
        assert_eq!(sh(&vm, &format!("cat {at}/hello")).await?, format!("from {kind}\n"));
        let how = mounted(&vm, &at).await?;
        assert!(how.starts_with(&format!("{kind} ro,")) && how.contains("dax=always"), "{how}");
        assert!(sh(&vm, &format!("touch {at}/new")).await.is_err(), "{kind} is read-only");
        layers.push(layer);
    }
    assert_eq!(pmem_in(&vm).await?, "2 nodes, 0 free");
    // Even root, past the mount, changes nothing on the host.
    let before = std::fs::read(images.path("ext4.img"))?;
    sh(&vm, "for d in /dev/pmem*; do dd if=/dev/zero of=$d bs=4096 count=4 conv=fsync 2>/dev/null; done; true").await?;
    assert!(std::fs::read(images.path("ext4.img"))? == before, "the image was written");
    for layer in layers {
        layer.release().await?;
    }
    assert_eq!(sh(&vm, "ls /run/layers").await?, "");
    assert_eq!(pmem_in(&vm).await?, "0 nodes, 2 free");
    vm.close().await
}

/// As long as whole pieces of what can be mapped.
fn whole(image: &Path) -> TestResult {
    let file = std::fs::File::options().write(true).open(image)?;
    Ok(file.set_len(file.metadata()?.len().next_multiple_of(2 << 20))?)
}

#[tokio::test]
async fn what_the_guest_reads_of_a_layer_it_keeps_no_copy_of() -> TestResult {
    const MIB: u64 = 64;
    let images = Images::new()?;
    let content = images.path("content");
    std::fs::create_dir(&content)?;
    std::fs::write(content.join("big"), vec![b'x'; usize::try_from(MIB << 20)?])?;
    let image = images.raw("big.img", 2 * MIB)?;
    let word = OsStr::new;
    tool("mkfs.ext4", [word("-q"), word("-b"), word("4096"), word("-d"), content.as_os_str(), image.as_os_str()])?;
    let vm = boot("uncached", 4).await?;
    let cached_kib = async || -> TestResult<u64> {
        let line = sh(&vm, "sed -n 's/^Cached: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo").await?;
        Ok(line.trim().parse()?)
    };
    for (layer, keeps) in
        [(vm.add_vpmem(&image).await?, false), (vm.add_closing_vpmem(images_copy(&image)?).await?, true)]
    {
        let at = layer.guest_path().ok_or("no path")?;
        let before = cached_kib().await?;
        assert_eq!(sh(&vm, &format!("cat {at}/big | wc -c")).await?.trim(), (MIB << 20).to_string());
        let grown = cached_kib().await?.saturating_sub(before);
        assert_eq!(grown > MIB << 9, keeps, "{:?}: {grown} KiB are cached", layer.mechanism());
        layer.release().await?;
    }
    vm.close().await
}

fn images_copy(image: &Path) -> TestResult<std::path::PathBuf> {
    let copy = image.with_extension("copy.img");
    std::fs::copy(image, &copy)?;
    Ok(copy)
}

#[tokio::test]
async fn a_layer_that_is_added_again_is_had_again_and_a_changed_one_is_not() -> TestResult {
    let images = Images::new()?;
    let (a, b) = (images.filesystem("a.img", "ext4")?, images.filesystem("b.img", "ext4")?);
    let vm = boot("parked", 4).await?;
    let qemu = qemu::pid(&vm).await?;
    let maps = |path: &Path| -> TestResult<usize> {
        let name = path.canonicalize()?;
        let maps = std::fs::read_to_string(format!("/proc/{qemu}/maps"))?;
        Ok(maps.lines().filter(|line| line.ends_with(name.to_str().unwrap_or("?"))).count())
    };
    for _ in 0..3 {
        let layer = vm.add_vpmem(&a).await?;
        assert_eq!(sh(&vm, &format!("cat {}/hello", memory(&layer)?)).await?, "from ext4\n");
        assert_eq!((pmem_in(&vm).await?, maps(&a)?), ("1 nodes, 0 free".into(), 1));
        layer.release().await?;
        assert_eq!((pmem_in(&vm).await?, maps(&a)?), ("0 nodes, 1 free".into(), 1), "it is parked");
    }
    // Another one in the same slot is another device; and the first comes to another slot, by another name.
    let other = vm.add_vpmem(&b).await?;
    let linked = images.path("linked.img");
    std::fs::hard_link(&a, &linked)?;
    let first = vm.add_vpmem(&linked).await?;
    assert_eq!((other.slot(), first.slot(), maps(&a)?), (Some(0), Some(1), 1));
    assert_eq!(sh(&vm, "cat /run/layers/p0/hello /run/layers/p1/hello").await?, "from ext4\nfrom ext4\n");
    assert_eq!(pmem_in(&vm).await?, "2 nodes, 0 free");
    first.release().await?;
    // What was changed since is not taken for what it was.
    std::fs::File::options().write(true).open(&a)?.set_modified(std::time::SystemTime::UNIX_EPOCH)?;
    let changed = vm.add_vpmem(&a).await?;
    assert_eq!((memory(&changed)?, maps(&a)?), ("/run/layers/p1".into(), 2));
    changed.release().await?;
    other.release().await?;
    assert_eq!(pmem_in(&vm).await?, "0 nodes, 3 free");
    vm.close().await
}

#[tokio::test]
async fn when_all_places_are_taken_layers_are_disks_whose_files_are_closed() -> TestResult {
    let images = Images::new()?;
    let content = images.filesystem("first.img", "ext4")?;
    let vm = boot("budget", 2).await?;
    let qemu = qemu::pid(&vm).await?;
    // A bridge has 32 places, more than the VM has slots.
    for number in 0..32 {
        let image = images.path(&format!("{number}.img"));
        std::fs::copy(&content, &image)?;
        let layer = vm.add_vpmem(&image).await?;
        assert_eq!(sh(&vm, &format!("cat {}/hello", memory(&layer)?)).await?, "from ext4\n");
        layer.release().await?;
        assert!(qemu_has(qemu, &image)?, "it stays mapped");
    }
    assert_eq!(pmem_in(&vm).await?, "0 nodes, 32 free");
    let layer = vm.add_vpmem(&content).await?;
    assert_eq!(disk(&layer), "all 32 places for mapped layers are taken, 32 by layers that were removed");
    assert_eq!((layer.guest_path().as_deref(), disks_in(&vm).await?), (Some("/run/layers/p0"), 1));
    assert_eq!(sh(&vm, "cat /run/layers/p0/hello").await?, "from ext4\n");
    assert!(sh(&vm, "touch /run/layers/p0/new").await.is_err(), "it is read-only");
    // One that is parked is had, beside it.
    let parked = vm.add_vpmem(images.path("17.img")).await?;
    assert_eq!(memory(&parked)?, "/run/layers/p1");
    let error = vm.add_vpmem(images.path("18.img")).await.expect_err("there are two slots");
    assert!(chain(&error).contains("all 2 memory-backed devices are taken"), "{}", chain(&error));
    assert!(qemu_has(qemu, &content)?);
    layer.release().await?;
    assert!(!qemu_has(qemu, &content)?, "QEMU still has it");
    assert_eq!(disks_in(&vm).await?, 0);
    parked.release().await?;
    vm.close().await
}

#[tokio::test]
async fn what_cannot_be_mapped_is_a_disk_and_says_why() -> TestResult {
    let images = Images::new()?;
    let vm = boot("unmapped", 8).await?;
    let qemu = qemu::pid(&vm).await?;
    let ext4 = images.filesystem("plain.img", "ext4")?;
    let convert = |name: &str, words: &[&str]| -> TestResult<std::path::PathBuf> {
        let image = images.path(name);
        let words = ["convert", "-f", "raw"].iter().chain(words).map(OsStr::new);
        tool("qemu-img", words.chain([ext4.as_os_str(), image.as_os_str()]))?;
        Ok(image)
    };
    // A VHD's footer is no part of a piece, nor is what stands behind the file system.
    let fixed = convert("fixed.vhd", &["-O", "vpc", "-o", "subformat=fixed,force_size=on"])?;
    let longer = images_copy(&ext4)?;
    std::fs::File::options().write(true).open(&longer)?.set_len((16 << 20) + 4096)?;
    for image in [&fixed, &longer] {
        let layer = vm.add_vpmem(image).await?;
        assert_eq!(sh(&vm, &format!("cat {}/hello", memory(&layer)?)).await?, "from ext4\n");
        layer.release().await?;
    }
    let dynamic = convert("dynamic.vhd", &["-O", "vpc", "-o", "subformat=dynamic,force_size=on"])?;
    let odd = images.path("odd.img");
    std::fs::File::create(&odd)?.set_len((5 << 20) - 4096)?;
    tool("mkfs.ext4", [OsStr::new("-q"), odd.as_os_str()])?;
    let squashfs = images.filesystem("layer.squashfs", "squashfs")?;
    let mut cases = vec![
        (dynamic, "its format is vpc"),
        (odd, "its file system fills 5238784 bytes"),
        (squashfs, "known of ext4 and erofs only"),
    ];
    if rustix::process::geteuid().is_root() {
        // QEMU runs as another user, and opens the file again.
        let private = images.filesystem("private.img", "ext4")?;
        std::fs::set_permissions(&private, std::fs::Permissions::from_mode(0o600))?;
        cases.push((private, "Permission denied"));
    }
    for (image, why) in cases {
        let layer = vm.add_vpmem(&image).await?;
        assert!(disk(&layer).contains(why), "{}", disk(&layer));
        sh(&vm, &format!("ls {}", layer.guest_path().ok_or("no path")?)).await?;
        assert_eq!(disks_in(&vm).await?, 1);
        layer.release().await?;
        assert!(!qemu_has(qemu, &image)?, "QEMU still has {}", image.display());
    }
    // One whose file is wanted back.
    let layer = vm.add_closing_vpmem(&ext4).await?;
    assert_eq!(disk(&layer), "its file is to be closed when it is removed");
    let shared = vm.add_vpmem(&ext4).await?;
    assert_eq!((shared.slot(), disk(&shared)), (layer.slot(), disk(&layer)));
    layer.release().await?;
    shared.release().await?;
    assert!(!qemu_has(qemu, &ext4)?);
    let layer = vm.add_vpmem(&ext4).await?;
    let error = vm.add_closing_vpmem(&ext4).await.expect_err("it may stay open");
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    layer.release().await?;
    vm.close().await
}

#[tokio::test]
async fn what_holds_no_file_system_is_refused_and_its_slot_is_free() -> TestResult {
    let images = Images::new()?;
    let vm = TestVm::builder("no-layers").with(|options| (options.vpmem_devices, options.scsi_controllers) = (2, 0));
    let vm = vm.boot().await?;
    let empty = images.raw("empty.img", 2)?;
    let error = chain(&vm.add_vpmem(&empty).await.expect_err("nothing is in it"));
    assert!(error.contains("holds no file system") && error.contains("empty.img"), "{error}");
    assert_eq!(sh(&vm, "ls /run/layers 2>/dev/null | wc -l").await?.trim(), "0");
    assert_eq!(pmem_in(&vm).await?, "0 nodes, 1 free");
    // Without an adapter there is no other way.
    let odd = images.path("odd.img");
    std::fs::File::create(&odd)?.set_len(4096)?;
    let error = chain(&vm.add_vpmem(&odd).await.expect_err("it cannot be mapped"));
    assert!(error.contains("not whole 2 MiB") && error.contains("no SCSI controller"), "{error}");
    let layer = vm.add_vpmem(images.filesystem("good.img", "ext4")?).await?;
    assert_eq!(memory(&layer)?, "/run/layers/p0");
    layer.release().await?;
    vm.close().await
}

#[tokio::test]
async fn a_layer_in_use_stays_and_goes_later() -> TestResult {
    let images = Images::new()?;
    let (lower, upper) = (images.filesystem("lower.img", "ext4")?, images.filesystem("upper.img", "ext4")?);
    let vm = boot("layer-busy", 4).await?;
    let (lower, upper) = (vm.add_vpmem(&lower).await?, vm.add_vpmem(&upper).await?);
    let (at, over) = (memory(&lower)?, memory(&upper)?);
    // A program that has a file open.
    let user = vm.create_process(&ProcessSpec::new(["sh", "-c", "exec sleep 1000 < /run/layers/p0/hello"])).await?;
    while !sh(&vm, "ls -l /proc/*/fd 2>/dev/null | grep -c /run/layers/p0/hello; true").await?.starts_with('1') {}
    let error = lower.release().await.expect_err("it is in use");
    assert_eq!(error.kind(), ErrorKind::Guest, "{error}");
    assert!(chain(&error).contains("/run/layers/p0, which is in use by sleep ("), "{}", chain(&error));
    assert_eq!(sh(&vm, "cat /run/layers/p0/hello").await?, "from ext4\n");
    user.kill().await?;
    user.wait().await?;
    drop(user);
    // Layers that are combined of it, and mounts that somebody made of it.
    let combined = vm.combine_layers_lcow(&[over, at], "", "/run/root").await?;
    let error = chain(&lower.release().await.expect_err("it is in use"));
    assert!(error.contains("the layers combined at /run/root stand on"), "{error}");
    combined.release().await?;
    sh(&vm, "mkdir /tmp/bound; mount -o bind /run/layers/p0 /tmp/bound").await?;
    let error = chain(&lower.release().await.expect_err("it is in use"));
    assert!(error.contains("in use by another mount"), "{error}");
    assert_eq!(sh(&vm, "cat /run/layers/p0/hello /tmp/bound/hello").await?, "from ext4\nfrom ext4\n");
    assert_eq!(pmem_in(&vm).await?, "2 nodes, 0 free");
    sh(&vm, "umount /tmp/bound").await?;
    lower.release().await?;
    upper.release().await?;
    assert_eq!(pmem_in(&vm).await?, "0 nodes, 2 free");
    vm.close().await
}

#[tokio::test]
async fn hundred_layers_of_images_are_added_at_once_and_combined() -> TestResult {
    const COUNT: usize = 100;
    let images = Images::new()?;
    let vm = boot("at-once", 128).await?;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..COUNT {
        let content = images.path(&format!("content-{number}"));
        std::fs::create_dir(&content)?;
        std::fs::write(content.join(format!("only-{number}")), format!("{number}\n"))?;
        let image = images.raw(&format!("{number}.img"), 2)?;
        tool("mkfs.ext4", [OsStr::new("-q"), OsStr::new("-d"), content.as_os_str(), image.as_os_str()])?;
        let vm = (*vm).clone();
        tasks.spawn(async move { (number, vm.add_vpmem(&image).await) });
    }
    let mut layers = Vec::new();
    while let Some(added) = tasks.join_next().await {
        let (number, layer) = added?;
        let layer = layer.map_err(|e| chain(&e))?;
        let at = memory(&layer)?;
        // Each is where it is said to be, whatever order they came in.
        assert_eq!(sh(&vm, &format!("cat {at}/only-{number}")).await?, format!("{number}\n"));
        layers.push(layer);
    }
    let paths = layers.iter().map(memory).collect::<TestResult<Vec<_>>>()?;
    let combined = vm.combine_layers_lcow(&paths, "/run/scratch", "/run/root").await?;
    assert_eq!(sh(&vm, "cat /run/root/only-* | sort -n | tail -n 1; ls /run/root | grep -c only").await?, "99\n100\n");
    combined.release().await?;
    let mut tasks = tokio::task::JoinSet::new();
    for layer in layers {
        tasks.spawn(async move { layer.release().await });
    }
    while let Some(released) = tasks.join_next().await {
        released?.map_err(|e| chain(&e))?;
    }
    assert_eq!(pmem_in(&vm).await?, "0 nodes, 100 free");
    vm.close().await
}

#[tokio::test]
async fn qemu_is_killed_while_layers_are_being_added() -> TestResult {
    let images = Images::new()?;
    let first = images.filesystem("first.img", "ext4")?;
    let vm = boot("layers-pulled", 64).await?;
    let qemu = qemu::pid(&vm).await?;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..20 {
        let image = images.path(&format!("{number}.img"));
        std::fs::copy(&first, &image)?;
        let vm = (*vm).clone();
        // Until something fails.
        tasks.spawn(async move {
            loop {
                let attached = vm.add_vpmem(&image).await;
                let released = match attached {
                    Ok(layer) => layer.release().await,
                    Err(error) => return error,
                };
                if let Err(error) = released {
                    return error;
                }
            }
        });
    }
    while sh(&vm, "ls /run/layers 2>/dev/null | wc -l").await?.trim() == "0" {}
    let process = rustix::process::Pid::from_raw(qemu.cast_signed()).ok_or("no pid")?;
    rustix::process::kill_process(process, rustix::process::Signal::KILL)?;
    let ended = tokio::time::timeout(std::time::Duration::from_secs(60), async {
        while let Some(error) = tasks.join_next().await {
            let error = error?;
            assert!(crate::disks::is_of_an_ended_vm(&error), "{}", chain(&error));
        }
        TestResult::Ok(())
    });
    ended.await.map_err(|_| "an attach hangs")??;
    vm.close().await
}
