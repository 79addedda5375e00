//! The host's program: boots a guest, measures a plain port and the mux in turns, prints medians and ratios.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use uvm_bench_mux::{CHUNK, Command, MESSAGE, MUX_PORT, PLAIN_PORT, port};
use uvm_mux::channel::SocketChannel;
use uvm_mux::{Config, Greeting, GuestState, Mux, MuxStream, Priority, Role};

/// Measures uvm-mux against a plain virtio-serial port.
#[derive(Parser)]
struct Options {
    /// The guest's kernel: a vmlinux with PVH, or a bzImage.
    #[arg(long)]
    kernel: PathBuf,
    /// The guest's program, static: bench-mux-guest.
    #[arg(long)]
    guest: PathBuf,
    /// A kernel module for virtio-serial, in the order in which they are to be loaded; none if built in.
    #[arg(long = "module")]
    modules: Vec<PathBuf>,
    /// Rounds; each measures everything once.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Round trips in a round.
    #[arg(long, default_value_t = 1000)]
    messages: usize,
    /// MiB of bulk in a measurement.
    #[arg(long, default_value_t = 64)]
    mib: u64,
    /// Run the driver on a thread of its own, as a program with other work does.
    #[arg(long)]
    own_thread: bool,
    /// Largest window of a lone bulk stream, in KiB.
    #[arg(long, default_value_t = 1024)]
    max_window_kib: u32,
    /// Only the measurements whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// QEMU's accelerator.
    #[arg(long, default_value = "tcg")]
    accel: String,
    /// Keep the guest's console in this file.
    #[arg(long)]
    console: Option<PathBuf>,
    /// Print all samples as JSON instead of a table.
    #[arg(long)]
    json: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let mut guest = Guest::boot(&options)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let socket = guest.mux.take().context("a mux socket")?;
    let greeting = Greeting::new(GuestState::Fresh)?;
    let config = Config::default().with_max_window(options.max_window_kib * 1024);
    let mux = if options.own_thread {
        let driver_runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let context = driver_runtime.enter();
        let (mux, driver) = Mux::new(SocketChannel::new(socket)?, Role::Owner(greeting), config);
        drop(context);
        std::thread::spawn(move || driver_runtime.block_on(driver));
        mux
    } else {
        let context = runtime.enter();
        let (mux, driver) = Mux::new(SocketChannel::new(socket)?, Role::Owner(greeting), config);
        drop(context);
        runtime.spawn(driver);
        mux
    };
    let mut samples = Samples::default();
    runtime.block_on(measure(&options, &mut guest, &mux, &mut samples))?;
    guest.plain.write_all(&Command::Quit.encode())?;
    guest.wait(Duration::from_secs(10))?;
    if options.json {
        samples.print_json(&options);
    } else {
        samples.print_table();
    }
    Ok(())
}

