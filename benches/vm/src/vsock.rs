//! Virtual sockets against those of `vhost-device-vsock`: the same guest's program, the same QEMU line.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use uvm::image::KernelSource;
use uvm_bench_guest::{BLOCK, MESSAGE, vsock_port};

use crate::context::{Context, command_line, millis, options};
use crate::raw_stream::{blocks, speed};
use crate::report::{Report, Statistic, Target};
use crate::size::pss_of;
use crate::vsock_device::{Machine, Stream, VERSION, down, up};

const ROUNDS: usize = 15;
const MEMORY_MIB: u64 = 1024;
const MESSAGES: u32 = 1000;
const MIB: u64 = 64;
const BLOCKS: u64 = blocks(MIB);
const AT_ONCE: usize = 256;
const IDLE: usize = 1000;
/// How long idle connections are watched.
const WATCHED: Duration = Duration::from_secs(10);
/// How long the last of them may take to be so.
const SETTLE: Duration = Duration::from_secs(1);
const WAKE_UPS: &str = "wake-ups a second";

/// What is measured: its name, its unit, the limit of the ratio to the reference.
const FIGURES: [(&str, &str, Target); 5] = [
    ("round trip", "us", Target::AtMost(1.0)),
    ("up, 1 stream", "MiB/s", Target::AtLeast(1.0)),
    ("down, 1 stream", "MiB/s", Target::AtLeast(1.0)),
    ("up and down, 8 streams each", "MiB/s", Target::AtLeast(1.0)),
    ("256 dials at once, to the last answer", "ms", Target::AtMost(1.0)),
];

pub(crate) async fn measure(context: &Context) -> anyhow::Result<Report> {
    // The reference takes a descriptor of its user for each connection.
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    let mut report = Report::begin("vsock")?;
    let rounds = context.rounds.unwrap_or(ROUNDS);
    report.set("rounds", rounds);
    report.set("round_trips_a_round", MESSAGES);
    report.set("mib", MIB);
    report.set("block_bytes", BLOCK);
    report.set("memory_mib", MEMORY_MIB);
    report.set("reference", format!("vhost-device-vsock {VERSION}"));
    let files = context.boot_files(KernelSource::Distribution, Some("bench-guest-vsock"))?;
    report.set("kernel", files.manifest().kernel.release.clone());
    let agent_files = context.boot_files(KernelSource::Distribution, None)?;
    let mut options = options(&agent_files, 1, MEMORY_MIB)?;
    options.virtual_sockets = true;
    let line = command_line(context, &options).await?;
    let machines =
        [("ours", Machine::ours(context, &line, &files)?), ("reference", Machine::reference(context, &line, &files)?)]
            .map(|(name, machine)| (name, Arc::new(machine)));
    for (name, machine) in &machines {
        idle(&mut report, name, machine).await.with_context(|| format!("{name}: idle"))?;
    }
    for round in 0..=rounds {
        for turn in 0..machines.len() {
            let (name, machine) = &machines[(turn + round) % machines.len()];
            for ((what, unit, _), value) in FIGURES.iter().zip(one_round(machine).await?) {
                if round > 0 {
                    report.sample(&format!("{what}: {name}"), unit, value);
                }
            }
        }
    }
    for (what, _, target) in FIGURES {
        let [ours, reference] = ["ours", "reference"].map(|name| format!("{what}: {name}"));
        report.figure(what, &ours, Statistic::Median, Some(&reference), Some(target))?;
    }
    for (what, limit) in [("memory", 16.0), (WAKE_UPS, 0.0)] {
        let [ours, reference] = ["ours", "reference"].map(|name| idle_of(what, name));
        report.figure(&ours, &ours, Statistic::Median, None, Some(Target::AtMost(limit)))?;
        report.figure(&reference, &reference, Statistic::Median, None, None)?;
    }
    report.end()?;
    Ok(report)
}

/// All figures, once.
async fn one_round(machine: &Arc<Machine>) -> anyhow::Result<[f64; 5]> {
    Ok([
        round_trip(machine).await?,
        alone(up(machine.dial(vsock_port::SOURCE).await?, BLOCKS)).await?,
        alone(down(machine.dial(vsock_port::SINK).await?, BLOCKS)).await?,
        both_ways(machine).await?,
        at_once(machine).await?,
    ])
}

async fn echo(stream: &mut dyn Stream) -> anyhow::Result<()> {
    let mut message = [1; MESSAGE];
    stream.write_all(&message).await?;
    stream.read_exact(&mut message).await?;
    Ok(())
}

