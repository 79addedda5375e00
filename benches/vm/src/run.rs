//! One command in a throw-away VM, from the shell's view: `uvm run` against `vng`.

use std::process::Command;

use anyhow::ensure;

use crate::context::Context;
use crate::report::{Report, Statistic, Target};
use crate::vng::{self, Vng};

const ROUNDS: usize = 7;
const MEMORY_MIB: u64 = 1024;
const COMMAND: [&str; 2] = ["uname", "-a"];

pub(crate) fn measure(context: &Context) -> anyhow::Result<Report> {
    let mut report = Report::begin("run")?;
    let vng = Vng::ensure()?;
    let rounds = context.rounds.unwrap_or(ROUNDS);
    let processors = u32::try_from(std::thread::available_parallelism()?.get().min(2))?;
    report.set("rounds", rounds);
    report.set("memory_mib", MEMORY_MIB);
    report.set("processors", processors);
    report.set("kernel", vng.release.clone());
    report.set("vng", vng::VERSION);
    for round in 0..=rounds {
        for turn in 0..2 {
            let ours = (turn + round) % 2 == 0;
            let (took, output) = if ours {
                vng::timed(
                    Command::new(&context.uvm)
                        .args(["run", "--accel", "tcg", "--kernel", "distribution", "--memory"])
                        .arg(MEMORY_MIB.to_string())
                        .args(["--cpus", &processors.to_string(), "--"])
                        .args(COMMAND),
                )?
            } else {
                vng.run(processors, MEMORY_MIB, &COMMAND)?
            };
            let name = if ours { "uvm run" } else { "vng" };
            let is_guest = output.starts_with("Linux ") && output.contains(&vng.release);
            ensure!(is_guest, "{name} printed {output:?}, not what {} says in the guest", COMMAND.join(" "));
            // The first of each fills the page cache.
            if round > 0 {
                report.sample(name, "s", took.as_secs_f64());
            }
        }
    }
    let target = Some(Target::AtMost(0.25));
    report.figure("`uvm run -- uname -a`, wall / `vng`", "uvm run", Statistic::Median, Some("vng"), target)?;
    report.end()?;
    Ok(report)
}
