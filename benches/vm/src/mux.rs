//! The multiplexer against the plain port, by the program that is made for it: `benches/mux`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use uvm::image::{BootFiles, Kernel, KernelSource};

use crate::context::Context;
use crate::report::{Report, Statistic, Target};

const ROUNDS: usize = 9;
const MESSAGES: usize = 500;
const MIB: usize = 64;

/// Figure, reference, limit of the ratio.
const FIGURES: [(&str, &str, Option<Target>); 8] = [
    ("rtt mux, 1 of 16", "rtt plain", Some(Target::AtMost(1.1))),
    ("up mux, 1 stream", "up plain", Some(Target::AtLeast(0.75))),
    ("up mux, 8 streams", "up plain", Some(Target::AtLeast(0.75))),
    ("down mux, 1 stream", "down plain", Some(Target::AtLeast(0.75))),
    ("down mux, 8 streams", "down plain", Some(Target::AtLeast(0.75))),
    ("down mux, from a pipe", "down plain", None),
    ("rtt mux under bulk up", "rtt plain", None),
    ("rtt mux under bulk down", "rtt plain", None),
];

/// What the program prints.
#[derive(Deserialize)]
struct Samples {
    measurements: Vec<Measurement>,
}

#[derive(Deserialize)]
struct Measurement {
    what: String,
    unit: String,
    samples: Vec<f64>,
}

pub(crate) fn measure(context: &Context) -> anyhow::Result<Report> {
    let mut report = Report::begin("mux")?;
    let rounds = context.rounds.unwrap_or(ROUNDS);
    report.set("rounds", rounds);
    report.set("round_trips_a_round", MESSAGES);
    report.set("mib", MIB);
    let files = context.boot_files(KernelSource::Distribution, None)?;
    report.set("kernel", files.manifest().kernel.release.clone());
    let mut command = Command::new(&context.bench_mux);
    command.arg("--kernel").arg(files.kernel_path()).arg("--guest").arg(context.guests.join("bench-mux-guest"));
    command.arg("--rounds").arg(rounds.to_string()).arg("--messages").arg(MESSAGES.to_string());
    command.arg("--mib").arg(MIB.to_string()).arg("--json").stdin(Stdio::null()).stderr(Stdio::inherit());
    for module in boot_modules(&files)? {
        command.arg("--module").arg(module);
    }
    let output = command.output().with_context(|| format!("start {}", context.bench_mux.display()))?;
    ensure!(output.status.success(), "{}: {}", context.bench_mux.display(), output.status);
    let samples: Samples = serde_json::from_slice(&output.stdout).context("what bench-mux printed")?;
    for Measurement { what, unit, samples } in samples.measurements {
        for sample in samples {
            report.sample(&what, &unit, sample);
        }
    }
    for (what, reference, target) in FIGURES {
        report.figure(what, what, Statistic::Median, Some(reference), target)?;
    }
    report.end()?;
    Ok(report)
}

/// The modules of the serial port, in the order in which they are loaded.
fn boot_modules(files: &BootFiles) -> anyhow::Result<Vec<PathBuf>> {
    let store = uvm::image::ImageStore::from_env()?;
    let kernels = Kernel::list(&store.data_dir)?;
    let name = &files.manifest().kernel.name;
    let kernel = kernels.iter().find(|kernel| kernel.name() == name).with_context(|| format!("no kernel {name}"))?;
    let directory = kernel.image_path().parent().map(Path::to_owned).unwrap_or_default();
    let index = fs::read_to_string(directory.join("uvm.index")).context("the list of modules")?;
    Ok(group(&index, "boot").map(|module| directory.join("modules").join(module)).collect())
}

/// The files of a group. A processor that cannot use an optional one is fine without it.
fn group<'a>(index: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let prefix = format!("group {name}:");
    let line = index.lines().find_map(|line| line.strip_prefix(prefix.as_str())).unwrap_or_default();
    line.split_whitespace().filter(|module| !module.starts_with('?'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_in_the_order_of_the_index() {
        let index = "format: 1\ngroup boot: a/b.ko ?a/fast.ko c.ko\ngroup bootless: d.ko\n";
        assert_eq!(group(index, "boot").collect::<Vec<_>>(), ["a/b.ko", "c.ko"]);
        assert_eq!(group(index, "scsi").count(), 0);
    }
}
