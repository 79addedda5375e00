//! Long campaigns. Each has a short form in the normal tests; the full run's result goes into docs/soak.md.

use anyhow::bail;

use crate::setup;
use crate::shell::Cmd;

struct Campaign {
    name: &'static str,
    about: &'static str,
    run: fn() -> anyhow::Result<()>,
}

const CAMPAIGNS: [Campaign; 12] = [
    Campaign { name: "boots", about: "100 boots, 8 at a time, each checked for leaks", run: || vm("boots::", "8") },
    Campaign {
        name: "owner-kill",
        about: "the owner killed at 30 random moments and at every object",
        run: || vm("owner::", "2"),
    },
    Campaign {
        name: "bursts",
        about: "200 times 8 MiB of output from a process that exits at once",
        run: || vm("output_of_a_process_that_exits", "1"),
    },
    Campaign {
        name: "sockets",
        about: "200 virtual sockets, each end of them killed, stopped and cut 10 times",
        run: || vm("sockets_", "1"),
    },
    Campaign {
        name: "disks",
        about: "256 disks attached at once, written, verified and removed, 20 times",
        run: || vm("disks_many::", "1"),
    },
    Campaign {
        name: "plugging",
        about: "10,000 random operations of four tasks, the guest's view compared after each hundred",
        run: || vm("plugging::", "1"),
    },
    Campaign {
        name: "volume",
        about: "256 MiB each way on 64 streams, on each transport",
        run: || vm("volume::", "1"),
    },
    Campaign {
        name: "shares",
        about: "checks one by one, 100,000 random operations, and fio, git, cargo and stress-ng, over shares of both kinds",
        run: shares,
    },
    Campaign { name: "mux-model", about: "100,000 random histories of two mux ends against a model", run: mux_model },
    Campaign {
        name: "fuzz",
        about: "every fuzz target, or those named after it, for 15 minutes each; nothing else should run meanwhile",
        run: || fuzz(&[]),
    },
    Campaign { name: "kernel", about: "build the trimmed kernel, boot it, root disks and layers with it", run: kernel },
    Campaign { name: "image", about: "boot files by the real apt, as root and as nobody", run: image },
];

/// Runs the campaign that is named.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<()> {
    let name = arguments.first().map_or("", String::as_str);
    if let ("fuzz", targets @ [_, ..]) = (name, arguments.get(1..).unwrap_or_default()) {
        return fuzz(targets);
    }
    if let Some(campaign) = CAMPAIGNS.iter().find(|campaign| campaign.name == name) {
        return (campaign.run)();
    }
    for campaign in CAMPAIGNS {
        println!("{:<12} {}", campaign.name, campaign.about);
    }
    match name {
        "list" => Ok(()),
        other => bail!("no campaign is called {other:?}; `UVM_SEED` sets the seed of those that have one"),
    }
}

/// VM tests in their long form, `slots` VMs at a time.
fn vm(filter: &str, slots: &str) -> anyhow::Result<()> {
    setup::all()?;
    Cmd::cargo()
        .args(["test", "--release", "-p", "uvm-vm-tests", "--", "--nocapture", filter])
        .env("UVM_SOAK", "full")
        .env("UVM_TEST_SLOTS", slots)
        .run()
}

fn shares() -> anyhow::Result<()> {
    setup::for_shares()?;
    setup::build_test_guest()?;
    vm("share_suites::", "2")?;
    // One after the other: the second would have the first one's time.
    Cmd::cargo()
        .args(["test", "--release", "-p", "uvm-vm-tests", "--", "--nocapture", "--ignored", "share_programs::"])
        .env("UVM_SOAK", "full")
        .env("UVM_TEST_SLOTS", "1")
        .run()
}

fn mux_model() -> anyhow::Result<()> {
    Cmd::cargo().args(["test", "--release", "-p", "uvm-mux", "--lib", "model"]).env("MUX_MODEL_CASES", "100000").run()
}

/// Time for each target, in seconds: that of one processor, if nothing else runs.
const FUZZ_SECONDS: u32 = 900;
/// The target whose threads may be ending when leaks are looked for: what the C library holds for them is taken for lost then.
const WITH_THREADS: &str = "p9_session";

/// Those that are named, or all.
fn fuzz(named: &[String]) -> anyhow::Result<()> {
    if !Cmd::cargo().args(["fuzz", "--version"]).succeeds() {
        Cmd::cargo().args(["install", "cargo-fuzz", "--locked"]).run()?;
    }
    let cargo_fuzz = |args: &[&str]| Cmd::cargo().arg("fuzz").args(args).env("RUSTC_BOOTSTRAP", "1");
    let list = cargo_fuzz(&["list"]).output()?;
    let all: Vec<&str> = list.split_whitespace().collect();
    if let Some(unknown) = named.iter().find(|name| !all.contains(&name.as_str())) {
        bail!("no fuzz target is called {unknown:?}; there are: {}", all.join(", "));
    }
    for target in all.iter().filter(|target| named.is_empty() || named.iter().any(|name| name == *target)) {
        let limit = format!("-max_total_time={FUZZ_SECONDS}");
        let leaks = format!("-detect_leaks={}", u8::from(*target != WITH_THREADS));
        cargo_fuzz(&["run", target, "--", &limit, &leaks, "-seed=1", "-print_final_stats=1"]).run()?;
    }
    Ok(())
}

fn kernel() -> anyhow::Result<()> {
    setup::all()?;
    setup::for_kernel()?;
    Cmd::new(setup::UVM).args(["image", "kernel"]).run()?;
    Cmd::new(setup::UVM).args(["run", "--kernel", "trimmed", "--", "uname", "-a"]).run()?;
    // What takes a kernel with everything built in.
    Cmd::cargo().args(["test", "-p", "uvm-vm-tests", "--", "root_disk", "by_the_trimmed_kernel", "--ignored"]).run()
}

fn image() -> anyhow::Result<()> {
    setup::prerequisites()?;
    setup::build_agent()?;
    Cmd::cargo()
        .args(["test", "--release", "-p", "uvm-image", "--", "--ignored", "--nocapture", "--test-threads", "1"])
        .run()
}
