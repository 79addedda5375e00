//! Directories of the host, shared with running guests as devices that a process of their own serves.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal};
use uvm::{ErrorKind, ProcessSpec, Share, ShareKind, ShareOptions, ShareOwners, ShareWay, UtilityVm};
use uvm_testkit::leak::helpers;
use uvm_testkit::{TestResult, TestVm};

use crate::cli::{Run, built};
use crate::disks::sh;
use crate::faults::chain;
use crate::process::text;
use crate::qemu;

pub(crate) fn by_device(host: &Path, guest: impl Into<String>) -> ShareOptions {
    ShareOptions::new(host, guest).with_kind(ShareKind::VirtioFs)
}

/// The processes that serve this VM's shares.
pub(crate) fn helper_pids(vm: &UtilityVm) -> Vec<Pid> {
    let all = helpers(vm.id().as_str());
    all.iter().filter_map(|text| Pid::from_raw(text.split_once(':')?.0.parse().ok()?)).collect()
}

pub(crate) fn the_helper(vm: &UtilityVm) -> TestResult<Pid> {
    match helper_pids(vm)[..] {
        [pid] => Ok(pid),
        ref others => Err(format!("not one helper: {others:?}").into()),
    }
}

pub(crate) fn send(pid: Pid, signal: Signal) -> TestResult {
    Ok(rustix::process::kill_process(pid, signal)?)
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
