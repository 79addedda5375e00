//! SCSI disks, plugged into running guests: what is written, who may, and what is left of them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use uvm::{ErrorKind, PipeMount, ProcessSpec, ScsiDisk, ScsiMount, ShareKind, ShareOptions, UtilityVm, UvmError};
use uvm_testkit::{TestResult, TestVm};

use crate::cli::Run;
use crate::faults::chain;
use crate::images::{Images, tool};
use crate::process::text;
use crate::qemu;

/// What a script prints in the guest; an error if it fails.
pub(crate) async fn sh(vm: &UtilityVm, script: &str) -> TestResult<String> {
    let output = vm.create_process(&ProcessSpec::new(["sh", "-c", script])).await?.output().await?;
    if !output.exit.is_success() {
        return Err(format!("{script}: {:?}: {}", output.exit, text(&output.stderr)).into());
    }
    Ok(text(&output.stdout).to_owned())
}

/// A refusal, as one text.
pub(crate) async fn refused(vm: &UtilityVm, disk: &ScsiDisk) -> String {
    match vm.add_scsi(disk).await {
        Ok(disk) => panic!("{disk:?} was attached"),
        Err(error) => chain(&error),
    }
}

/// The guest's device of a disk.
pub(crate) async fn device(vm: &UtilityVm, disk: &ScsiMount) -> TestResult<String> {
    let (controller, lun) = disk.controller().zip(disk.lun()).ok_or("not attached")?;
    let name = sh(vm, &format!("ls /sys/bus/scsi/devices/*:0:{controller}:{lun}/block")).await?;
    Ok(format!("/dev/{}", name.trim()))
}

/// How many disks the guest sees.
pub(crate) async fn disks_in(vm: &UtilityVm) -> TestResult<usize> {
    Ok(sh(vm, "ls -d /sys/block/sd* 2>/dev/null | wc -l").await?.trim().parse()?)
}

#[tokio::test]
async fn each_file_system_is_mounted_and_read() -> TestResult {
    let images = Images::new()?;
    let vm = TestVm::builder("filesystems").boot().await?;
    for kind in ["ext4", "xfs", "erofs", "squashfs"] {
        let image = images.filesystem(&format!("{kind}.img"), kind)?;
        let at = format!("/run/disks/{kind}");
        let disk = vm.add_scsi(&ScsiDisk::new(&image).with_guest_path(&at).read_only()).await?;
        assert_eq!(sh(&vm, &format!("cat {at}/hello")).await?, format!("from {kind}\n"));
        assert!(sh(&vm, &format!("touch {at}/new")).await.is_err(), "{kind} is read-only");
        disk.release().await?;
        assert_eq!(sh(&vm, "ls /run/disks").await?, "", "the mount point is gone");
        assert_eq!(disks_in(&vm).await?, 0);
    }
    vm.close().await
}

#[tokio::test]
async fn what_a_guest_writes_is_in_the_image_once_it_is_released() -> TestResult {
    let images = Images::new()?;
    let image = images.filesystem("data.img", "ext4")?;
    let vm = TestVm::builder("data").boot().await?;
    let disk = vm.add_scsi(&ScsiDisk::new(&image).with_guest_path("/mnt")).await?;
    assert_eq!(disk.guest_path(), Some("/mnt"));
    sh(&vm, "echo written > /mnt/new; rm /mnt/hello").await?;
    disk.release().await?;
    // Nobody has it any more.
    let quiet = ["-fn"].map(OsStr::new);
    tool("e2fsck", quiet.into_iter().chain([image.as_os_str()]))?;
    let again = vm.add_scsi(&ScsiDisk::new(&image).with_guest_path("/mnt").read_only()).await?;
    assert_eq!(sh(&vm, "cd /mnt; ls -d hello new 2>/dev/null; cat new").await?, "new\nwritten\n");
    again.release().await?;
    vm.close().await
}

