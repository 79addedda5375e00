//! Directories of the host, shared with running guests as devices that a process of their own serves.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use uvm::{ErrorKind, ProcessSpec, ScsiDisk, Share, ShareKind, ShareOptions, ShareOwners, ShareWay, UtilityVm};
use uvm_testkit::leak::helpers;
use uvm_testkit::{TestResult, TestVm};

use crate::cli::{Run, built};
use crate::disks::sh;
use crate::faults::chain;
use crate::images::Images;
use crate::process::text;
use crate::qemu;

/// What a removal, or the end of a helper, may take at most: limits of calls, under the translator.
const BOUNDED: Duration = Duration::from_secs(150);

fn by_device(host: &Path, guest: impl Into<String>) -> ShareOptions {
    ShareOptions::new(host, guest).with_kind(ShareKind::VirtioFs)
}

/// The processes that serve this VM's shares.
fn helper_pids(vm: &UtilityVm) -> Vec<Pid> {
    let all = helpers(vm.id().as_str());
    all.iter().filter_map(|text| Pid::from_raw(text.split_once(':')?.0.parse().ok()?)).collect()
}

fn the_helper(vm: &UtilityVm) -> TestResult<Pid> {
    match helper_pids(vm)[..] {
        [pid] => Ok(pid),
        ref others => Err(format!("not one helper: {others:?}").into()),
    }
}

fn send(pid: Pid, signal: Signal) -> TestResult {
    Ok(rustix::process::kill_process(pid, signal)?)
}

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

#[tokio::test]
async fn a_directory_is_read_and_written_by_both_ends() -> TestResult {
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join("hello"), "from the host\n")?;
    fs::copy(built("../x86_64-unknown-linux-musl/agent/uvm-test-guest", "cargo xtask ci")?, dir.path().join("guest"))?;
    let vm = TestVm::builder("fs").boot().await?;
    // What fits a whole directory.
    let share = vm.share(dir.path(), "/run/share", false).await?;
    assert_eq!(share.way(), ShareWay::VirtioFs);
    assert_eq!(sh(&vm, "cat /run/share/hello").await?, "from the host\n");
    // What its server is asked for at once, when a file is read from its beginning to its end.
    let read_ahead = "cat /sys/class/bdi/$(grep ' /run/share ' /proc/self/mountinfo | cut -d' ' -f3)/read_ahead_kb";
    assert_eq!(sh(&vm, read_ahead).await?, "1024\n");
    assert_eq!(sh(&vm, "mkdir /run/share/sub; /run/share/guest files /run/share/sub").await?, "7 parts hold\n");
    sh(&vm, "cd /run/share; echo from the guest > sub/new; chmod 640 sub/new; ln sub/new sub/more").await?;
    let meta = dir.path().join("sub/more").metadata()?;
    let own = rustix::process::geteuid().as_raw();
    assert_eq!((meta.nlink(), meta.permissions().mode() & 0o777, meta.uid()), (2, 0o640, own));
    // What the host makes is seen at once, and what it changes with the next opening.
    fs::write(dir.path().join("late"), "1")?;
    assert_eq!(sh(&vm, "cat /run/share/late").await?, "1");
    let helper = the_helper(&vm)?;
    share.release().await?;
    assert!(rustix::process::test_kill_process(helper).is_err(), "it has ended, and closed what it had open");
    assert_eq!(sh(&vm, "ls -d /run/share 2>/dev/null || echo gone").await?, "gone\n");
    vm.close().await
}

#[tokio::test]
async fn nothing_outside_is_reached_and_nothing_gets_rights() -> TestResult {
    let dir = tempfile::tempdir()?;
    let secret = dir.path().join("secret");
    fs::write(&secret, "secret\n")?;
    let shared = dir.path().join("shared");
    fs::create_dir(&shared)?;
    symlink(&secret, shared.join("absolute"))?;
    symlink("../secret", shared.join("relative"))?;
    fs::write(shared.join("program"), "")?;
    fs::set_permissions(shared.join("program"), fs::Permissions::from_mode(0o6755))?;
    let vm = TestVm::builder("fs-confined").boot().await?;
    let share = vm.share_with(&by_device(&shared, "/run/share")).await?;
    let script = "cd /run/share; cat absolute relative ../../secret 2>/dev/null; mknod device c 1 5 && echo made; \
                  touch suid; chmod 6755 suid; stat -c %a suid; mkfifo fifo; echo changed > program";
    let seen = sh(&vm, script).await?;
    assert_eq!(seen, "755\n");
    let mode = |name: &str| Ok::<_, std::io::Error>(shared.join(name).metadata()?.permissions().mode() & 0o7000);
    // A program that had the bits, and was written by the guest, has them no more.
    assert_eq!((mode("suid")?, mode("program")?), (0, 0));
    assert!(!shared.join("device").exists());
    share.release().await?;
    vm.close().await
}

