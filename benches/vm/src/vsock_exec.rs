//! Processes of an agent that speaks by virtual sockets only, against a small program that does the same over one connection
//! and opens two more for each process: both on our device and the same QEMU line.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uvm::image::KernelSource;
use uvm::{ProcessSpec, UtilityVm};
use uvm_bench_guest::{BLOCK, TRUE, WRITE, vsock_port};
use uvm_vsock::VsockListener;

use crate::context::{Context, by_virtual_sockets, command_line, first_exec, millis};
use crate::raw_stream::{blocks, speed};
use crate::report::{Report, Statistic, Target};
use crate::vsock_device::{Machine, Stream};

const MEMORY_MIB: u64 = 1024;
/// Processes on each side.
const SAMPLES: usize = 300;
/// Processes of one side before it is the other's turn.
const BLOCK_OF: usize = 25;
const STDOUT_ROUNDS: usize = 7;
const MIB: u64 = 256;
const BLOCKS: u64 = blocks(MIB);
const SETTLE: Duration = Duration::from_secs(5);
const WARM_UP: usize = 25;

pub(crate) async fn measure(context: &Context) -> anyhow::Result<Report> {
    let mut report = Report::begin("vsock-exec")?;
    let blocks = context.rounds.unwrap_or(SAMPLES / BLOCK_OF);
    report.set("samples", blocks * BLOCK_OF);
    report.set("stdout_mib", MIB);
    report.set("memory_mib", MEMORY_MIB);
    report.set("processors", 1);
    let files = context.boot_files(KernelSource::Distribution, None)?;
    report.set("kernel", files.manifest().kernel.release.clone());
    let (options, _directory) = by_virtual_sockets(&files, 1, MEMORY_MIB)?;
    let line = command_line(context, &options).await?;
    let reference = context.boot_files(KernelSource::Distribution, Some("bench-guest-vsock"))?;
    let machine = Machine::ours(context, &line, &reference)?;
    let mut theirs = Reference::connect(&machine).await?;
    let (vm, _) = first_exec(context.platform(), &options).await?;
    tokio::time::sleep(SETTLE).await;
    for _ in 0..WARM_UP {
        ours(&vm).await?;
        theirs.exec().await?;
    }
    for block in 0..blocks {
        for turn in 0..2 {
            for _ in 0..BLOCK_OF {
                if (turn + block) % 2 == 0 {
                    report.sample("exec", "ms", ours(&vm).await?);
                } else {
                    report.sample("reference", "ms", theirs.exec().await?);
                }
            }
        }
    }
    for round in 0..context.rounds.unwrap_or(STDOUT_ROUNDS) {
        for turn in 0..2 {
            if (turn + round) % 2 == 0 {
                report.sample("stdout", "MiB/s", stdout(&vm).await?);
            } else {
                report.sample("stream", "MiB/s", stream(&machine).await?);
            }
        }
    }
    vm.close().await?;
    for (name, statistic, target) in
        [("p50", Statistic::Median, Some(Target::AtMost(1.3))), ("p99", Statistic::P99, None)]
    {
        let what = format!("exec of a static `true` by virtual sockets, {name}");
        report.figure(&what, "exec", statistic, Some("reference"), target)?;
    }
    let target = Some(Target::AtLeast(0.9));
    report.figure("stdout by virtual sockets / raw connection", "stdout", Statistic::Median, Some("stream"), target)?;
    report.end()?;
    Ok(report)
}

async fn ours(vm: &UtilityVm) -> anyhow::Result<f64> {
    let began = Instant::now();
    let process = vm.create_process(&ProcessSpec::new([TRUE])).await?;
    let exit = process.wait().await?;
    let took = millis(began);
    ensure!(exit.is_success(), "{TRUE}: {exit}");
    process.output().await?;
    Ok(took)
}

/// The small program's connection, and where it opens two more.
struct Reference {
    control: Box<dyn Stream>,
    output: VsockListener,
    errors: VsockListener,
}

impl Reference {
    async fn connect(machine: &Machine) -> anyhow::Result<Self> {
        let (output, errors) = (machine.listen(vsock_port::OUTPUT)?, machine.listen(vsock_port::ERRORS)?);
        Ok(Self { control: machine.dial(vsock_port::EXEC).await?, output, errors })
    }

    async fn exec(&mut self) -> anyhow::Result<f64> {
        let began = Instant::now();
        self.control.write_all(&[0]).await?;
        let (mut output, mut errors) = (self.output.accept().await?, self.errors.accept().await?);
        let code = self.control.read_u8().await?;
        let took = millis(began);
        ensure!(code == 0, "{TRUE}: exit code {code}");
        let (mut said, mut wrong) = (Vec::new(), Vec::new());
        output.read_to_end(&mut said).await?;
        errors.read_to_end(&mut wrong).await?;
        Ok(took)
    }
}

async fn stdout(vm: &UtilityVm) -> anyhow::Result<f64> {
    let began = Instant::now();
    let mut process = vm.create_process(&ProcessSpec::new([WRITE.to_owned(), BLOCKS.to_string()])).await?;
    let mut output = process.stdout.take().context("no output")?;
    let total = drain(&mut output, None).await?;
    let speed = speed(MIB, began);
    drop(output);
    let exit = process.output().await?.exit;
    ensure!(exit.is_success() && total == MIB << 20, "{WRITE}: {exit}, {total} bytes");
    Ok(speed)
}

async fn stream(machine: &Machine) -> anyhow::Result<f64> {
    let began = Instant::now();
    let mut stream = machine.dial(vsock_port::SOURCE).await?;
    stream.write_u64_le(BLOCKS).await?;
    let total = drain(&mut stream, Some(MIB << 20)).await?;
    ensure!(total == MIB << 20, "{total} bytes came instead of {MIB} MiB");
    Ok(speed(MIB, began))
}

/// Reads to the end, or so many bytes.
async fn drain(from: &mut (impl tokio::io::AsyncRead + Unpin), limit: Option<u64>) -> anyhow::Result<u64> {
    let (mut buffer, mut total) = (vec![0; 2 * BLOCK], 0);
    while limit.is_none_or(|limit| total < limit) {
        match from.read(&mut buffer).await? {
            0 => break,
            n => total += n as u64,
        }
    }
    Ok(total)
}