#[tokio::test]
async fn a_disk_that_a_program_has_mounted_is_not_taken_from_under_it() -> TestResult {
    let images = Images::new()?;
    let vm = TestVm::builder("mounted").boot().await?;
    for mounted in [None, Some("/run/first")] {
        let image = images.filesystem(&format!("{}.img", mounted.is_some()), "ext4")?;
        let wanted = ScsiDisk::new(&image);
        let disk = vm.add_scsi(&mounted.map_or(wanted.clone(), |path| wanted.with_guest_path(path))).await?;
        let node = device(&vm, &disk).await?;
        sh(&vm, &format!("modprobe ext4 2>/dev/null; mkdir -p /run/other && mount -t ext4 {node} /run/other")).await?;
        let error = disk.release().await.expect_err("it is mounted");
        let said = chain(&error);
        assert!(said.contains(&node) && said.contains("busy"), "{said}");
        sh(&vm, "cat /run/other/hello && echo more > /run/other/more && sync").await?;
        if let Some(path) = mounted {
            assert_eq!(sh(&vm, &format!("cat {path}/more")).await?, "more\n", "it is where it was");
        }
        sh(&vm, "umount /run/other").await?;
        disk.release().await?;
        assert_eq!(disks_in(&vm).await?, 0);
    }
    vm.close().await
}

#[tokio::test]
async fn a_disk_that_was_dropped_in_use_goes_with_the_next_who_has_it() -> TestResult {
    let images = Images::new()?;
    let image = images.filesystem("data.img", "ext4")?;
    let vm = TestVm::builder("dropped").boot().await?;
    let wanted = ScsiDisk::new(&image).with_guest_path("/mnt");
    let disk = vm.add_scsi(&wanted).await?;
    let user = vm.create_process(&ProcessSpec::new(["sleep", "1000"]).with_cwd("/mnt")).await?;
    drop(disk);
    let disk = vm.add_scsi(&wanted).await?;
    assert_eq!((disk.lun(), disks_in(&vm).await?), (Some(0), 1));
    let error = disk.release().await.expect_err("it is in use");
    assert!(chain(&error).contains("busy"), "{error}");
    user.kill().await?;
    user.wait().await?;
    drop(user);
    disk.release().await?;
    assert_eq!(disks_in(&vm).await?, 0);
    // Another VM may have it now.
    let other = TestVm::builder("next").boot().await?;
    other.add_scsi(&wanted).await?.release().await?;
    other.close().await?;
    vm.close().await
}

#[tokio::test]
async fn names_that_are_not_unicode_are_of_different_things() -> TestResult {
    let images = Images::new()?;
    let vm = TestVm::builder("names").boot().await?;
    let (mut disks, mut layers, mut pipes, mut shares) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (number, name) in [b"\xff", b"\xfe"].into_iter().enumerate() {
        let dir = images.path("").join(OsStr::from_bytes(name));
        std::fs::create_dir(&dir)?;
        std::fs::write(dir.join("hello"), format!("{number}"))?;
        let made = images.filesystem(&format!("{number}.img"), "ext4")?;
        std::fs::copy(&made, dir.join("disk"))?;
        std::fs::rename(&made, dir.join("layer"))?;
        let _listener = UnixListener::bind(dir.join("socket"))?;
        disks.push(vm.add_scsi(&ScsiDisk::new(dir.join("disk"))).await?);
        layers.push(vm.add_vpmem(dir.join("layer")).await?);
        pipes.push(vm.add_pipe_at(dir.join("socket"), format!("/run/sockets/{number}")).await?);
        shares.push(vm.share(&dir, &format!("/run/shares/{number}"), true).await?);
        let plan9 = ShareOptions::new(&dir, format!("/run/plan9/{number}")).with_kind(ShareKind::Plan9);
        shares.push(vm.share_with(&plan9).await?);
    }
    assert_eq!(disks_in(&vm).await?, 2);
    assert_ne!(layers[0].guest_path(), layers[1].guest_path());
    assert_eq!(
        pipes.iter().map(PipeMount::guest_path).collect::<Vec<_>>(),
        [Some("/run/sockets/0"), Some("/run/sockets/1")]
    );
    assert_eq!(sh(&vm, "cat /run/shares/*/hello /run/plan9/*/hello").await?, "0101");
    vm.close().await
}