#[tokio::test]
async fn what_is_read_only_stays_as_it_is() -> TestResult {
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join("one"), "one")?;
    let vm = TestVm::builder("fs-fixed").boot().await?;
    let share = vm.share_with(&by_device(dir.path(), "/run/read").read_only()).await?;
    let script = "cd /run/read; cat one; for change in 'touch one' 'rm one' 'mkdir two' 'chmod 600 one'; do \
                  $change 2>/dev/null || echo fixed; done; mount -o remount,rw /run/read && \
                  { echo x > one; rm one; mkdir two; } 2>/dev/null; cat one";
    assert_eq!(sh(&vm, script).await?, "onefixed\nfixed\nfixed\nfixed\none");
    assert_eq!(fs::read_to_string(dir.path().join("one"))?, "one");
    share.release().await?;
    // A single file, and some names of a directory, go by 9P; and so does whatever is asked to.
    let file = vm.share(dir.path().join("one"), "/run/file", true).await?;
    let plan9 = vm.share_with(&ShareOptions::new(dir.path(), "/run/9p").with_kind(ShareKind::Plan9)).await?;
    assert_eq!((file.way(), plan9.way()), (ShareWay::Plan9, ShareWay::Plan9));
    assert_eq!(sh(&vm, "cat /run/file/one /run/9p/one").await?, "oneone");
    let wrong = by_device(&dir.path().join("one"), "/run/wrong");
    assert!(chain(&vm.share_with(&wrong).await.expect_err("no directory")).contains("whole directories"));
    let missing = by_device(&dir.path().join("missing"), "/run/missing");
    let error = chain(&vm.share_with(&missing).await.expect_err("it is not there"));
    assert!(error.contains("missing") && error.contains("No such file"), "{error}");
    drop((file, plan9));
    vm.close().await
}

#[tokio::test]
async fn a_helper_is_the_owner_of_its_directory_and_little_more() -> TestResult {
    let root = rustix::process::geteuid().is_root();
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join("old"), "old")?;
    let own = rustix::process::geteuid().as_raw();
    let owner = if root { 4711 } else { own };
    if root {
        chown(dir.path(), Some(owner), Some(owner))?;
    }
    let vm = TestVm::builder("fs-owner").boot().await?;
    let share = vm.share_with(&by_device(dir.path(), "/run/share")).await?;
    let status = fs::read_to_string(format!("/proc/{}/status", the_helper(&vm)?))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(|value| value.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).unwrap_or_default()
    };
    assert_eq!(field("Uid:"), vec![owner.to_string(); 4]);
    assert_eq!(field("Seccomp:"), ["2"]);
    assert_eq!(field("NoNewPrivs:"), ["1"]);
    assert_eq!((field("CapEff:"), field("CapPrm:")), (vec!["0".repeat(16)], vec!["0".repeat(16)]));
    // To the guest everything is the owner's, and so is what it makes.
    let script = format!(
        "cd /run/share; touch new; stat -c %u old new .; chown {owner}:{owner} new; chown 77 new 2>/dev/null || echo refused"
    );
    let group = if root { owner.to_string() } else { "$(stat -c %g .)".into() };
    let script = script.replace(&format!("{owner}:{owner}"), &format!("{owner}:{group}"));
    assert_eq!(sh(&vm, &script).await?, format!("{owner}\n{owner}\n{owner}\nrefused\n"));
    assert_eq!(dir.path().join("new").metadata()?.uid(), owner);
    share.release().await?;
    if root {
        // A file of root in the directory of another is out of the helper's reach.
        fs::set_permissions(dir.path().join("old"), fs::Permissions::from_mode(0o600))?;
        let share = vm.share_with(&by_device(dir.path(), "/run/share")).await?;
        assert_eq!(sh(&vm, "cat /run/share/old 2>/dev/null || echo refused").await?, "refused\n");
        share.release().await?;
        let share = vm.share_with(&by_device(dir.path(), "/run/share").with_owners(ShareOwners::Passthrough)).await?;
        let script = "cd /run/share; cat old; stat -c %u old .; touch new2; chown 77:78 new2";
        assert_eq!(sh(&vm, script).await?, format!("old0\n{owner}\n"));
        let made = dir.path().join("new2").metadata()?;
        assert_eq!((made.uid(), made.gid()), (77, 78));
        share.release().await?;
        chown(dir.path(), Some(0), Some(0))?;
        let share = vm.share_with(&by_device(dir.path(), "/run/share")).await?;
        let status = fs::read_to_string(format!("/proc/{}/status", the_helper(&vm)?))?;
        let line = status.lines().find(|line| line.starts_with("CapEff:")).unwrap_or_default();
        // Owners, permissions: chown, dac_override, fowner.
        assert_eq!(line.split_whitespace().last(), Some("000000000000000b"));
        share.release().await?;
    } else {
        let passed = by_device(dir.path(), "/run/share").with_owners(ShareOwners::Passthrough);
        let error = vm.share_with(&passed).await.expect_err("not for everybody");
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", chain(&error));
    }
    vm.close().await
}