async fn measure(options: &Options, guest: &mut Guest, mux: &Mux, samples: &mut Samples) -> Result<()> {
    tokio::time::timeout(Duration::from_secs(60), mux.up()).await.context("no answer from the guest")??;
    let bytes = options.mib << 20;
    // The yardstick's streams all exist while one of them is measured.
    let mut echoes = Vec::new();
    for _ in 0..16 {
        let echo = mux.dial(port::ECHO).await?;
        echo.set_priority(Priority::Control);
        echoes.push(echo);
    }
    overfill(mux).await.context("more than the port holds")?;
    let wanted = |what: &str| options.only.as_ref().is_none_or(|only| what.contains(only.as_str()));
    for round in 0..options.rounds {
        let echo = &mut echoes[round % 16];
        for what in MEASUREMENTS.iter().filter(|what| wanted(what)) {
            let plain = &mut guest.plain;
            let (unit, taken) = match *what {
                "rtt plain" => (Unit::Us, plain_rtt(plain, options.messages)?),
                "rtt mux, 1 of 16" => (Unit::Us, mux_rtt(echo, options.messages).await?),
                "up plain" => (Unit::MibPerS, vec![plain_up(plain, bytes)?]),
                "up mux, 1 stream" => (Unit::MibPerS, vec![mux_up(mux, bytes, 1).await?.0]),
                "up mux, 8 streams" => {
                    let (speed, first) = mux_up(mux, bytes, 8).await?;
                    samples.add("first of 8 streams done, of the last", Unit::Percent, vec![first]);
                    (Unit::MibPerS, vec![speed])
                }
                "down plain" => (Unit::MibPerS, vec![plain_down(plain, bytes)?]),
                "down mux, 1 stream" => (Unit::MibPerS, vec![mux_down(mux, bytes, 1, port::SOURCE).await?]),
                "down mux, 8 streams" => (Unit::MibPerS, vec![mux_down(mux, bytes, 8, port::SOURCE).await?]),
                "down mux, from a pipe" => (Unit::MibPerS, vec![mux_down(mux, bytes, 1, port::PIPE_SOURCE).await?]),
                "rtt mux under bulk up" => {
                    let bulk = tokio::spawn(endless_up(mux.dial(port::SINK).await?));
                    let times = mux_rtt(echo, options.messages / 4).await?;
                    bulk.abort();
                    (Unit::Us, times)
                }
                _ => {
                    let mut source = mux.dial(port::SOURCE).await?;
                    source.write_u64_le(u64::MAX).await?;
                    let bulk = tokio::spawn(endless_down(source));
                    let times = mux_rtt(echo, options.messages / 4).await?;
                    bulk.abort();
                    (Unit::Us, times)
                }
            };
            samples.add(what, unit, taken);
            tokio::time::sleep(Duration::from_millis(5)).await; // what was aborted drains
        }
    }
    Ok(())
}

/// Has the guest send more than its port and everything behind it holds, while nobody reads, and counts what comes.
async fn overfill(mux: &Mux) -> Result<()> {
    const BYTES: u64 = 128 * 1024;
    let mut sources = Vec::new();
    for _ in 0..200 {
        let mut source = mux.dial(port::SOURCE).await?;
        source.write_u64_le(BYTES).await?;
        sources.push(source);
    }
    std::thread::sleep(Duration::from_millis(500)); // the driver too, if it is on this thread
    for mut source in sources {
        let mut all = Vec::new();
        tokio::time::timeout(Duration::from_secs(20), source.read_to_end(&mut all)).await.context("stalled")??;
        ensure!(all.len() as u64 == BYTES, "{} bytes came", all.len());
    }
    Ok(())
}

/// In this order in every round.
const MEASUREMENTS: [&str; 11] = [
    "rtt plain",
    "rtt mux, 1 of 16",
    "up plain",
    "up mux, 1 stream",
    "up mux, 8 streams",
    "down plain",
    "down mux, 1 stream",
    "down mux, 8 streams",
    "down mux, from a pipe",
    "rtt mux under bulk up",
    "rtt mux under bulk down",
];