async fn round_trip(machine: &Machine) -> anyhow::Result<f64> {
    let mut stream = machine.dial(vsock_port::ECHO).await?;
    echo(&mut *stream).await?;
    let began = Instant::now();
    for _ in 0..MESSAGES {
        echo(&mut *stream).await?;
    }
    Ok(millis(began) * 1000.0 / f64::from(MESSAGES))
}

/// The speed of one stream.
async fn alone(transfer: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<f64> {
    let began = Instant::now();
    transfer.await?;
    Ok(speed(MIB, began))
}

/// Eight streams each way; together they carry as much each way as one does alone.
async fn both_ways(machine: &Machine) -> anyhow::Result<f64> {
    const STREAMS: u64 = 8;
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        streams.push((machine.dial(vsock_port::SOURCE).await?, machine.dial(vsock_port::SINK).await?));
    }
    let began = Instant::now();
    let mut running = JoinSet::new();
    for (source, sink) in streams {
        running.spawn(up(source, BLOCKS / STREAMS));
        running.spawn(down(sink, BLOCKS / STREAMS));
    }
    all(running).await?;
    Ok(speed(2 * MIB, began))
}

/// Dials and is answered on each, all at the same time.
async fn at_once(machine: &Arc<Machine>) -> anyhow::Result<f64> {
    let began = Instant::now();
    let mut running = JoinSet::new();
    for _ in 0..AT_ONCE {
        let machine = Arc::clone(machine);
        running.spawn(async move {
            let mut stream = machine.dial(vsock_port::ECHO).await?;
            echo(&mut *stream).await?;
            Ok(stream)
        });
    }
    // They are all open until the last has been answered.
    let streams = all(running).await?;
    let took = millis(began);
    drop(streams);
    Ok(took)
}

async fn all<T: 'static>(mut running: JoinSet<anyhow::Result<T>>) -> anyhow::Result<Vec<T>> {
    let mut results = Vec::new();
    while let Some(result) = running.join_next().await {
        results.push(result??);
    }
    Ok(results)
}

/// What connections cost that carry nothing: memory of the process that runs the device, and how often one of its threads
/// is woken.
async fn idle(report: &mut Report, name: &str, machine: &Machine) -> anyhow::Result<()> {
    let mut first = machine.dial(vsock_port::ECHO).await?;
    echo(&mut *first).await?;
    let before = pss_of(machine.pid())?;
    let mut readers = JoinSet::new();
    for _ in 0..IDLE {
        let mut stream = machine.dial(vsock_port::ECHO).await?;
        echo(&mut *stream).await?;
        readers.spawn(async move { stream.read_u8().await });
    }
    // The last of them are polled and wait.
    tokio::time::sleep(SETTLE).await;
    report.sample(&idle_of("memory", name), "MiB", pss_of(machine.pid())? - before);
    let pid = machine.pid();
    // Another thread watches, so that this one, which waits for all streams, is woken by nothing but them.
    let (watched, mut result) = tokio::sync::oneshot::channel::<anyhow::Result<u64>>();
    std::thread::spawn(move || {
        let own = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
        let count = || -> anyhow::Result<u64> {
            let threads = threads(pid)?.into_iter().filter(|thread| *thread != own);
            threads.map(|thread| wake_ups(pid, thread)).sum()
        };
        let woken = || -> anyhow::Result<u64> {
            let before = count()?;
            std::thread::sleep(WATCHED);
            Ok(count()? - before)
        };
        // Nobody waits any more if the measurement was given up.
        let _ = watched.send(woken());
    });
    tokio::select! {
        woken = &mut result => report.sample(&idle_of(WAKE_UPS, name), "1/s", per_second(woken??)),
        Some(ended) = readers.join_next() => anyhow::bail!("an idle connection ended: {:?}", ended?),
    }
    Ok(())
}

fn idle_of(what: &str, name: &str) -> String {
    format!("{IDLE} idle connections, {what}: {name}")
}

#[expect(clippy::cast_precision_loss, reason = "a small number")]
fn per_second(count: u64) -> f64 {
    count as f64 / WATCHED.as_secs_f64()
}

fn threads(pid: u32) -> anyhow::Result<Vec<u32>> {
    let entries = fs::read_dir(format!("/proc/{pid}/task"))?;
    entries.map(|entry| entry?.file_name().to_string_lossy().parse().context("a thread's id")).collect()
}

/// How often a thread has been woken: it gave its processor away as often, to wait.
fn wake_ups(pid: u32, thread: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/task/{thread}/status")).context("a thread's status")?;
    let value = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    value.and_then(|value| value.trim().parse().ok()).with_context(|| format!("no count in {status:?}"))
}
