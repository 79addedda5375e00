//! How fast a process's standard output comes, against a stream of the same transport without process, pipe and bridge.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use uvm::image::KernelSource;
use uvm::{ProcessSpec, UtilityVm};
use uvm_bench_guest::{BLOCK, WRITE};

use crate::context::{Context, command_line, first_exec, options};
use crate::raw_stream::{self, RawStream, blocks, count, speed};
use crate::report::{Report, Statistic, Target};

const ROUNDS: usize = 7;
const MEMORY_MIB: u64 = 1024;
const PROCESSORS: [u32; 2] = [1, 2];
const MIB: u64 = 1024;
const PIPE_ROUNDS: usize = 3;
const BLOCKS: u64 = blocks(MIB);
/// The agent loads modules two seconds after the start.
const SETTLE: Duration = Duration::from_secs(5);

pub(crate) async fn measure(context: &Context) -> anyhow::Result<Report> {
    let mut report = Report::begin("stdout")?;
    let rounds = context.rounds.unwrap_or(ROUNDS);
    report.set("rounds", rounds);
    report.set("mib", MIB);
    report.set("block_bytes", BLOCK);
    report.set("memory_mib", MEMORY_MIB);
    let files = context.boot_files(KernelSource::Distribution, None)?;
    report.set("kernel", files.manifest().kernel.release.clone());
    let reference = context.boot_files(KernelSource::Distribution, Some(raw_stream::GUEST))?;
    for processors in PROCESSORS {
        let options = options(&files, processors, MEMORY_MIB)?;
        let line = command_line(context, &options).await?;
        let raw = RawStream::boot(context, &line, &reference).await?;
        let (vm, _) = first_exec(context.platform(), &options).await?;
        tokio::time::sleep(SETTLE).await;
        let series = |what: &str| format!("{what}, {processors} cpu");
        let (name, raw_name, pipe_name) = (series("stdout"), series("stream"), series("pipe"));
        for round in 0..=rounds {
            for turn in 0..2 {
                let ours = (turn + round) % 2 == 0;
                let speed = if ours { stdout(&vm).await? } else { raw.guest_to_host(MIB).await? };
                if round > 0 {
                    report.sample(if ours { &name } else { &raw_name }, "MiB/s", speed);
                }
            }
        }
        for _ in 0..rounds.min(PIPE_ROUNDS) {
            report.sample(&pipe_name, "MiB/s", pipe(&vm).await?);
        }
        vm.close().await?;
        drop(raw);
        let what = format!("stdout of 1 GiB / raw stream, {processors} cpu");
        report.figure(&what, &name, Statistic::Median, Some(&raw_name), Some(Target::AtLeast(0.9)))?;
        let what = format!("between two processes of the guest, by a pipe / raw stream, {processors} cpu");
        report.figure(&what, &pipe_name, Statistic::Median, Some(&raw_name), None)?;
    }
    report.end()?;
    Ok(report)
}

async fn stdout(vm: &UtilityVm) -> anyhow::Result<f64> {
    let began = Instant::now();
    let mut process = vm.create_process(&ProcessSpec::new([WRITE.to_owned(), BLOCKS.to_string()])).await?;
    let output = process.stdout.take().context("no output")?;
    count(output, MIB).await?;
    let speed = speed(MIB, began);
    let exit = process.output().await?.exit;
    ensure!(exit.is_success(), "{WRITE}: {exit}");
    Ok(speed)
}

/// What a pipe of the usual size carries in that guest, without us.
async fn pipe(vm: &UtilityVm) -> anyhow::Result<f64> {
    let script = format!("{WRITE} {BLOCKS} | dd of=/dev/null bs={BLOCK} 2>/dev/null");
    let began = Instant::now();
    let exit = vm.create_process(&ProcessSpec::new(["sh", "-c", &script])).await?.wait().await?;
    let speed = speed(MIB, began);
    ensure!(exit.is_success(), "{script}: {exit}");
    Ok(speed)
}