#[tokio::test]
async fn many_are_there_at_once_and_leave_nothing() -> TestResult {
    const MANY: usize = 24;
    let dirs: Vec<_> = (0..MANY).map(|_| tempfile::tempdir()).collect::<Result<_, _>>()?;
    for (index, dir) in dirs.iter().enumerate() {
        fs::write(dir.path().join("name"), index.to_string())?;
    }
    let vm = TestVm::builder("fs-many").boot().await?;
    let qemu = qemu::pid(&vm).await?;
    let mut before = None;
    // The first round has QEMU open what it keeps.
    for _ in 0..3 {
        let adding = dirs.iter().enumerate().map(|(index, dir)| {
            let (vm, options) = (UtilityVm::clone(&vm), by_device(dir.path(), format!("/run/shares/{index}")));
            tokio::spawn(async move { vm.share_with(&options).await })
        });
        let mut shares: Vec<Share> = Vec::new();
        for added in adding.collect::<Vec<_>>() {
            shares.push(added.await??);
        }
        let expected: String = (0..MANY).map(|index| index.to_string()).collect();
        let names = (0..MANY).map(|index| format!("/run/shares/{index}/name")).collect::<Vec<_>>().join(" ");
        assert_eq!(sh(&vm, &format!("cat {names}")).await?, expected);
        assert_eq!(helper_pids(&vm).len(), MANY);
        for share in &shares {
            share.release().await?;
        }
        assert_eq!(sh(&vm, "grep -c virtiofs /proc/mounts || true").await?, "0\n");
        assert_eq!(sh(&vm, "ls /sys/bus/virtio/drivers/virtiofs | grep -c virtio || true").await?, "0\n");
        assert_eq!(helper_pids(&vm), []);
        let now = qemu::descriptors(qemu)?;
        assert!(before.is_none_or(|before| now <= before), "QEMU has {now} descriptors open, before {before:?}");
        before = Some(now);
    }
    vm.close().await
}

#[tokio::test]
async fn two_guests_have_one_directory() -> TestResult {
    let dir = tempfile::tempdir()?;
    let one = TestVm::builder("fs-one").boot().await?;
    let two = TestVm::builder("fs-two").boot().await?;
    let shares =
        (one.share_with(&by_device(dir.path(), "/mnt")).await?, two.share_with(&by_device(dir.path(), "/mnt")).await?);
    sh(&one, "echo from one > /mnt/file").await?;
    assert_eq!(sh(&two, "cat /mnt/file; echo from two >> /mnt/file").await?, "from one\n");
    // Within the second that attributes are believed.
    sh(&one, "until [ $(wc -l < /mnt/file) = 2 ]; do sleep 0.2; done").await?;
    shares.0.release().await?;
    assert_eq!(sh(&two, "cat /mnt/file").await?, "from one\nfrom two\n");
    shares.1.release().await?;
    one.close().await?;
    two.close().await
}

