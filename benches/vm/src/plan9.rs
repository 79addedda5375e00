//! How fast a file of a 9P share is read and written, one after the other, against a stream of the same transport.

use std::path::Path;
use std::time::{Duration, Instant};

use uvm::image::KernelSource;
use uvm::{LcowOptions, Plan9ShareOptions, UtilityVm};
use uvm_bench_guest::{BLOCK, FILE, vsock_port};

use crate::context::{Context, by_virtual_sockets, command_line, figure_of, first_exec, options};
use crate::raw_stream::{self, RawStream, blocks, speed};
use crate::report::{Report, Statistic, Target};
use crate::vsock_device::{Machine, down, up};

const ROUNDS: usize = 11;
const MEMORY_MIB: u64 = 1024;
const PROCESSORS: [u32; 2] = [1, 2];
const MIB: u64 = 256;
const MOUNTED: &str = "/run/share";
/// The agent loads modules two seconds after the start.
const SETTLE: Duration = Duration::from_secs(5);
/// A file system in memory: no disk is measured.
const IN_MEMORY: &str = "/dev/shm";

pub(crate) async fn measure(context: &Context) -> anyhow::Result<Report> {
    let mut report = Report::begin("plan9")?;
    report.set("rounds", context.rounds.unwrap_or(ROUNDS));
    report.set("mib", MIB);
    report.set("memory_mib", MEMORY_MIB);
    report.set("stream_block_bytes", BLOCK);
    let files = context.boot_files(KernelSource::Distribution, None)?;
    report.set("kernel", files.manifest().kernel.release.clone());
    let reference = context.boot_files(KernelSource::Distribution, Some(raw_stream::GUEST))?;
    let directory = tempfile::tempdir_in(IN_MEMORY)?;
    for processors in PROCESSORS {
        let options = options(&files, processors, MEMORY_MIB)?;
        let line = command_line(context, &options).await?;
        let raw = Raw::Mux(RawStream::boot(context, &line, &reference).await?);
        compare(context, &mut report, (&options, processors), &raw, directory.path()).await?;
    }
    let reference = context.boot_files(KernelSource::Distribution, Some("bench-guest-vsock"))?;
    for processors in PROCESSORS {
        let (options, _directory) = by_virtual_sockets(&files, processors, MEMORY_MIB)?;
        let line = command_line(context, &options).await?;
        let raw = Raw::Sockets(Machine::ours(context, &line, &reference)?);
        compare(context, &mut report, (&options, processors), &raw, directory.path()).await?;
    }
    report.end()?;
    Ok(report)
}

/// A guest that fills streams or empties them, of what carries the share's messages.
enum Raw {
    /// The multiplexer: an agent of ours has nothing else.
    Mux(RawStream),
    /// Virtual sockets: what the original's agent has.
    Sockets(Machine),
}

impl Raw {
    fn name(&self) -> &'static str {
        match self {
            Self::Mux(_) => "multiplexer",
            Self::Sockets(_) => "virtual sockets",
        }
    }

    async fn guest_to_host(&self) -> anyhow::Result<f64> {
        match self {
            Self::Mux(raw) => raw.guest_to_host(MIB).await,
            Self::Sockets(raw) => {
                let began = Instant::now();
                up(raw.dial(vsock_port::SOURCE).await?, blocks(MIB)).await?;
                Ok(speed(MIB, began))
            }
        }
    }

    async fn host_to_guest(&self) -> anyhow::Result<f64> {
        match self {
            Self::Mux(raw) => raw.host_to_guest(MIB).await,
            Self::Sockets(raw) => {
                let began = Instant::now();
                down(raw.dial(vsock_port::SINK).await?, blocks(MIB)).await?;
                Ok(speed(MIB, began))
            }
        }
    }
}

/// A VM with a share against the stream.
async fn compare(
    context: &Context,
    report: &mut Report,
    (options, processors): (&LcowOptions, u32),
    raw: &Raw,
    directory: &Path,
) -> anyhow::Result<()> {
    let (vm, _) = first_exec(context.platform(), options).await?;
    let share = vm.add_plan9(&Plan9ShareOptions::new(directory, MOUNTED)).await?;
    tokio::time::sleep(SETTLE).await;
    let series = |what: &str| format!("{what}, {}, {processors} cpu", raw.name());
    let rounds = context.rounds.unwrap_or(ROUNDS);
    // Written first, so that there is something to read.
    for round in 0..=rounds {
        for turn in 0..2 {
            let samples = if (turn + round) % 2 == 0 {
                [("write", file(&vm, "write", Some(MIB)).await?), ("read", file(&vm, "read", None).await?)]
            } else {
                [("from guest", raw.guest_to_host().await?), ("to guest", raw.host_to_guest().await?)]
            };
            for (name, speed) in samples {
                if round > 0 {
                    report.sample(&series(name), "MiB/s", speed);
                }
            }
        }
    }
    share.release().await?;
    vm.close().await?;
    for (verb, stream) in [("read", "to guest"), ("write", "from guest")] {
        let what = series(&format!("{verb} of {MIB} MiB / raw stream {stream}"));
        let target = Some(Target::AtLeast(0.8));
        report.figure(&what, &series(verb), Statistic::Median, Some(&series(stream)), target)?;
    }
    Ok(())
}

/// How fast the guest's program is with the share's file.
async fn file(vm: &UtilityVm, verb: &str, mib: Option<u64>) -> anyhow::Result<f64> {
    let path = format!("{MOUNTED}/file");
    let words = [FILE, verb, &path].map(ToOwned::to_owned).into_iter().chain(mib.map(|mib| mib.to_string()));
    figure_of(vm, words.collect()).await
}