fn plain_rtt(plain: &mut UnixStream, messages: usize) -> Result<Vec<f64>> {
    plain.write_all(&Command::Echo(messages as u64).encode())?;
    let mut message = [7; MESSAGE];
    let mut times = Vec::with_capacity(messages);
    for _ in 0..messages {
        let start = Instant::now();
        plain.write_all(&message)?;
        plain.read_exact(&mut message)?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    Ok(times)
}

async fn mux_rtt(stream: &mut MuxStream, messages: usize) -> Result<Vec<f64>> {
    let mut message = [7; MESSAGE];
    let mut times = Vec::with_capacity(messages);
    for _ in 0..messages {
        let start = Instant::now();
        stream.write_all(&message).await?;
        stream.read_exact(&mut message).await?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    Ok(times)
}

fn plain_up(plain: &mut UnixStream, bytes: u64) -> Result<f64> {
    plain.write_all(&Command::Sink(bytes).encode())?;
    let chunk = vec![0; CHUNK];
    let start = Instant::now();
    for _ in 0..bytes / CHUNK as u64 {
        plain.write_all(&chunk)?;
    }
    plain.read_exact(&mut [0])?;
    Ok(rate(bytes, start))
}

fn plain_down(plain: &mut UnixStream, bytes: u64) -> Result<f64> {
    let start = Instant::now();
    plain.write_all(&Command::Source(bytes).encode())?;
    let (mut buffer, mut left) = (vec![0; 2 * CHUNK], bytes);
    while left > 0 {
        left -= plain.read(&mut buffer)? as u64;
    }
    Ok(rate(bytes, start))
}

/// The rate, and when the first stream was done, in percent of the last's time.
async fn mux_up(mux: &Mux, bytes: u64, streams: u64) -> Result<(f64, f64)> {
    let mut tasks = JoinSet::new();
    let mut open = Vec::new();
    for _ in 0..streams {
        open.push(mux.dial(port::SINK).await?);
    }
    let start = Instant::now();
    for mut stream in open {
        tasks.spawn(async move {
            let chunk = vec![0; CHUNK];
            for _ in 0..bytes / streams / CHUNK as u64 {
                stream.write_all(&chunk).await?;
            }
            stream.shutdown().await?;
            stream.read_u8().await?;
            anyhow::Ok(start.elapsed().as_secs_f64())
        });
    }
    let mut ends = Vec::new();
    while let Some(end) = tasks.join_next().await {
        ends.push(end??);
    }
    let (first, last) = (ends.first().context("no stream")?, ends.last().context("no stream")?);
    Ok((rate(bytes, start), 100.0 * first / last))
}

async fn mux_down(mux: &Mux, bytes: u64, streams: u64, from: u32) -> Result<f64> {
    let mut tasks = JoinSet::new();
    let mut open = Vec::new();
    for _ in 0..streams {
        open.push(mux.dial(from).await?);
    }
    let start = Instant::now();
    for mut stream in open {
        tasks.spawn(async move {
            stream.write_u64_le(bytes / streams).await?;
            let (mut buffer, mut total) = (vec![0; 2 * CHUNK], 0);
            loop {
                let n = stream.read(&mut buffer).await?;
                if n == 0 {
                    break;
                }
                total += n as u64;
            }
            ensure!(total == bytes / streams, "{total} bytes came");
            anyhow::Ok(())
        });
    }
    while let Some(end) = tasks.join_next().await {
        end??;
    }
    Ok(rate(bytes, start))
}

async fn endless_up(mut stream: MuxStream) -> std::io::Result<()> {
    let chunk = vec![0; CHUNK];
    loop {
        stream.write_all(&chunk).await?;
    }
}

async fn endless_down(mut stream: MuxStream) -> std::io::Result<()> {
    let mut buffer = vec![0; 2 * CHUNK];
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "bytes of one measurement, far below 2^52")]
fn rate(bytes: u64, start: Instant) -> f64 {
    bytes as f64 / f64::from(1 << 20) / start.elapsed().as_secs_f64()
}

/// A running guest. Dropping it kills it.
struct Guest {
    qemu: Child,
    plain: UnixStream,
    mux: Option<UnixStream>,
    _initrd: tempfile::NamedTempFile,
}

impl Guest {
    fn boot(options: &Options) -> Result<Self> {
        let mut initrd = tempfile::NamedTempFile::new()?;
        initrd.write_all(&initramfs(&options.guest, &options.modules)?)?;
        let ((plain, plain_qemu), (mux, mux_qemu)) = (UnixStream::pair()?, UnixStream::pair()?);
        let (plain_qemu, mux_qemu) = (OwnedFd::from(plain_qemu), OwnedFd::from(mux_qemu));
        let console = options.console.as_ref().map_or("null".into(), |path| format!("file:{}", path.display()));
        let mut qemu = Process::new("qemu-system-x86_64");
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .args(["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"])
            .arg("-machine")
            .arg(format!(
                "q35,accel={},memory-backend=mem,sata=off,smbus=off,vmport=off,graphics=off,usb=off",
                options.accel
            ))
            .args(["-cpu", if options.accel == "tcg" { "qemu64" } else { "host" }, "-smp", "1", "-m", "512M"])
            .args(["-object", "memory-backend-memfd,id=mem,size=512M,share=on"])
            .arg("-kernel")
            .arg(&options.kernel)
            .arg("-initrd")
            .arg(initrd.path())
            .arg("-append")
            .arg(
                "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable no_timer_check nolapic_timer \
                 memhp_default_state=online_movable",
            )
            .args(["-serial", &console]);
        // A device each: ports of one device share an interrupt, and a sleeper on one is woken by the other's traffic.
        for (id, fd, name) in [("plain", &plain_qemu, PLAIN_PORT), ("mux", &mux_qemu, MUX_PORT)] {
            rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?; // QEMU inherits it
            let number = std::os::fd::AsRawFd::as_raw_fd(fd);
            qemu.arg("-chardev").arg(format!("socket,id={id},fd={number}"));
            qemu.arg("-device").arg(format!("virtio-serial-pci,id=vser-{id}"));
            qemu.arg("-device").arg(format!("virtserialport,bus=vser-{id}.0,chardev={id},name={name}"));
        }
        let qemu = qemu.stdin(Stdio::null()).spawn().context("start QEMU")?;
        let mut guest = Self { qemu, plain, mux: Some(mux), _initrd: initrd };
        guest.plain.set_read_timeout(Some(Duration::from_secs(60)))?;
        guest.plain.read_exact(&mut [0]).context("the guest did not come up")?;
        Ok(guest)
    }

    fn wait(&mut self, most: Duration) -> Result<()> {
        let start = Instant::now();
        while self.qemu.try_wait()?.is_none() {
            ensure!(start.elapsed() < most, "the guest did not power off");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// A cpio archive (newc) with the guest's program and its modules.
fn initramfs(init: &Path, modules: &[PathBuf]) -> Result<Vec<u8>> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("read {}", path.display()));
    let mut archive = Vec::new();
    append(&mut archive, "init", 0o100_755, &read(init)?);
    append(&mut archive, "modules", 0o040_755, &[]);
    for (i, module) in modules.iter().enumerate() {
        append(&mut archive, &format!("modules/{i:02}.ko"), 0o100_644, &read(module)?);
    }
    append(&mut archive, "TRAILER!!!", 0, &[]);
    Ok(archive)
}

fn append(archive: &mut Vec<u8>, name: &str, mode: u32, data: &[u8]) {
    let (name_len, data_len) = (name.len() + 1, data.len());
    archive.extend_from_slice(b"070701");
    for field in [0, mode as usize, 0, 0, 1, 0, data_len, 0, 0, 0, 0, name_len, 0] {
        archive.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(data);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

#[derive(Clone, Copy)]
enum Unit {
    Us,
    MibPerS,
    Percent,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Us => "us",
            Self::MibPerS => "MiB/s",
            Self::Percent => "%",
        }
    }
}

/// All samples, by what was measured, in the order of the first.
#[derive(Default)]
struct Samples(Vec<(&'static str, Unit, Vec<f64>)>);

impl Samples {
    fn add(&mut self, what: &'static str, unit: Unit, more: Vec<f64>) {
        match self.0.iter_mut().find(|(name, ..)| *name == what) {
            Some((.., all)) => all.extend(more),
            None => self.0.push((what, unit, more)),
        }
    }

    fn print_table(&self) {
        println!("{:38} {:>9} {:>9} {:>9}  ratio to plain", "", "p50", "p01", "p99");
        for (what, unit, samples) in &self.0 {
            let at = |share| percentile(samples, share);
            let kind = what.split(' ').next().unwrap_or_default();
            let plain = self.0.iter().find(|(name, ..)| *name == format!("{kind} plain"));
            let ratio = plain.map_or(String::new(), |(.., plain)| format!("{:.2}", at(0.5) / percentile(plain, 0.5)));
            let unit = unit.name();
            println!("{what:38} {:9.1} {:9.1} {:9.1}  {ratio:5} {unit}", at(0.5), at(0.01), at(0.99));
        }
    }

    fn print_json(&self, options: &Options) {
        let samples: Vec<_> = self
            .0
            .iter()
            .map(|(what, unit, samples)| serde_json::json!({ "what": what, "unit": unit.name(), "samples": samples }))
            .collect();
        let report = serde_json::json!({
            "rounds": options.rounds, "mib": options.mib, "own_thread": options.own_thread,
            "max_window_kib": options.max_window_kib, "measurements": samples,
        });
        println!("{report}");
    }
}

#[expect(clippy::cast_precision_loss, clippy::cast_sign_loss, reason = "an index into the samples")]
fn percentile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}