#[tokio::test]
async fn a_share_in_use_stays() -> TestResult {
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join("file"), "content")?;
    let vm = TestVm::builder("fs-busy").boot().await?;
    let share = vm.share_with(&by_device(dir.path(), "/run/share")).await?;
    let user = vm.create_process(&ProcessSpec::new(["sleep", "1000"]).with_cwd("/run/share")).await?;
    let error = chain(&share.release().await.expect_err("it is in use"));
    assert!(error.contains("in use by sleep ("), "{error}");
    assert_eq!(sh(&vm, "cat /run/share/file").await?, "content");
    user.kill().await?;
    user.wait().await?;
    drop(user);
    share.release().await?;
    vm.close().await
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
    send(outers, Signal::STOP)?;
    let stop = async || {
        sh(&vm, "until [ $(cat /sys/bus/virtio/devices/*/device | grep -c 0x001a) = 2 ]; do sleep 0.05; done").await?;
        let helper = helper_pids(&vm).into_iter().find(|pid| *pid != outers).ok_or("its helper has ended")?;
        send(helper, Signal::STOP)?;
        send(outers, Signal::CONT)?;
        TestResult::Ok(helper)
    };
    let options = by_device(dir.path(), "/run/outer/share-stalls");
    let both = Box::pin(async { tokio::join!(vm.share_with(&options), stop()) });
    let (added, helper) = within("the addition", both).await?;
    // QEMU waits for nothing here, so it is the guest that gives up.
    gone(helper?, &chain(&added.expect_err("it was stopped")), "the host has to answer for, took longer than").await?;
    outer.release().await?;
    assert_eq!(helper_pids(&vm), []);
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

#[tokio::test]
async fn without_the_program_shares_go_by_9p() -> TestResult {
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join("file"), "content")?;
    let builder = TestVm::builder("fs-none");
    let vm = builder.with_both(|_, host| host.share_helper = Some(PathBuf::from("/nonexistent/uvm-fs"))).boot().await?;
    let share = vm.share(dir.path(), "/run/share", false).await?;
    assert_eq!(share.way(), ShareWay::Plan9);
    assert_eq!(sh(&vm, "cat /run/share/file").await?, "content");
    let error = vm.share_with(&by_device(dir.path(), "/run/device")).await.expect_err("there is no program");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(chain(&error).contains("/nonexistent/uvm-fs: No such file"), "{}", chain(&error));
    // A program that is none of ours ends at once, and is quoted.
    share.release().await?;
    vm.close().await?;
    let vm = TestVm::builder("fs-other").with_both(|_, host| host.share_helper = Some("/bin/ls".into())).boot().await?;
    let error = vm.share_with(&by_device(dir.path(), "/run/device")).await.expect_err("it serves nothing");
    assert!(chain(&error).contains("unrecognized option"), "{}", chain(&error));
    vm.close().await
}

/// Without a slot nothing is begun: the program is not there any more, and nobody misses it.
#[tokio::test]
async fn without_a_slot_shares_go_by_9p_and_no_helper_is_started() -> TestResult {
    const SLOTS: usize = 32;
    let programs = tempfile::tempdir()?;
    fs::set_permissions(programs.path(), fs::Permissions::from_mode(0o755))?;
    let program = programs.path().join("uvm-fs");
    fs::copy(built("uvm-fs", "cargo xtask ci")?, &program)?;
    let helper = program.clone();
    let vm = TestVm::builder("fs-full").with_both(|_, host| host.share_helper = Some(helper)).boot().await?;
    let dirs: Vec<_> = (0..=SLOTS).map(|_| tempfile::tempdir()).collect::<Result<_, _>>()?;
    let (last, others) = dirs.split_last().ok_or("no directories")?;
    let mut shares = Vec::new();
    for (index, dir) in others.iter().enumerate() {
        shares.push(vm.share_with(&by_device(dir.path(), format!("/run/shares/{index}"))).await?);
    }
    fs::remove_file(program)?;
    let error = vm.share_with(&by_device(last.path(), "/run/device")).await.expect_err("there is no slot");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(chain(&error).contains("all slots for devices of a running VM are in use"), "{}", chain(&error));
    let share = vm.share(last.path(), "/run/share", false).await?;
    assert_eq!(share.way(), ShareWay::Plan9);
    for share in &shares {
        share.release().await?;
    }
    share.release().await?;
    vm.close().await
}

#[tokio::test]
async fn the_command_shares_directories_as_devices() -> TestResult {
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join("Makefile"), "")?;
    let share = format!("{}:/work", dir.path().display());
    let script = "grep ' /work ' /proc/mounts | cut -d' ' -f3; ls; echo built > result";
    for (flags, kind) in [(&[][..], "virtiofs"), (&["--share-by", "9p"][..], "9p")] {
        let flags = [&["--share", &share, "-w", "/work"], flags].concat();
        let run = Run::new(&flags, &["sh", "-c", script])?;
        let output = tokio::task::spawn_blocking(move || run.output(b"")).await??;
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(text(&output.stdout).starts_with(&format!("{kind}\nMakefile\n")), "{}", text(&output.stdout));
        assert_eq!(fs::read_to_string(dir.path().join("result"))?, "built\n");
    }
    Ok(())
}
