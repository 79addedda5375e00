//! All that CI checks, by stage, each with a budget on two cores.

use std::time::{Duration, Instant};

use anyhow::Context;

use crate::policy;
use crate::public;
use crate::setup;
use crate::shell::Cmd;
use crate::wine;

/// What was not run, and why.
type NotRun = (&'static str, &'static str);

struct Stage {
    name: &'static str,
    budget_minutes: u64,
    run: fn(&mut Vec<NotRun>) -> anyhow::Result<()>,
}

/// Together they keep to [`WHOLE`].
const STAGES: [Stage; 6] = [
    Stage { name: "set-up", budget_minutes: 5, run: |_| setup::for_ci() },
    Stage { name: "build and checks", budget_minutes: 12, run: |_| checks() },
    Stage { name: "tests without VMs", budget_minutes: 9, run: |_| tests() },
    Stage { name: "tests with VMs", budget_minutes: 14, run: |_| vm_tests() },
    Stage { name: "tests for Windows", budget_minutes: 9, run: |_| windows_tests() },
    Stage { name: "public packages", budget_minutes: 11, run: public_packages },
];
/// What all of it may take.
const WHOLE: Duration = Duration::from_secs(60 * 60);

/// A run of tests that takes this long hangs: it is ended, with all that it started.
const HANGS: Duration = Duration::from_secs(30 * 60);

/// What is for Windows too: it builds there without warnings, and its tests pass under wine.
const FOR_WINDOWS: [&str; 6] = ["uvm", "uvm-platform", "uvm-wire", "uvm-hcs", "uvm-cli", "uvm-testkit"];

/// What no machine of this kind can show, and why.
const NOT_RUN: [NotRun; 3] = [
    ("KVM", "runs where /proc/cpuinfo shows vmx or svm; elsewhere only the decision and the command line are tested"),
    (
        "Windows itself",
        "tests run under wine, on a stand-in for the compute core library; it also checks how AF_HYPERV sockets are used, \
         which wine does not have, and puts loopback ones there",
    ),
    ("the trimmed kernel, and root disks", "it takes 20 minutes to build: `cargo xtask soak kernel`"),
];

/// Runs every stage.
pub(crate) fn run() -> anyhow::Result<()> {
    let began = Instant::now();
    let mut report = Vec::new();
    let mut not_run = NOT_RUN.to_vec();
    if !rustix::process::geteuid().is_root() {
        not_run.push(("a full disk of the host", "it takes root to make a small one: run this as root"));
    }
    for stage in STAGES {
        eprintln!("\n=== {} (budget: {} min)", stage.name, stage.budget_minutes);
        let began = Instant::now();
        (stage.run)(&mut not_run)?;
        report.push((stage.name, stage.budget_minutes, began.elapsed()));
    }
    eprintln!();
    for (name, budget, spent) in report {
        let mark = if spent > Duration::from_secs(60 * budget) { "  OVER BUDGET" } else { "" };
        eprintln!("{name}: {:.1} of {budget} min{mark}", spent.as_secs_f64() / 60.0);
    }
    eprintln!("\nnot run here:");
    for (what, why) in not_run {
        eprintln!("  {what}: {why}");
    }
    // A stage may be late on a busy machine; all of it may not.
    anyhow::ensure!(began.elapsed() <= WHOLE, "all passed, but not within {} minutes", WHOLE.as_secs() / 60);
    eprintln!("\nall passed");
    Ok(())
}

fn checks() -> anyhow::Result<()> {
    Cmd::cargo().args(["fmt", "--all", "--check"]).run()?;
    policy::check()?;
    Cmd::cargo().args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]).run()?;
    Cmd::cargo()
        .args(["clippy", "--target", wine::TARGET, "--all-targets", "--quiet"])
        .args(FOR_WINDOWS.iter().flat_map(|package| ["-p", *package]))
        .args(["-p", "uvm-hcs-stand-in", "--", "-D", "warnings"])
        .run()?;
    Cmd::cargo().args(["doc", "--workspace", "--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings").run()?;
    setup::build_agent()?;
    Cmd::cargo().args(["test", "--workspace", "--no-run", "--quiet"]).run()
}

/// `cargo xtask packages`.
pub(crate) fn packages() -> anyhow::Result<()> {
    let public = public::packages()?;
    public.pack()?;
    let baseline = public.baseline()?;
    public.compare(
        &baseline.context("the history does not go back to the commit to compare with: git fetch --unshallow")?,
    )
}

/// The same where the clone may be a shallow one, with nothing to compare with.
fn public_packages(not_run: &mut Vec<NotRun>) -> anyhow::Result<()> {
    let public = public::packages()?;
    public.pack()?;
    if let Some(baseline) = public.baseline()? {
        return public.compare(&baseline);
    }
    let why =
        "this clone does not go back to the commit to compare with; `git fetch --unshallow`, `cargo xtask packages`";
    not_run.push(("the comparison of public interfaces", why));
    Ok(())
}

fn tests() -> anyhow::Result<()> {
    Cmd::cargo().args(["test", "--workspace", "--exclude", "uvm-vm-tests", "--quiet"]).run_within(HANGS)?;
    // Every interleaving of the mux's driver and its users, up to a bound.
    Cmd::cargo()
        .args([
            "test",
            "-p",
            "uvm-mux",
            "--release",
            "--quiet",
            "--lib",
            "interleavings",
            "--target-dir",
            "target/loom",
        ])
        .env("RUSTFLAGS", "--cfg loom")
        .run_within(HANGS)
}

/// `cargo xtask windows`.
pub(crate) fn windows_tests() -> anyhow::Result<()> {
    setup::for_windows()?;
    wine::test(&FOR_WINDOWS)
}

fn vm_tests() -> anyhow::Result<()> {
    setup::build_test_guest()?;
    Cmd::cargo().args(["build", "--quiet", "-p", "uvm-cli", "-p", "uvm", "--bins", "--examples"]).run()?;
    Cmd::cargo().args(["test", "-p", "uvm-vm-tests", "--quiet", "--", "--test-threads", "3"]).run_within(HANGS)
}
