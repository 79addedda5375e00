//! Helpers of virtio-fs shares that end, are stopped or do not answer: the guest goes on, and nothing waits without an end.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::JoinSet;
use uvm::{ErrorKind, ProcessExit, ProcessSpec, ScsiDisk, UtilityVm};
use uvm_testkit::leak::helpers;
use uvm_testkit::{TestResult, TestVm};

use crate::cli::built;
use crate::disks::sh;
use crate::faults::chain;
use crate::images::Images;
use crate::process::text;
use crate::qemu;
use crate::virtio_fs::{by_device, helper_pids, send, the_helper};

/// What a removal, or the end of a helper, may take at most: limits of calls, under the translator.
const BOUNDED: Duration = Duration::from_secs(150);

/// Waits until something holds; an error after [`BOUNDED`].
async fn until(what: &str, holds: impl Fn() -> bool) -> TestResult {
    let began = Instant::now();
    while !holds() {
        if began.elapsed() > BOUNDED {
            return Err(format!("{what}: not within {BOUNDED:?}").into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Stops a helper, and waits until each of its threads has: on a busy machine one goes on for a while, and answers.
async fn stop_helper(helper: Pid) -> TestResult {
    send(helper, Signal::STOP)?;
    let has_stopped = |task: std::io::Result<fs::DirEntry>| {
        let status = task.and_then(|task| fs::read_to_string(task.path().join("status")));
        status.is_ok_and(|status| status.lines().any(|line| line.starts_with("State:\tT")))
    };
    let tasks = format!("/proc/{}/task", helper.as_raw_nonzero());
    until("its stop", || fs::read_dir(&tasks).is_ok_and(|mut tasks| tasks.all(has_stopped))).await
}

/// What comes of something that must not hang.
async fn within<T>(what: &str, work: impl Future<Output = T>) -> TestResult<T> {
    let ended = tokio::time::timeout(BOUNDED, work).await;
    ended.map_err(|_| format!("{what}: not within {BOUNDED:?}").into())
}

/// A program in the guest that has asked the helper for something, and waits for its answer.
async fn asking(vm: &UtilityVm, path: &str) -> TestResult<uvm::Process> {
    let asks = vm.create_process(&ProcessSpec::new(["cat", path])).await?;
    let waits =
        format!("until grep -qs -e request_wait_answer -e fuse_ /proc/{}/wchan; do sleep 0.05; done", asks.id());
    within("a request that waits", sh(vm, &waits)).await??;
    Ok(asks)
}

/// The guest goes on: it takes another disk and another share.
async fn hot_plug_works(vm: &UtilityVm, dir: &Path, image: &Path) -> TestResult {
    let disk = vm.add_scsi(&ScsiDisk::new(image).with_guest_path("/run/disk").read_only()).await?;
    disk.release().await?;
    let share = vm.share_with(&by_device(dir, "/run/again")).await?;
    assert_eq!(sh(vm, "cat /run/again/file").await?, "content");
    share.release().await?;
    Ok(())
}

#[tokio::test]
async fn a_killed_helper_leaves_the_guest_usable() -> TestResult {
    let images = Images::new()?;
    let image = images.filesystem("disk.img", "ext4")?;
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join("file"), "content")?;
    let vm = TestVm::builder("fs-killed").boot().await?;
    // With a request that is not answered, and with none.
    for asked in [true, false] {
        let share = vm.share_with(&by_device(dir.path(), "/run/share")).await?;
        let helper = the_helper(&vm)?;
        send(helper, Signal::STOP)?;
        let asks = if asked { Some(asking(&vm, "/run/share/file").await?) } else { None };
        send(helper, Signal::KILL)?;
        if let Some(asks) = asks {
            let output = within("the end of who asks", asks.output()).await??;
            assert!(!output.exit.is_success(), "it was answered: {:?}", output.exit);
        }
        // The device is taken away at once, so the guest's programs get errors and do not wait.
        let script = "cat /run/share/file 2>/dev/null || echo error";
        assert_eq!(within("an error", sh(&vm, script)).await??, "error\n");
        let error = chain(&share.release().await.expect_err("it was lost"));
        assert!(error.contains("was ended by signal 9") && error.contains(&format!("pid {helper}")), "{error}");
        // It was told once, and is gone.
        share.release().await?;
        hot_plug_works(&vm, dir.path(), &image).await?;
    }
    vm.close().await
}

#[tokio::test]
async fn a_share_that_does_not_answer_is_removed() -> TestResult {
    let images = Images::new()?;
    let image = images.filesystem("disk.img", "ext4")?;
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join("file"), "content")?;
    let vm = TestVm::builder("fs-hangs").boot().await?;
    let share = vm.share_with(&by_device(dir.path(), "/run/share")).await?;
    let helper = the_helper(&vm)?;
    send(helper, Signal::STOP)?;
    // The guest's kernel tells the helper of the end, and waits for its answer.
    let began = Instant::now();
    within("the release", share.release()).await??;
    println!("removed after {:?}", began.elapsed());
    assert!(rustix::process::test_kill_process(helper).is_err(), "it has ended");
    assert_eq!(helper_pids(&vm), []);
    assert_eq!(sh(&vm, "grep -c virtiofs /proc/mounts || true").await?, "0\n");
    hot_plug_works(&vm, dir.path(), &image).await?;
    vm.close().await
}

#[tokio::test]
async fn a_helper_that_stalls_before_its_share_is_there_fails_the_addition_only() -> TestResult {
    const ROUNDS: usize = 3;
    let images = Images::new()?;
    let image = images.filesystem("disk.img", "ext4")?;
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join("file"), "content")?;
    let other = tempfile::tempdir()?;
    let vm = TestVm::builder("fs-stalls").boot().await?;
    let gone = async |helper: Pid, error: &str, cause: &str| {
        assert!(error.contains(&dir.path().display().to_string()) && error.contains(cause), "{error}");
        assert!(rustix::process::test_kill_process(helper).is_err(), "it has ended: {error}");
        assert_eq!(sh(&vm, "grep -c share-stalls /proc/mounts || true").await?, "0\n");
        hot_plug_works(&vm, dir.path(), &image).await
    };
    // As soon as it is there, in the midst of what QEMU, the guest's driver and the helper have to agree on.
    let stop = async || {
        until("a helper", || the_helper(&vm).is_ok()).await?;
        let helper = the_helper(&vm)?;
        send(helper, Signal::STOP).map(|()| helper)
    };
    let options = by_device(dir.path(), "/run/share-stalls");
    for _ in 0..ROUNDS {
        let (added, helper) = within("the addition", async { tokio::join!(vm.share_with(&options), stop()) }).await?;
        let helper = helper?;
        match added {
            Err(error) => gone(helper, &chain(&error), "did not answer QEMU, and was ended").await?,
            Ok(share) => {
                // It was quicker.
                send(helper, Signal::CONT)?;
                share.release().await?;
            }
        }
    }
    // When the guest has the device and has not mounted it yet: the mount point is in a share that does not answer either.
    let outer = vm.share_with(&by_device(other.path(), "/run/outer")).await?;
    let outers = the_helper(&vm)?;
    stop_helper(outers).await?;
    let stop = async || {
        let both = "[ $(cat /sys/bus/virtio/devices/*/device | grep -c 0x001a) = 2 ]";
        // While the mounting waits: programs begin and end all the same.
        sh(&vm, &format!("for _ in $(seq 1000); do {both} && exit; sleep 0.05; done; exit 1")).await?;
        let helper = helper_pids(&vm).into_iter().find(|pid| *pid != outers).ok_or("its helper has ended")?;
        send(helper, Signal::STOP)?;
        send(outers, Signal::CONT)?;
        TestResult::Ok(helper)
    };
    let options = by_device(dir.path(), "/run/outer/share-stalls");
    let both = Box::pin(async { tokio::join!(vm.share_with(&options), stop()) });
    let (added, helper) = within("the addition", both).await?;
    let error = chain(&added.expect_err("it was stopped"));
    // QEMU waits for nothing here, so it is the guest that gives up.
    gone(helper.map_err(|e| format!("{e}: {error}"))?, &error, "the host has to answer for, took longer than").await?;
    outer.release().await?;
    assert_eq!(helper_pids(&vm), []);
    vm.close().await
}

#[tokio::test]
async fn programs_end_while_a_share_is_waited_for() -> TestResult {
    const RUNNING: usize = 4;
    // Far more than threads of the agent that have nothing to do: those that have started programs wait, too.
    const WAITING: usize = 32;
    let dir = tempfile::tempdir()?;
    // Nobody is to give up waiting before the end.
    let vm = TestVm::builder("fs-waits").with(|options| options.deadlines.rpc = 10 * BOUNDED).boot().await?;
    let share = vm.share_with(&by_device(dir.path(), "/run/share")).await?;
    let helper = the_helper(&vm)?;
    let mut running = Vec::new();
    for _ in 0..RUNNING {
        running.push(vm.create_process(&ProcessSpec::new(["sleep", "1000"])).await?);
    }
    stop_helper(helper).await?;
    // The agent looks for each on a thread of its own.
    let mut waiting = JoinSet::new();
    for number in 0..WAITING {
        let (vm, missing) = (vm.clone(), ProcessSpec::new([format!("/run/share/{number}")]));
        waiting.spawn(async move { vm.create_process(&missing).await.map(drop) });
    }
    let all_wait = format!("until [ $(ls /proc/1/task | wc -l) -gt {WAITING} ]; do sleep 0.05; done");
    tokio::select! {
        all_wait = within("the threads", sh(&vm, &all_wait)) => drop(all_wait??),
        answered = waiting.join_next() => panic!("nobody answers: {answered:?}"),
    }
    for process in running {
        assert!(process.kill().await?, "it runs");
        assert_eq!(within("its end", process.wait()).await??, ProcessExit::Signal(Some(9)));
    }
    let answered = waiting.try_join_next();
    assert!(answered.is_none(), "nobody answers: {answered:?}");
    send(helper, Signal::CONT)?;
    while let Some(looked) = within("an answer", waiting.join_next()).await? {
        assert_eq!(looked?.expect_err("it is not there").kind(), ErrorKind::NotFound);
    }
    share.release().await?;
    vm.close().await
}

#[tokio::test]
async fn a_program_that_does_not_come_from_its_share_keeps_no_other_from_starting() -> TestResult {
    let dir = tempfile::tempdir()?;
    let vm = TestVm::builder("fs-starts").with(|options| options.deadlines.rpc = 10 * BOUNDED).boot().await?;
    let share = vm.share_with(&by_device(dir.path(), "/run/share")).await?;
    let helper = the_helper(&vm)?;
    // The agent finds it. What the kernel looks for then, to run it, is on the share.
    sh(&vm, "echo '#!/run/share/interpreter' > /run/script; chmod +x /run/script").await?;
    stop_helper(helper).await?;
    let (waits, waiting) = (vm.clone(), ProcessSpec::new(["/run/script"]));
    let mut waiting = tokio::spawn(async move { waits.create_process(&waiting).await.map(drop) });
    let asked = "until grep -qs -e request_wait_answer -e fuse_ /proc/[0-9]*/wchan; do sleep 0.05; done";
    tokio::select! {
        asked = within("a request that waits", sh(&vm, asked)) => drop(asked??),
        answered = &mut waiting => panic!("nobody answers: {answered:?}"),
    }
    assert_eq!(within("another program", sh(&vm, "echo starts")).await??, "starts\n");
    assert!(!waiting.is_finished());
    send(helper, Signal::CONT)?;
    assert_eq!(within("an answer", waiting).await??.expect_err("there is none").kind(), ErrorKind::NotFound);
    share.release().await?;
    vm.close().await
}

#[tokio::test]
async fn a_vm_goes_on_where_nobody_takes_a_share_over() -> TestResult {
    let images = Images::new()?;
    let image = images.filesystem("disk.img", "ext4")?;
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join("file"), "content")?;
    let programs = tempfile::tempdir()?;
    let (program, moved) = (programs.path().join("uvm-fs"), programs.path().join("moved"));
    fs::copy(built("uvm-fs", "cargo xtask ci")?, &program)?;
    let given = program.clone();
    let builder = TestVm::builder("fs-moved");
    let vm = builder.with_both(|_, host| host.share_helper = Some(given)).boot().await?;
    let share = vm.share_with(&by_device(dir.path(), "/run/share")).await?;
    assert_eq!(sh(&vm, "cat /run/share/file").await?, "content");
    // As an upgrade does.
    fs::rename(&program, &moved)?;
    send(the_helper(&vm)?, Signal::KILL)?;
    // Its driver lets go of the device, and QEMU asks who serves it for the state of its queues. Who asks before that is not
    // answered by anybody.
    let gone = "while grep -q 0x001a /sys/bus/virtio/devices/*/device; do sleep 0.05; done";
    let script = format!("{gone}; cat /run/share/file 2>/dev/null || echo error");
    assert_eq!(within("an error", sh(&vm, &script)).await??, "error\n");
    let error = chain(&within("the release", share.release()).await?.expect_err("it was lost"));
    assert!(error.contains("was ended by signal 9"), "{error}");
    share.release().await?;
    fs::rename(&moved, &program)?;
    hot_plug_works(&vm, dir.path(), &image).await?;
    vm.close().await
}

