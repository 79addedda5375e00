//! From before the VM is created to the exit code of its first process, against a bare QEMU that boots and powers off.

use crate::bare::BareQemu;
use crate::context::{Context, KERNELS, Phases, command_line, first_exec, options};
use crate::report::{Report, Statistic, Target};

const PROCESSORS: [u32; 2] = [1, 2];
const MEMORY_MIB: u64 = 1024;
const ROUNDS: usize = 15;
const TARGET: Target = Target::AtMost(1.15);

pub(crate) async fn measure(context: &Context) -> anyhow::Result<Report> {
    let mut report = Report::begin("boot")?;
    let rounds = context.rounds.unwrap_or(ROUNDS);
    report.set("rounds", rounds);
    report.set("memory_mib", MEMORY_MIB);
    let mut cases = Vec::new();
    for (kernel, source) in KERNELS {
        let files = match context.boot_files(source.clone(), None) {
            Ok(files) => files,
            Err(e) => {
                report.note(format!("{kernel} kernel: not measured: {e:#}"));
                continue;
            }
        };
        report.set(&format!("{kernel} kernel"), files.manifest().kernel.release.clone());
        let bare_files = context.boot_files(source, Some("bench-guest-boot"))?;
        for processors in PROCESSORS {
            let options = options(&files, processors, MEMORY_MIB)?;
            let line = command_line(context, &options).await?;
            let name = format!("{kernel}, {processors} cpu");
            cases.push((name, options, line, files.clone(), bare_files.clone()));
        }
    }
    // The first start of each reads its files from the disk.
    for round in 0..=rounds {
        for (name, options, line, _, bare_files) in &cases {
            let bare_line = line.clone().without_devices();
            // Who is first takes turns.
            for turn in 0..3 {
                let (series, milliseconds) = match (turn + round) % 3 {
                    0 => {
                        let (vm, phases) = first_exec(context.platform(), options).await?;
                        vm.close().await?;
                        if round > 0 {
                            add_phases(&mut report, name, phases);
                        }
                        continue;
                    }
                    1 => ("bare", BareQemu::spawn(context.host.program(), line, bare_files)?.powered_off()?),
                    _ => ("no devices", BareQemu::spawn(context.host.program(), &bare_line, bare_files)?.powered_off()?),
                };
                if round > 0 {
                    report.sample(&format!("{name}: {series}"), "ms", milliseconds.as_secs_f64() * 1000.0);
                }
            }
        }
    }
    for (name, ..) in &cases {
        let (ours, bare) = (format!("{name}: exit code"), format!("{name}: bare"));
        let no_devices = format!("{name}: no devices");
        report.figure(&format!("{name}: to exit code / bare QEMU"), &ours, Statistic::Median, Some(&bare), Some(TARGET))?;
        let what = format!("{name}: to exit code / QEMU without devices");
        report.figure(&what, &ours, Statistic::Median, Some(&no_devices), None)?;
        for phase in ["created", "started", "process"] {
            report.figure(&format!("{name}: until {phase}"), &format!("{name}: {phase}"), Statistic::Median, None, None)?;
        }
    }
    report.end()?;
    Ok(report)
}

fn add_phases(report: &mut Report, name: &str, phases: Phases) {
    let Phases { created, started, process, exit_code } = phases;
    for (phase, value) in
        [("created", created), ("started", started), ("process", process), ("exit code", exit_code)]
    {
        report.sample(&format!("{name}: {phase}"), "ms", value);
    }
}
