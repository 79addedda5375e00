//! VMs whose owner is killed: they die with it, and the next command, or gc, removes what is left.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use uvm::qemu::StateRoot;
use uvm_testkit::TestResult;
use uvm_testkit::leak::{LeakCheck, helpers, processes};
use uvm_testkit::slot::Slot;
use uvm_testkit::vm::{boot_files, unique};

use crate::campaign;

struct Owner {
    child: Child,
    id: String,
    leaks: LeakCheck,
    state: tempfile::TempDir,
    _slot: Slot,
}

impl Owner {
    async fn start(name: &str, kill_point: Option<&str>, stays: bool) -> TestResult<Self> {
        Self::start_sharing(name, kill_point, stays, None).await
    }

    async fn start_sharing(
        name: &str,
        kill_point: Option<&str>,
        stays: bool,
        shared: Option<&Path>,
    ) -> TestResult<Self> {
        let slot = Slot::take_async(1).await?;
        let id = unique(name)?.to_string();
        let state = tempfile::Builder::new().prefix("uvm-test-").tempdir()?;
        let leaks = LeakCheck::begin(&id, state.path());
        let mut command = Command::new(env!("CARGO_BIN_EXE_uvm-test-owner"));
        // The leak check looks for sockets and files there.
        let console = state.path().join(format!("{id}.console"));
        command.arg(&id).arg(boot_files()?).arg(console).env("UVM_STATE_DIR", state.path());
        if let Some(moment) = kill_point {
            command.env("UVM_KILL_POINT", moment);
        }
        if let Some(shared) = shared {
            command.env("UVM_OWNER_SHARE", shared);
        }
        if stays {
            command.env("UVM_OWNER_STAYS", "1");
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        Ok(Self { child, id, leaks, state, _slot: slot })
    }

    /// Waits until it says `word`.
    async fn says(&mut self, word: &str) -> TestResult {
        let stdout = self.child.stdout.take().ok_or("its output was taken")?;
        let mut lines = BufReader::new(stdout).lines();
        while let Some(line) = lines.next_line().await? {
            if line.starts_with(word) {
                return Ok(());
            }
        }
        Err(format!("it ended without saying {word}").into())
    }

    /// QEMU dies with its owner; and gc removes the rest.
    async fn leave_nothing(self) -> TestResult {
        let died = Instant::now();
        let living = || [processes(&self.id), helpers(&self.id)].concat();
        while !living().is_empty() {
            assert!(died.elapsed() < GONE_WITHIN, "its owner is outlived by {:?}", living());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        campaign::note(&format!("QEMU was gone {} ms after its owner", died.elapsed().as_millis()));
        // An owner may die between the fork and the exec of QEMU: until that child has noticed, it has the owner's lock.
        loop {
            gc(self.state.path())?;
            let left = self.leaks.host_leftovers();
            if left.is_empty() {
                return Ok(());
            }
            assert!(died.elapsed() < GONE_WITHIN, "gc left {left:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// How long QEMU may outlive its owner.
const GONE_WITHIN: Duration = Duration::from_secs(2);

fn gc(state: &Path) -> TestResult {
    let root = StateRoot::open(state)?;
    let (told, done) = (uvm::qemu::gc(&root, true)?, uvm::qemu::gc(&root, false)?);
    assert_eq!(told, done, "a dry run tells what a real one does");
    assert!(done.iter().all(|reclaimed| reclaimed.error.is_none()), "{done:?}");
    assert!(uvm::qemu::gc(&root, true)?.is_empty());
    Ok(())
}

#[tokio::test]
async fn killed_before_and_after_each_object_comes_to_exist() -> TestResult {
    for moment in uvm_qemu::KILL_POINTS {
        let mut owner = Owner::start("point", Some(moment), false).await?;
        let status = tokio::time::timeout(Duration::from_secs(120), owner.child.wait()).await??;
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{moment}: {status}");
        owner.leave_nothing().await?;
    }
    Ok(())
}

#[tokio::test]
async fn killed_while_the_vm_runs() -> TestResult {
    let mut owner = Owner::start("running", None, true).await?;
    owner.says("used").await?;
    assert_eq!(processes(&owner.id).len(), 1);
    owner.child.kill().await?;
    owner.leave_nothing().await
}

#[tokio::test]
async fn killed_while_a_directory_is_shared() -> TestResult {
    let shared = tempfile::tempdir()?;
    let mut owner = Owner::start_sharing("sharing", None, true, Some(shared.path())).await?;
    owner.says("used").await?;
    assert_eq!((processes(&owner.id).len(), helpers(&owner.id).len()), (1, 1));
    owner.child.kill().await?;
    owner.leave_nothing().await?;
    for moment in uvm_qemu::KILL_POINTS_OF_SHARES {
        let mut owner = Owner::start_sharing("helper", Some(moment), false, Some(shared.path())).await?;
        let status = tokio::time::timeout(Duration::from_secs(120), owner.child.wait()).await??;
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{moment}: {status}");
        owner.leave_nothing().await?;
    }
    Ok(())
}

#[tokio::test]
async fn killed_at_random_moments() -> TestResult {
    let mut random = campaign::Random::seeded("owner-kill");
    for round in 0..campaign::rounds(6, 30) {
        let mut owner = Owner::start("moment", None, false).await?;
        // From the first system call to about the end.
        let moment = Duration::from_millis(random.below(campaign::BOOT_MS));
        let ended = tokio::time::timeout(moment, owner.child.wait()).await;
        campaign::note(&format!(
            "round {round}: killed after {} ms, ended before: {}",
            moment.as_millis(),
            ended.is_ok()
        ));
        owner.child.kill().await?;
        owner.leave_nothing().await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_next_command_removes_what_a_killed_owner_left() -> TestResult {
    let mut owner = Owner::start("next", None, true).await?;
    owner.says("created").await?;
    owner.child.kill().await?;
    let left = owner.leaks.host_leftovers().join("\n");
    assert!(left.contains(".console"), "a killed owner cannot tidy up: {left}");
    // Another VM in the same state directory.
    let mut next = Command::new(env!("CARGO_BIN_EXE_uvm-test-owner"));
    next.arg(unique("heir")?.as_str()).arg(boot_files()?).env("UVM_STATE_DIR", owner.state.path());
    assert!(next.stdin(Stdio::null()).stdout(Stdio::null()).status().await?.success());
    assert_eq!(owner.leaks.host_leftovers(), [""; 0]);
    Ok(())
}

/// As somebody without rights, with a state directory whose path no socket address could hold.
#[tokio::test]
async fn without_root_and_with_a_long_state_path() -> TestResult {
    if !rustix::process::geteuid().is_root() {
        // Then every other test is this one.
        return Ok(());
    }
    let _slot = Slot::take_async(1).await?;
    let id = unique("nobody")?.to_string();
    let place = tempfile::Builder::new().prefix("uvm-test-").tempdir()?;
    let deep = place.path().join("d".repeat(150));
    std::fs::create_dir(&deep)?;
    // What belongs to root is not for nobody: the program and the boot files are copied.
    let program = place.path().join("owner");
    std::fs::copy(env!("CARGO_BIN_EXE_uvm-test-owner"), &program)?;
    let files = place.path().join("boot");
    std::fs::create_dir(&files)?;
    for entry in std::fs::read_dir(boot_files()?)? {
        let entry = entry?;
        std::fs::copy(entry.path(), files.join(entry.file_name()))?;
    }
    for path in [place.path(), deep.as_path()] {
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY))?;
    }
    let leaks = LeakCheck::begin(&id, &deep);
    let mut owner = std::process::Command::new(&program);
    owner.arg(&id).arg(&files).env("UVM_STATE_DIR", deep.join("state")).env_remove("HOME");
    std::os::unix::process::CommandExt::uid(std::os::unix::process::CommandExt::gid(&mut owner, NOBODY), NOBODY);
    let output = Command::from(owner).stdin(Stdio::null()).output().await?;
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.ends_with("closed\n"), "{output:?}");
    std::fs::remove_dir(deep.join("state"))?;
    assert_eq!(leaks.host_leftovers(), [""; 0]);
    Ok(())
}

/// The user without rights.
const NOBODY: u32 = 65_534;