#[tokio::test]
async fn a_stopped_helper_stops_its_callers_only() -> TestResult {
    let images = Images::new()?;
    let image = images.filesystem("disk.img", "ext4")?;
    let dir = tempfile::tempdir()?;
    let other = tempfile::tempdir()?;
    fs::write(dir.path().join("file"), "content")?;
    fs::write(other.path().join("file"), "content")?;
    let vm = TestVm::builder("fs-stopped").boot().await?;
    let share = vm.share_with(&by_device(dir.path(), "/run/share")).await?;
    let helper = the_helper(&vm)?;
    send(helper, Signal::STOP)?;
    let asks = asking(&vm, "/run/share/file").await?;
    // Everything else goes on.
    hot_plug_works(&vm, other.path(), &image).await?;
    // The guest cannot unmount what its program has open, and then not what does not answer.
    let began = Instant::now();
    let error = chain(&share.release().await.expect_err("it does not answer"));
    assert!(began.elapsed() < BOUNDED, "{:?}: {error}", began.elapsed());
    send(helper, Signal::CONT)?;
    let output = within("the end of who asks", asks.output()).await??;
    assert_eq!(text(&output.stdout), "content");
    share.release().await?;
    assert_eq!(helper_pids(&vm), []);
    // Stopped for good, when nobody in the guest is waiting: its end is QEMU's first, then its own.
    let share = vm.share_with(&by_device(dir.path(), "/run/share")).await?;
    let helper = the_helper(&vm)?;
    send(helper, Signal::STOP)?;
    vm.close().await?;
    assert!(rustix::process::test_kill_process(helper).is_err());
    drop(share);
    Ok(())
}

