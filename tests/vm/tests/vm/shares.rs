//! Directories of the host, shared with running guests by 9P.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use uvm::{Plan9ShareOptions, ProcessSpec};
use uvm_testkit::{TestResult, TestVm};

use crate::cli::{Run, built};
use crate::disks::sh;
use crate::faults::chain;
use crate::process::text;

#[tokio::test]
async fn a_directory_is_read_and_written_by_both_ends() -> TestResult {
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("hello"), "from the host\n")?;
    std::fs::create_dir(dir.path().join("sub"))?;
    let vm = TestVm::builder("share").boot().await?;
    let share = vm.add_plan9(&Plan9ShareOptions::new(dir.path(), "/run/share")).await?;
    assert_eq!(sh(&vm, "cat /run/share/hello").await?, "from the host\n");
    let script = "cd /run/share; echo from the guest > sub/new; mv hello sub/hello; ln -s sub link; ln sub/new sub/more; \
                  chmod 640 sub/new; mkdir -p a/b/c; rm -r a; head -c 5000000 /dev/zero > big; truncate -s 3 big";
    sh(&vm, script).await?;
    let at = |name: &str| dir.path().join(name);
    assert_eq!(std::fs::read_to_string(at("sub/new"))?, "from the guest\n");
    let meta = at("sub/more").metadata()?;
    let own = rustix::process::geteuid().as_raw();
    assert_eq!((meta.nlink(), meta.permissions().mode() & 0o777, meta.uid()), (2, 0o640, own));
    assert_eq!(std::fs::read_link(at("link"))?.to_str(), Some("sub"));
    assert!(!at("a").exists() && !at("hello").exists());
    assert_eq!(at("big").metadata()?.len(), 3);
    // What the host changes is seen.
    std::fs::write(at("hello"), "again\n")?;
    assert_eq!(sh(&vm, "cat /run/share/hello").await?, "again\n");
    share.release().await?;
    assert_eq!(sh(&vm, "ls -d /run/share 2>/dev/null || echo gone").await?, "gone\n");
    vm.close().await
}

/// Each guest has a share of its own. The first locks a descriptor by one program, and unlocks it by another.
#[tokio::test]
async fn a_lock_of_one_guest_keeps_another_out_until_it_is_undone() -> TestResult {
    let dir = tempfile::tempdir()?;
    let program = built("../x86_64-unknown-linux-musl/agent/uvm-test-guest", "cargo xtask ci")?;
    std::fs::copy(program, dir.path().join("guest"))?;
    let (one, two) = (TestVm::builder("lock-one").boot().await?, TestVm::builder("lock-two").boot().await?);
    let options = Plan9ShareOptions::new(dir.path(), "/mnt");
    let shares = (one.add_plan9(&options).await?, two.add_plan9(&options).await?);
    let script = "(exec 9>/mnt/f; /mnt/guest flock lock <&9 & until [ -e /mnt/go ]; do sleep 0.1; done; \
                  /mnt/guest flock unlock <&9; kill $!) > /mnt/said 2>&1 & \
                  until grep -q done /mnt/said; do sleep 0.1; done";
    sh(&one, script).await?;
    let ask = "exec 9>/mnt/f; /mnt/guest flock try <&9";
    assert_eq!(sh(&two, ask).await?, "held by another\n");
    sh(&two, "echo > /mnt/go; until [ $(wc -l < /mnt/said) = 2 ]; do sleep 0.1; done").await?;
    assert_eq!(sh(&two, ask).await?, "done\n");
    assert_eq!(std::fs::read_to_string(dir.path().join("said"))?, "done\ndone\n");
    shares.1.release().await?;
    drop(shares.0);
    one.close().await?;
    two.close().await
}

#[tokio::test]
async fn nothing_outside_of_a_share_is_reached() -> TestResult {
    let dir = tempfile::tempdir()?;
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "secret\n")?;
    let shared = dir.path().join("shared");
    std::fs::create_dir(&shared)?;
    symlink(&secret, shared.join("absolute"))?;
    symlink("../secret", shared.join("relative"))?;
    let vm = TestVm::builder("confined").boot().await?;
    let share = vm.add_plan9(&Plan9ShareOptions::new(&shared, "/run/share")).await?;
    // Links are the guest's to follow, in its own tree.
    let script = "cd /run/share; cat absolute relative ../../secret 2>/dev/null; ls -a ..; mknod device c 1 5 && echo made; \
                  touch suid; chmod 4755 suid; stat -c %a suid";
    let seen = sh(&vm, script).await?;
    assert!(!seen.contains("secret") && !seen.contains("made") && seen.ends_with("755\n"), "{seen}");
    assert_eq!(shared.join("suid").metadata()?.permissions().mode() & 0o7000, 0);
    assert!(!shared.join("device").exists());
    share.release().await?;
    vm.close().await
}