#[tokio::test]
async fn each_format_takes_writes_and_keeps_them() -> TestResult {
    let images = Images::new()?;
    let vm = TestVm::builder("formats").boot().await?;
    for (name, format, options) in [
        ("plain.img", "raw", ""),
        ("fixed.vhd", "vpc", "subformat=fixed,force_size=on"),
        ("dynamic.vhd", "vpc", "subformat=dynamic,force_size=on"),
        ("disk.vhdx", "vhdx", ""),
        ("disk.qcow2", "qcow2", ""),
    ] {
        let image = images.create(name, format, options)?;
        let disk = vm.add_scsi(&ScsiDisk::new(&image)).await?;
        let node = device(&vm, &disk).await?;
        let blocks = sh(&vm, &format!("cat /sys/block/{}/size", node.trim_start_matches("/dev/"))).await?;
        assert_eq!(blocks.trim(), (16 << 11).to_string(), "{name}");
        sh(&vm, &format!("yes {name} | head -c 3000000 | dd of={node} bs=1M conv=fsync 2>/dev/null")).await?;
        disk.release().await?;
        let disk = vm.add_scsi(&ScsiDisk::new(&image).read_only()).await?;
        let node = device(&vm, &disk).await?;
        let same = format!("yes {name} | head -c 3000000 | cmp -n 3000000 - {node}");
        sh(&vm, &same).await?;
        assert!(sh(&vm, &format!("echo x > {node}")).await.is_err(), "{name} is read-only");
        disk.release().await?;
    }
    vm.close().await
}

#[tokio::test]
async fn what_cannot_be_attached_is_named_and_leaves_nothing() -> TestResult {
    let images = Images::new()?;
    let vm = TestVm::builder("refusals").boot().await?;
    let secret = images.raw("secret.img", 1)?;
    let backed = images.path("backed.qcow2");
    let words = ["create", "-q", "-f", "qcow2", "-F", "raw", "-b"].map(OsStr::new);
    tool("qemu-img", words.into_iter().chain([secret.as_os_str(), backed.as_os_str()]))?;
    let error = refused(&vm, &ScsiDisk::new(&backed)).await;
    assert!(error.contains("secret.img") && error.contains("backed.qcow2"), "{error}");
    // A guest can turn its raw disk into such an image; it stays a raw disk.
    let disguised = images.path("disguised.img");
    std::fs::copy(&backed, &disguised)?;
    let disk = vm.add_scsi(&ScsiDisk::new(&disguised).read_only()).await?;
    let node = device(&vm, &disk).await?;
    assert_eq!(sh(&vm, &format!("head -c 3 {node}")).await?, "QFI");
    disk.release().await?;

    let error = refused(&vm, &ScsiDisk::new(images.path("none.img"))).await;
    assert!(error.contains("none.img") && error.contains("No such file"), "{error}");
    let error = refused(&vm, &ScsiDisk::physical(&secret)).await;
    assert!(error.contains("secret.img") && error.contains("block device"), "{error}");
    let error = refused(&vm, &ScsiDisk::new(&secret).with_guest_path("/run/data")).await;
    assert!(error.contains("holds no file system") && error.contains("ext4"), "{error}");
    assert_eq!(sh(&vm, "ls -d /run/data 2>/dev/null || echo gone").await?, "gone\n", "what was made for it");
    assert_eq!(disks_in(&vm).await?, 0);
    // Place and file are free.
    let disk = vm.add_scsi(&ScsiDisk::new(&secret)).await?;
    assert_eq!((disk.controller(), disk.lun()), (Some(0), Some(0)));
    disk.release().await?;
    vm.close().await
}

#[tokio::test]
async fn a_disk_is_written_by_one_vm_and_read_by_many() -> TestResult {
    let images = Images::new()?;
    let image = images.filesystem("shared.img", "ext4")?;
    let (one, two) = tokio::try_join!(TestVm::builder("one").boot(), TestVm::builder("two").boot())?;
    let reads = ScsiDisk::new(&image).with_guest_path("/mnt").read_only();
    let (first, second) = tokio::try_join!(one.add_scsi(&reads), two.add_scsi(&reads))?;
    for vm in [&one, &two] {
        assert_eq!(sh(vm, "cat /mnt/hello").await?, "from ext4\n");
    }
    first.release().await?;
    let error = refused(&one, &ScsiDisk::new(&image)).await;
    assert!(error.contains(&format!("VM {}", two.id())) && error.contains("for writing"), "{error}");
    assert!(!error.contains(&format!("VM {} (", one.id())), "it was only to use it: {error}");
    second.release().await?;
    let first = one.add_scsi(&ScsiDisk::new(&image)).await?;
    for disk in [reads, ScsiDisk::new(&image)] {
        let error = refused(&two, &disk).await;
        assert!(error.contains(&format!("VM {}", one.id())), "{error}");
        assert!(!error.contains(&format!("VM {} (", two.id())), "{error}");
    }
    // The VM itself has it, by another name.
    let same = images.path("same.img");
    std::fs::hard_link(&image, &same)?;
    let error = refused(&one, &ScsiDisk::new(&same)).await;
    let this = format!("it is in use by this VM's disk {} at controller 0, LUN 0", image.display());
    assert!(error.ends_with(&this), "{error}");
    first.release().await?;
    two.add_scsi(&ScsiDisk::new(&image)).await?.release().await?;
    one.close().await?;
    two.close().await
}

