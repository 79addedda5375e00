//! All that CI checks, by stage. Each stage has a budget on two cores; one that takes longer fails.

use std::time::{Duration, Instant};

use crate::policy;
use crate::public;
use crate::setup;
use crate::shell::Cmd;
use crate::wine;

struct Stage {
    name: &'static str,
    budget_minutes: u64,
    run: fn() -> anyhow::Result<()>,
}

const STAGES: [Stage; 4] = [
    Stage { name: "set-up", budget_minutes: 4, run: set_up },
    Stage { name: "build and checks", budget_minutes: 12, run: checks },
    Stage { name: "tests without VMs", budget_minutes: 10, run: tests },
    Stage { name: "tests with VMs", budget_minutes: 16, run: vm_tests },
];

/// A run of tests that takes this long hangs: it is ended, with all that it started.
const HANGS: Duration = Duration::from_secs(30 * 60);

/// What is for Windows too: it builds there without warnings, and its tests pass under wine.
const FOR_WINDOWS: [&str; 6] = ["uvm", "uvm-platform", "uvm-wire", "uvm-hcs", "uvm-cli", "uvm-testkit"];

/// What this machine cannot show, and why.
const NOT_RUN: [(&str, &str); 5] = [
    ("KVM", "runs where /proc/cpuinfo shows vmx or svm; elsewhere only the decision and the command line are tested"),
    ("Windows", "tests run under wine, on a stand-in for the compute core library, by `cargo xtask windows`"),
    ("AF_HYPERV", "wine has no such sockets, so the stand-in checks how they are used and puts loopback ones there"),
    ("public interfaces", "packed, and compared with an earlier commit, by `cargo xtask packages`"),
    ("the trimmed kernel, and root disks", "it takes 20 minutes to build: `cargo xtask soak kernel`"),
];

/// Runs every stage.
pub(crate) fn run() -> anyhow::Result<()> {
    let mut report = Vec::new();
    for stage in STAGES {
        eprintln!("\n=== {} (budget: {} min)", stage.name, stage.budget_minutes);
        let began = Instant::now();
        (stage.run)()?;
        report.push((stage.name, stage.budget_minutes, began.elapsed()));
    }
    eprintln!();
    let mut over = Vec::new();
    for (name, budget, spent) in report {
        let late = spent > Duration::from_secs(60 * budget);
        let mark = if late { "  OVER BUDGET" } else { "" };
        eprintln!("{name}: {:.1} of {budget} min{mark}", spent.as_secs_f64() / 60.0);
        over.extend(late.then_some(name));
    }
    eprintln!("\nnot run here:");
    for (what, why) in NOT_RUN {
        eprintln!("  {what}: {why}");
    }
    anyhow::ensure!(over.is_empty(), "over budget: {}", over.join(", "));
    eprintln!("\nall passed");
    Ok(())
}

fn set_up() -> anyhow::Result<()> {
    setup::prerequisites()
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
    public.compare()
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
