//! From before the VM is created to the exit code of its first process, against a bare QEMU that boots and powers off.

use uvm::LcowOptions;
use uvm::image::BootFiles;

use crate::bare::BareQemu;
use crate::command_line::CommandLine;
use crate::context::{Context, KERNELS, Phases, command_line, first_exec, options};
use crate::report::{Report, Statistic, Target};

const PROCESSORS: [u32; 2] = [1, 2];
const MEMORY_MIB: u64 = 1024;
const ROUNDS: usize = 11;
const TARGET: Target = Target::AtMost(1.15);

/// A VM that is started, and what a bare QEMU needs to do the same.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) options: LcowOptions,
    pub(crate) line: CommandLine,
    pub(crate) bare_files: BootFiles,
    /// They are in use as long as this lives.
    _files: BootFiles,
}

impl Case {
    /// One for each kernel that is there and each number of processors.
    pub(crate) async fn all(
        context: &Context,
        report: &mut Report,
        processors: &[u32],
        memory_mib: u64,
    ) -> anyhow::Result<Vec<Self>> {
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
            for &processors in processors {
                let options = options(&files, processors, memory_mib)?;
                let line = command_line(context, &options).await?;
                let name = format!("{kernel} kernel, {processors} cpu");
                cases.push(Self { name, options, line, bare_files: bare_files.clone(), _files: files.clone() });
            }
        }
        Ok(cases)
    }
}

pub(crate) async fn measure(context: &Context) -> anyhow::Result<Report> {
    let mut report = Report::begin("boot")?;
    let rounds = context.rounds.unwrap_or(ROUNDS);
    report.set("rounds", rounds);
    report.set("memory_mib", MEMORY_MIB);
    let cases = Case::all(context, &mut report, &PROCESSORS, MEMORY_MIB).await?;
    // The first start of each reads its files from the disk.
    for round in 0..=rounds {
        for case in &cases {
            // Who is first takes turns.
            for turn in 0..3 {
                let (series, took) = match (turn + round) % 3 {
                    0 => {
                        let (vm, phases) = first_exec(context.platform(), &case.options).await?;
                        vm.close().await?;
                        if round > 0 {
                            add_phases(&mut report, &case.name, phases);
                        }
                        continue;
                    }
                    1 => ("bare", bare(context, case, &case.line)?),
                    _ => ("no devices", bare(context, case, &case.line.clone().without_devices())?),
                };
                if round > 0 {
                    report.sample(&format!("{}: {series}", case.name), "ms", took);
                }
            }
        }
    }
    for Case { name, .. } in &cases {
        let series = |what: &str| format!("{name}: {what}");
        let ours = series("exit code");
        let figures = [
            (" to first exit code / bare QEMU", "bare", Some(TARGET)),
            (" to first exit code / QEMU without devices", "no devices", None),
        ];
        for (what, reference, target) in figures {
            let reference = series(reference);
            report.figure(&format!("{name},{what}"), &ours, Statistic::Median, Some(&reference), target)?;
        }
        for phase in ["created", "started", "process"] {
            report.figure(&format!("{name}, until {phase}"), &series(phase), Statistic::Median, None, None)?;
        }
    }
    report.end()?;
    Ok(report)
}

/// Milliseconds from before its start to its end.
fn bare(context: &Context, case: &Case, line: &CommandLine) -> anyhow::Result<f64> {
    let qemu = BareQemu::spawn(context.host.program(), line, &case.bare_files)?;
    Ok(qemu.powered_off()?.as_secs_f64() * 1000.0)
}

fn add_phases(report: &mut Report, name: &str, phases: Phases) {
    let Phases { created, started, process, exit_code } = phases;
    for (phase, value) in [("created", created), ("started", started), ("process", process), ("exit code", exit_code)] {
        report.sample(&format!("{name}: {phase}"), "ms", value);
    }
}