#[tokio::test]
async fn an_image_that_is_attached_raw_and_looks_like_another_is_hinted_at() -> TestResult {
    let images = Images::new()?;
    images.create("base.qcow2", "qcow2", "")?;
    let named_raw = images.path("base.img");
    std::fs::copy(images.path("base.qcow2"), &named_raw)?;
    let (raw, qcow2) = (named_raw.display().to_string(), images.path("base.qcow2").display().to_string());
    let script = ["sh", "-c", "cat /sys/block/sd?/size"];
    let run = Run::new(&["--disk", &raw, "--disk", &qcow2], &script)?;
    let output = tokio::task::spawn_blocking(move || run.output(b"")).await??;
    let said = text(&output.stderr);
    let sectors: Vec<&str> = text(&output.stdout).lines().collect();
    assert!(sectors.len() == 2 && sectors[0] != "32768" && sectors[1] == "32768", "{sectors:?}: {said}");
    assert!(said.contains("looks like a qcow2") && said.contains("base.img") && said.contains(".qcow2"), "{said}");
    assert_eq!(said.matches("looks like").count(), 1, "{said}");
    Ok(())
}

#[tokio::test]
async fn a_disk_that_is_in_use_stays_and_goes_later() -> TestResult {
    let images = Images::new()?;
    let image = images.filesystem("busy.img", "ext4")?;
    let vm = TestVm::builder("busy").boot().await?;
    let disk = vm.add_scsi(&ScsiDisk::new(&image).with_guest_path("/mnt")).await?;
    let user = vm.create_process(&ProcessSpec::new(["sleep", "1000"]).with_cwd("/mnt")).await?;
    let error = disk.release().await.expect_err("it is in use");
    assert_eq!(error.kind(), ErrorKind::Guest, "{error}");
    let said = chain(&error);
    assert!(said.contains("/mnt, which is in use by sleep (") && said.contains("busy.img"), "{said}");
    // Nothing is half done.
    assert_eq!(sh(&vm, "cat /mnt/hello; echo more > /mnt/more; cat /mnt/more").await?, "from ext4\nmore\n");
    user.kill().await?;
    user.wait().await?;
    drop(user);
    disk.release().await?;
    assert_eq!(disks_in(&vm).await?, 0);
    vm.close().await
}

/// Whether an error tells of the end of the VM: as that, as that of the connection to its guest, which comes first, or as that
/// of what was asked too late.
pub(crate) fn is_of_an_ended_vm(error: &UvmError) -> bool {
    let said = chain(error);
    matches!(error.kind(), ErrorKind::Exited | ErrorKind::WrongState)
        || said.contains("has ended")
        || said.contains("the connection was cut")
}

#[tokio::test]
async fn qemu_is_killed_while_disks_are_being_attached() -> TestResult {
    let images = Images::new()?;
    let vm = TestVm::builder("pulled").boot().await?;
    let pid = qemu::pid(&vm).await?;
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..50 {
        let (vm, image) = ((*vm).clone(), images.raw(&format!("{index}.img"), 1)?);
        // Until something fails.
        tasks.spawn(async move {
            loop {
                let attached = vm.add_scsi(&ScsiDisk::new(&image)).await;
                let released = match attached {
                    Ok(disk) => disk.release().await,
                    Err(error) => return error,
                };
                if let Err(error) = released {
                    return error;
                }
            }
        });
    }
    // All of them are under way.
    while disks_in(&vm).await? < 5 {}
    let process = rustix::process::Pid::from_raw(pid.cast_signed()).ok_or("no pid")?;
    rustix::process::kill_process(process, rustix::process::Signal::KILL)?;
    let ended = tokio::time::timeout(Duration::from_secs(60), async {
        while let Some(error) = tasks.join_next().await {
            let error = error?;
            assert!(is_of_an_ended_vm(&error), "{}", chain(&error));
        }
        TestResult::Ok(())
    });
    ended.await.map_err(|_| "an attach hangs")??;
    vm.close().await
}

