//! How fast a file of a 9P share is read and written, one after the other, against a stream of the same transport.

use std::time::Duration;

use uvm::image::KernelSource;
use uvm::{Plan9ShareOptions, UtilityVm};
use uvm_bench_guest::{BLOCK, FILE};

use crate::context::{Context, command_line, figure_of, first_exec, options};
use crate::raw_stream::{self, RawStream};
use crate::report::{Report, Statistic, Target};

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
    let rounds = context.rounds.unwrap_or(ROUNDS);
    report.set("rounds", rounds);
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
        let raw = RawStream::boot(context, &line, &reference).await?;
        let (vm, _) = first_exec(context.platform(), &options).await?;
        let share = vm.add_plan9(&Plan9ShareOptions::new(directory.path(), MOUNTED)).await?;
        tokio::time::sleep(SETTLE).await;
        let series = |what: &str| format!("{what}, {processors} cpu");
        // Written first, so that there is something to read.
        for round in 0..=rounds {
            for turn in 0..2 {
                let samples = if (turn + round) % 2 == 0 {
                    [("write", file(&vm, "write", Some(MIB)).await?), ("read", file(&vm, "read", None).await?)]
                } else {
                    [("from guest", raw.guest_to_host(MIB).await?), ("to guest", raw.host_to_guest(MIB).await?)]
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
        drop(raw);
        for (verb, stream) in [("read", "to guest"), ("write", "from guest")] {
            let what = format!("{verb} of {MIB} MiB / raw stream {stream}, {processors} cpu");
            let (verb, stream, target) = (series(verb), series(stream), Some(Target::AtLeast(0.8)));
            report.figure(&what, &verb, Statistic::Median, Some(&stream), target)?;
        }
    }
    report.end()?;
    Ok(report)
}

/// How fast the guest's program is with the share's file.
async fn file(vm: &UtilityVm, verb: &str, mib: Option<u64>) -> anyhow::Result<f64> {
    let path = format!("{MOUNTED}/file");
    let words = [FILE, verb, &path].map(ToOwned::to_owned).into_iter().chain(mib.map(|mib| mib.to_string()));
    figure_of(vm, words.collect()).await
}
