//! The owner of a VM stopped and killed while its virtual sockets carry bytes both ways: `uvm run --vsock`.

use std::path::Path;
use std::process::Stdio;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use tokio::net::UnixListener;
use tokio::process::{Child, Command};
use uvm::qemu::StateRoot;
use uvm_testkit::TestResult;
use uvm_testkit::leak::{LeakCheck, processes};
use uvm_testkit::slot::Slot;
use uvm_testkit::vm::{boot_files, unique};

use crate::campaign::{self, Random};
use crate::cli::built;
use crate::exchange::{End, Exchange, Plan, assert_whole, within};
use crate::sockets::{GUEST, program};

const STREAMS: u32 = 200;
/// How many files a program may have open that did not ask for more.
const USUAL_FILES: u32 = 1024;

/// A run of the command whose guest exchanges, with the host's end here.
struct Owner {
    child: Child,
    exchange: Exchange,
    id: String,
    leaks: LeakCheck,
    state: tempfile::TempDir,
    _slot: Slot,
}

impl Owner {
    async fn start(name: &str, plan: Plan) -> TestResult<Self> {
        let slot = Slot::take_async(1).await?;
        let id = unique(name)?.to_string();
        let state = tempfile::Builder::new().prefix("uvm-test-").tempdir()?;
        let leaks = LeakCheck::begin(&id, state.path());
        // Apart from the state directory, in which nothing but the VM's may be.
        let sockets = tempfile::Builder::new().prefix("uvm-host-").tempdir()?;
        let socket = sockets.path().join("socket");
        let listener = UnixListener::bind(&socket)?;
        // With the usual limit of open files, whatever this machine has.
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -S -n {USUAL_FILES}; exec \"$@\""), "sh"]);
        command.arg(built("uvm", "cargo build -p uvm-cli")?);
        command.args(["run", "--memory", "512", "--cpus", "1", "--name", &id]);
        command.arg("--boot-files").arg(boot_files()?).arg("--vsock").arg(format!("5000:{}", socket.display()));
        let arguments = plan.arguments().join(" ");
        // The guest's program has four descriptors for each stream.
        let files = 4 * plan.streams + 64;
        let script =
            format!("cat > {GUEST} && chmod +x {GUEST} && ulimit -n {files} && exec {GUEST} exchange 5000 {arguments}");
        command.args(["--", "sh", "-c", &script]).env("UVM_STATE_DIR", state.path());
        let input = std::fs::File::open(program()?)?;
        let mut child = command.stdin(input).stdout(Stdio::null()).kill_on_drop(true).spawn()?;
        let mut exchange = Exchange::new(plan);
        for _ in 0..plan.streams {
            tokio::select! {
                accepted = within(listener.accept()) => exchange.take(accepted??.0),
                exit = child.wait() => return Err(format!("uvm run: {}", exit?).into()),
            }
        }
        Ok(Self { child, exchange, id, leaks, state, _slot: slot })
    }

    fn signal(&self, signal: Signal) -> TestResult {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())).ok_or("it ended")?;
        Ok(kill_process(pid, signal)?)
    }
}

fn gc(state: &Path) -> TestResult {
    let done = uvm::qemu::gc(&StateRoot::open(state)?, false)?;
    assert!(done.iter().all(|reclaimed| reclaimed.error.is_none()), "{done:?}");
    Ok(())
}

#[tokio::test]
async fn a_stopped_owner_goes_on_where_it_was() -> TestResult {
    let mut random = Random::seeded("cut-owner-stop");
    let plan = Plan { seed: random.below(u64::MAX), streams: STREAMS, up: 50 << 20, down: 50 << 20 };
    let mut owner = Owner::start("owner-stop", plan).await?;
    for share in 1..=4 {
        within(owner.exchange.progress.reaches(share * (2 << 20))).await?;
        owner.signal(Signal::STOP)?;
        // The guest runs on, until every window is full.
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        owner.signal(Signal::CONT)?;
    }
    assert_whole(&plan, &owner.exchange.ended().await?);
    assert!(within(owner.child.wait()).await??.success());
    Ok(owner.leaks.pass()?)
}

#[tokio::test]
async fn more_connections_than_files_are_usual_are_open_at_once() -> TestResult {
    let plan = Plan { seed: 1100, streams: 1100, up: 16 << 20, down: 16 << 20 };
    assert!(plan.streams > USUAL_FILES);
    // This end has as many.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    // The guest dials all of them before it ends one.
    let mut owner = Owner::start("owner-many", plan).await?;
    assert_whole(&plan, &owner.exchange.ended().await?);
    assert!(within(owner.child.wait()).await??.success());
    Ok(owner.leaks.pass()?)
}

#[tokio::test]
async fn a_killed_owner_takes_its_vm_along_and_its_streams_end() -> TestResult {
    let mut random = Random::seeded("cut-owner-kill");
    for _ in 0..campaign::rounds(1, 10) {
        let plan = Plan { seed: random.below(u64::MAX), streams: STREAMS, up: 1 << 40, down: 1 << 32 };
        let mut owner = Owner::start("owner-kill", plan).await?;
        within(owner.exchange.progress.reaches((2 << 20) + random.below(8 << 20))).await?;
        owner.signal(Signal::KILL)?;
        // A Unix socket whose peer is gone ends, or is reset if there was more to read: what came was checked.
        let outcomes = owner.exchange.ended().await?;
        assert!(outcomes.iter().all(|outcome| matches!(outcome.write_end, End::Cut(_))), "{outcomes:?}");
        assert!(outcomes.iter().zip(plan.up_lengths()).all(|(outcome, up)| outcome.received < up), "{outcomes:?}");
        within(owner.child.wait()).await??;
        let gone = async {
            while !processes(&owner.id).is_empty() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        within(gone).await?;
        gc(owner.state.path())?;
        assert_eq!(owner.leaks.host_leftovers(), [""; 0]);
    }
    Ok(())
}
