//! Many VMs started at once, each to the exit code of its first process, against as many bare QEMUs.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use uvm::LcowOptions;

use crate::bare::BareQemu;
use crate::boot::Case;
use crate::context::{Context, first_exec, millis};
use crate::report::{Report, Statistic, Target};

const ROUNDS: usize = 5;
const MEMORY_MIB: u64 = 512;
const COUNTS: [usize; 5] = [1, 2, 4, 8, 16];

pub(crate) async fn measure(context: &Context) -> anyhow::Result<Report> {
    let mut report = Report::begin("parallel")?;
    let rounds = context.rounds.unwrap_or(ROUNDS);
    report.set("rounds", rounds);
    report.set("memory_mib", MEMORY_MIB);
    let mut cases = Case::all(context, &mut report, &[1], MEMORY_MIB).await?;
    for case in &mut cases {
        case.options.deadlines.start = PATIENCE;
    }
    for case in &cases {
        // Reads the files from the disk.
        ours(context, &case.options, 1).await?;
        theirs(context, case, 1)?;
    }
    for round in 0..rounds {
        for count in COUNTS {
            for case in &cases {
                for turn in 0..2 {
                    let (who, took) = if (turn + round) % 2 == 0 {
                        ("ours", ours(context, &case.options, count).await?)
                    } else {
                        ("bare", theirs(context, case, count)?)
                    };
                    report.sample(&format!("{}, {count} at once: {who}", case.name), "ms", took);
                }
            }
        }
    }
    for case in &cases {
        for count in COUNTS {
            let what = format!("{}, {count} at once", case.name);
            let target = Target::AtMost(if count < 8 { 1.15 } else { 1.25 });
            let (ours, bare) = (format!("{what}: ours"), format!("{what}: bare"));
            report.figure(
                &format!("{what}, until the last exit code"),
                &ours,
                Statistic::Median,
                Some(&bare),
                Some(target),
            )?;
        }
    }
    report.end()?;
    Ok(report)
}

/// How long a start may take that shares the processors with fifteen others.
const PATIENCE: Duration = Duration::from_secs(600);

/// Milliseconds until the last exit code. All VMs run until then.
async fn ours(context: &Context, options: &LcowOptions, count: usize) -> anyhow::Result<f64> {
    let began = Instant::now();
    let mut starts = JoinSet::new();
    for _ in 0..count {
        let (platform, options) = (context.platform(), options.clone());
        starts.spawn(async move { first_exec(platform, &options).await });
    }
    let mut vms = Vec::new();
    while let Some(start) = starts.join_next().await {
        vms.push(start??.0);
    }
    let took = millis(began);
    for vm in vms {
        vm.close().await?;
    }
    Ok(took)
}

/// Milliseconds until the last has powered off.
fn theirs(context: &Context, case: &Case, count: usize) -> anyhow::Result<f64> {
    let began = Instant::now();
    let spawn = || BareQemu::spawn(context.host.program(), &case.line, &case.bare_files);
    let all = (0..count).map(|_| spawn()).collect::<anyhow::Result<Vec<_>>>()?;
    for qemu in all {
        qemu.powered_off()?;
    }
    Ok(millis(began))
}
