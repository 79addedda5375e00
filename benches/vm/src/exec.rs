//! Starting a process in a running VM and learning its exit code, against the least that can do it over serial ports.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use uvm::image::KernelSource;
use uvm::{ProcessSpec, UtilityVm};
use uvm_bench_guest::{EXEC_PORTS, READY, TRUE};

use crate::bare::BareQemu;
use crate::context::{Context, command_line, first_exec, millis, options};
use crate::report::{Report, Statistic, Target};

const MEMORY_MIB: u64 = 1024;
/// Processes on each side.
const SAMPLES: usize = 500;
/// Processes of one side before it is the other's turn.
const BLOCK: usize = 25;
/// The agent loads modules two seconds after the start, and translated code has to become warm.
const SETTLE: Duration = Duration::from_secs(5);
const WARM_UP: usize = 25;

pub(crate) async fn measure(context: &Context) -> anyhow::Result<Report> {
    let mut report = Report::begin("exec")?;
    // A round is a block of processes here.
    let blocks = context.rounds.unwrap_or(SAMPLES / BLOCK);
    report.set("samples", blocks * BLOCK);
    report.set("memory_mib", MEMORY_MIB);
    report.set("processors", 1);
    let files = context.boot_files(KernelSource::Distribution, None)?;
    report.set("kernel", files.manifest().kernel.release.clone());
    let options = options(&files, 1, MEMORY_MIB)?;
    let line = command_line(context, &options).await?.with_plain_ports(&EXEC_PORTS);
    let reference = context.boot_files(KernelSource::Distribution, Some("bench-guest-exec"))?;
    let mut qemu = BareQemu::spawn(context.host.program(), &line, &reference)?;
    let [mut control, _stdout, _stderr] = ports(&mut qemu)?;
    let (vm, _) = first_exec(context.platform(), &options).await?;
    tokio::time::sleep(SETTLE).await;
    for _ in 0..WARM_UP {
        ours(&vm).await?;
        theirs(&mut control)?;
    }
    for block in 0..blocks {
        for turn in 0..2 {
            for _ in 0..BLOCK {
                if (turn + block) % 2 == 0 {
                    report.sample("exec", "ms", ours(&vm).await?);
                } else {
                    report.sample("reference", "ms", theirs(&mut control)?);
                }
            }
        }
    }
    vm.close().await?;
    drop(control);
    qemu.powered_off()?;
    for (name, statistic, limit) in [("p50", Statistic::Median, 1.3), ("p99", Statistic::P99, 2.0)] {
        let what = format!("exec of a static `true`, {name}");
        report.figure(&what, "exec", statistic, Some("reference"), Some(Target::AtMost(limit)))?;
    }
    report.end()?;
    Ok(report)
}

async fn ours(vm: &UtilityVm) -> anyhow::Result<f64> {
    let began = Instant::now();
    let process = vm.create_process(&ProcessSpec::new([TRUE])).await?;
    let exit = process.wait().await?;
    let took = millis(began);
    ensure!(exit.is_success(), "{TRUE}: {exit}");
    // What comes after the exit code is not of the next one's time.
    process.output().await?;
    Ok(took)
}

fn theirs(control: &mut UnixStream) -> anyhow::Result<f64> {
    let began = Instant::now();
    control.write_all(&[0])?;
    let mut answer = [0];
    control.read_exact(&mut answer)?;
    let took = millis(began);
    ensure!(answer == [0], "{TRUE} ended with {answer:?} in the reference guest");
    Ok(took)
}

/// The reference guest's ports, once it is ready.
fn ports(qemu: &mut BareQemu) -> anyhow::Result<[UnixStream; 3]> {
    let [control, stdout, stderr] = EXEC_PORTS.map(|name| qemu.channel(name));
    let mut control = control?;
    control.set_read_timeout(Some(PATIENCE))?;
    let mut ready = [0];
    control.read_exact(&mut ready).context("the reference guest did not come up")?;
    ensure!(ready == [READY], "the reference guest said {ready:?}");
    Ok([control, stdout?, stderr?])
}

const PATIENCE: Duration = Duration::from_secs(120);