/// What was written is on the disks, though the share that one of them is mounted in answers nothing any more.
#[tokio::test]
async fn a_guest_with_a_stopped_helper_powers_off_and_leaves_its_disks_whole() -> TestResult {
    let images = Images::new()?;
    let (beside, beneath) = (images.filesystem("beside.img", "ext4")?, images.filesystem("beneath.img", "ext4")?);
    let disks = [(beside, "/run/disk"), (beneath, "/run/share/disk")];
    let dir = tempfile::tempdir()?;
    let vm = TestVm::builder("fs-power-off").boot().await?;
    let share = vm.share_with(&by_device(dir.path(), "/run/share")).await?;
    let mut plugged = Vec::new();
    for (image, path) in &disks {
        plugged.push(vm.add_scsi(&ScsiDisk::new(image).with_guest_path(*path)).await?);
    }
    sh(&vm, "echo fresh > /run/disk/file; echo fresh > /run/share/disk/file").await?;
    stop_helper(the_helper(&vm)?).await?;
    vm.shutdown().await?;
    drop((share, plugged));
    vm.close().await?;

    let vm = TestVm::builder("fs-power-off").boot().await?;
    for (image, _) in &disks {
        let disk = vm.add_scsi(&ScsiDisk::new(image).with_guest_path("/run/disk").read_only()).await?;
        assert_eq!(sh(&vm, "cat /run/disk/file").await?, "fresh\n", "{}", image.display());
        disk.release().await?;
    }
    vm.close().await
}