#[tokio::test]
async fn what_is_read_only_or_left_out_stays_as_it_is() -> TestResult {
    let dir = tempfile::tempdir()?;
    for name in ["one", "two"] {
        std::fs::write(dir.path().join(name), name)?;
    }
    let vm = TestVm::builder("restricted").boot().await?;
    let read = vm.add_plan9(&Plan9ShareOptions::new(dir.path(), "/run/read").read_only()).await?;
    // A single file is a directory with one name in it; a link is the file it leads to.
    symlink("one", dir.path().join("latest"))?;
    let one = vm.share(dir.path().join("latest"), "/run/single", false).await?;
    let script = "cd /run/read; cat one two; touch one 2>/dev/null || echo fixed; rm two 2>/dev/null || echo fixed; \
                  cd /run/single; ls; cat two 2>/dev/null || echo hidden; echo x > three || echo refused; echo 1 > one";
    let seen = sh(&vm, script).await?;
    assert_eq!(seen, "onetwofixed\nfixed\none\nhidden\nrefused\n");
    assert_eq!(std::fs::read_to_string(dir.path().join("one"))?, "1\n");
    assert!(!dir.path().join("three").exists());
    one.release().await?;
    read.release().await?;
    let missing = Plan9ShareOptions::new(dir.path().join("missing"), "/run/missing");
    let error = chain(&vm.add_plan9(&missing).await.expect_err("it is not there"));
    assert!(error.contains("missing") && error.contains("No such file"), "{error}");
    vm.close().await
}

#[tokio::test]
async fn a_share_in_use_stays_and_many_are_there_at_once() -> TestResult {
    let vm = TestVm::builder("shares").boot().await?;
    let mut shares = Vec::new();
    for index in 0..20 {
        let dir = tempfile::tempdir()?;
        std::fs::write(dir.path().join("name"), index.to_string())?;
        let share = vm.add_plan9(&Plan9ShareOptions::new(dir.path(), format!("/run/shares/{index}"))).await?;
        shares.push((share, dir));
    }
    assert_eq!(sh(&vm, "cat /run/shares/*/name | wc -c").await?.trim(), "30");
    let user = vm.create_process(&ProcessSpec::new(["sleep", "1000"]).with_cwd("/run/shares/7")).await?;
    let error = chain(&shares[7].0.release().await.expect_err("it is in use"));
    assert!(error.contains("in use by sleep ("), "{error}");
    assert_eq!(sh(&vm, "cat /run/shares/7/name").await?, "7");
    user.kill().await?;
    user.wait().await?;
    drop(user);
    for (share, _dir) in shares {
        share.release().await?;
    }
    assert_eq!(sh(&vm, "ls /run/shares; grep -c ' 9p ' /proc/mounts || true").await?, "0\n");
    vm.close().await
}

#[tokio::test]
async fn the_command_shares_a_directory() -> TestResult {
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("Makefile"), "")?;
    let share = format!("{}:/work", dir.path().display());
    let run = Run::new(&["--share", &share, "-w", "/work"], &["sh", "-c", "ls; echo built > result"])?;
    let output = tokio::task::spawn_blocking(move || run.output(b"")).await??;
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "Makefile\n");
    assert_eq!(std::fs::read_to_string(dir.path().join("result"))?, "built\n");
    Ok(())
}

#[tokio::test]
async fn the_command_has_a_single_file_at_the_path_it_is_given() -> TestResult {
    let dir = tempfile::tempdir()?;
    for (name, content) in [("one.txt", "one\n"), (".two words", "two\n")] {
        std::fs::write(dir.path().join(name), content)?;
    }
    symlink("one.txt", dir.path().join("latest"))?;
    let share = |name: &str, at: &str| format!("{}:{at}", dir.path().join(name).display());
    let shares =
        [share("one.txt", "/etc/app/one.conf"), share(".two words", "/etc/passwd:ro"), share("latest", "/in/")];
    let flags = shares.iter().flat_map(|share| ["--share", share.as_str()]).collect::<Vec<_>>();
    let script = "cat /etc/app/one.conf /etc/passwd /in && ls /etc/app && echo more >> /etc/app/one.conf; \
                  echo x >> /etc/passwd || echo refused";
    let run = Run::new(&flags, &["sh", "-c", script])?;
    let output = tokio::task::spawn_blocking(move || run.output(b"")).await??;
    assert_eq!(text(&output.stdout), "one\ntwo\none\none.conf\nrefused\n", "{}", text(&output.stderr));
    assert_eq!(std::fs::read_to_string(dir.path().join("one.txt"))?, "one\nmore\n");
    assert_eq!(std::fs::read_to_string(dir.path().join(".two words"))?, "two\n");
    // A directory is no place for it.
    let at = share("one.txt", "/etc");
    let run = Run::new(&["--share", &at], &["true"])?;
    let output = tokio::task::spawn_blocking(move || run.output(b"")).await??;
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(said.contains("one.txt at /etc in the guest") && said.contains("Not a directory"), "{said}");
    Ok(())
}