/// What a command of `uvm run` prints, with a disk mounted at /data. The image is whole afterwards.
async fn with_disk(image: &std::path::Path, flag: &str, script: &str) -> TestResult<String> {
    let disk = format!("{}:/data{flag}", image.display());
    let run = Run::new(&["--disk", &disk], &["sh", "-c", script])?;
    let output = tokio::task::spawn_blocking(move || run.output(b"")).await??;
    if !output.status.success() {
        return Err(format!("{script}: {}: {}", output.status, text(&output.stderr)).into());
    }
    let quiet = ["-fn"].map(OsStr::new);
    tool("e2fsck", quiet.into_iter().chain([image.as_os_str()]))?;
    Ok(text(&output.stdout).to_owned())
}

#[tokio::test]
async fn the_command_gives_a_disk_to_a_vm_and_keeps_what_was_written() -> TestResult {
    let images = Images::new()?;
    let image = images.filesystem("data.img", "ext4")?;
    assert_eq!(with_disk(&image, "", "cat /data/hello; echo one > /data/one").await?, "from ext4\n");
    // Somebody who is left behind uses the disk, with output open or closed.
    let closed = "cd /data; sleep 1000 >/dev/null 2>&1 & echo two > /data/two";
    assert_eq!(with_disk(&image, "", closed).await?, "");
    assert_eq!(with_disk(&image, "", "cd /data; sleep 1000 & echo three > /data/three").await?, "");
    let read = "cat /data/one /data/two /data/three; touch /data/four 2>/dev/null || echo read-only";
    assert_eq!(with_disk(&image, ":ro", read).await?, "one\ntwo\nthree\nread-only\n");
    let missing = images.path("missing.img");
    let error = with_disk(&missing, "", "true").await.expect_err("there is none").to_string();
    assert!(error.contains("missing.img") && error.contains("No such file"), "{error}");
    Ok(())
}

#[tokio::test]
async fn what_lies_in_a_disk_of_the_command_is_seen_in_whatever_order_it_is_named() -> TestResult {
    let images = Images::new()?;
    let image = images.filesystem("data.img", "ext4")?;
    let (source, socket) = (images.path("source"), images.path("socket"));
    std::fs::create_dir(&source)?;
    std::fs::write(source.join("file"), "shared\n")?;
    let _listener = UnixListener::bind(&socket)?;
    let share = format!("{}:/data/src", source.display());
    let socket = format!("{}:/data/s.sock", socket.display());
    let disk = format!("{}:/data", image.display());
    let script = "cat /data/src/file; test -S /data/s.sock && echo socket; cp /data/src/file /data/copy";
    let flags = ["--share", &share, "--socket", &socket, "--disk", &disk];
    let run = Run::new(&flags, &["sh", "-c", script])?;
    let output = tokio::task::spawn_blocking(move || run.output(b"")).await??;
    assert_eq!(text(&output.stdout), "shared\nsocket\n", "{}", text(&output.stderr));
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(with_disk(&image, ":ro", "cat /data/copy; ls /data/src | wc -l").await?, "shared\n0\n");
    Ok(())
}

#[tokio::test]
async fn a_command_whose_time_is_up_has_written_what_it_wrote() -> TestResult {
    let images = Images::new()?;
    let image = images.filesystem("data.img", "ext4")?;
    let disk = format!("{}:/data", image.display());
    // Long enough for a busy machine to come so far. The command does not end when it is asked to, and keeps its disk in use.
    let script = "trap '' TERM; exec 3> /data/file; cd /data; echo written >&3; while :; do sleep 1; done";
    let run = Run::new(&["--disk", &disk, "--timeout", "20s"], &["sh", "-c", script])?;
    let output = tokio::task::spawn_blocking(move || run.output(b"")).await??;
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(124), "{said}");
    assert!(!said.contains("could not be given back"), "{said}");
    assert_eq!(with_disk(&image, ":ro", "cat /data/file").await?, "written\n");
    Ok(())
}