#[tokio::test]
async fn what_was_written_is_on_its_disk_though_its_writer_waits_for_a_share() -> TestResult {
    let images = Images::new()?;
    let image = images.filesystem("beneath.img", "ext4")?;
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join("file"), "content")?;
    let vm = TestVm::builder("fs-held").boot().await?;
    let share = vm.share_with(&by_device(dir.path(), "/run/share")).await?;
    let disk = vm.add_scsi(&ScsiDisk::new(&image).with_guest_path("/run/share/disk")).await?;
    // Nothing gets there by itself.
    sh(&vm, "cd /proc/sys/vm; echo 0 > dirty_writeback_centisecs; echo 360000 > dirty_expire_centisecs").await?;
    // Who waits for a share outlives all signals, with what it has open.
    let keeps = "exec 3> /run/share/disk/held; echo fresh >&3; echo ready; read line; exec cat /run/share/file";
    let mut spec = ProcessSpec::new(["sh", "-c", keeps]);
    spec.stdin = true;
    let mut keeps = vm.create_process(&spec).await?;
    let mut line = String::new();
    BufReader::new(keeps.stdout.as_mut().ok_or("no output")?).read_line(&mut line).await?;
    assert_eq!(line, "ready\n");
    stop_helper(the_helper(&vm)?).await?;
    keeps.close_stdin().await?;
    let asked = "until grep -qs -e request_wait_answer -e fuse_ /proc/[0-9]*/wchan; do sleep 0.05; done";
    within("a request that waits", sh(&vm, asked)).await??;
    // The kernel may wait, too, before it powers off, until the VM is ended.
    let shut_down = within("the end", vm.shutdown()).await?;
    drop((share, disk, keeps));
    vm.close().await?;

    let vm = TestVm::builder("fs-held").boot().await?;
    let disk = vm.add_scsi(&ScsiDisk::new(&image).with_guest_path("/run/disk").read_only()).await?;
    assert_eq!(sh(&vm, "cat /run/disk/held").await?, "fresh\n", "{shut_down:?}");
    disk.release().await?;
    vm.close().await
}

#[tokio::test]
async fn helpers_end_with_qemu() -> TestResult {
    let dir = tempfile::tempdir()?;
    let vm = TestVm::builder("fs-qemu").boot().await?;
    let share = vm.share_with(&by_device(dir.path(), "/run/share")).await?;
    let qemu = Pid::from_raw(qemu::pid(&vm).await?.cast_signed()).ok_or("no QEMU")?;
    send(qemu, Signal::KILL)?;
    vm.wait().await?;
    let id = vm.id().to_string();
    until("the end of the helper", || helpers(&id).is_empty()).await?;
    drop(share);
    vm.close().await
}
