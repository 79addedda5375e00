//! Files of a virtio-fs share as a guest sees them, against plain virtiofsd and QEMU's own virtio-9p, each in a guest of its
//! own on our command line: the same program over the same directory.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use uvm::image::{BootFiles, KernelSource};
use uvm::{ShareKind, ShareOptions};
use uvm_bench_guest::{CONTROL_PORT, FILE};

use crate::bare::BareQemu;
use crate::by_hand::{self, Guest};
use crate::command_line::CommandLine;
use crate::context::{Context, command_line, figure_of, first_exec, options};
use crate::daemon::{Daemon, SOCKET};
use crate::report::{Report, Statistic, Target};

/// What is installed: its name, and which version.
pub(crate) const VIRTIOFSD: (&str, &str) = ("virtiofsd", "1.14.0");
const ROUNDS: usize = 9;
const MEMORY_MIB: u64 = 1024;
const MIB: u64 = 128;
/// A file system in memory: no disk is measured.
const IN_MEMORY: &str = "/dev/shm";
/// The agent loads modules two seconds after the start.
const SETTLE: Duration = Duration::from_secs(5);

/// What is measured: its name, the program's arguments with the share as `@`, its unit, and whether more is better.
const ROWS: [(&str, &[&str], &str, bool); 7] = [
    ("write 128 MiB", &["write", "@/written", "128"], "MiB/s", true),
    ("read 128 MiB", &["read", "@/big"], "MiB/s", true),
    ("read 4 KiB at random", &["random", "@/big", "2000"], "us", false),
    ("stat", &["stat", "@/many"], "us", false),
    ("create and unlink", &["create", "@/many", "300"], "us", false),
    ("list 5,000 names", &["list", "@/wide"], "ms", false),
    ("look at a tree of 300 files", &["status", "@/tree"], "ms", false),
];

/// The references: their names, and how the guest mounts them.
const REFERENCES: [(&str, &str); 4] = [
    ("virtiofsd", "virtiofs reference rw /mnt/virtiofsd"),
    ("virtio-9p, none", "9p none trans=virtio,version=9p2000.L,msize=512000,cache=none /mnt/none"),
    ("virtio-9p, mmap", "9p mmap trans=virtio,version=9p2000.L,msize=512000,cache=mmap /mnt/mmap"),
    ("virtio-9p, loose", "9p loose trans=virtio,version=9p2000.L,msize=512000,cache=loose /mnt/loose"),
];
/// A device of virtio-9p can be mounted once.
const TAGS_OF_9P: [&str; 3] = ["none", "mmap", "loose"];

pub(crate) async fn measure(context: &Context) -> anyhow::Result<Report> {
    let mut report = Report::begin("shares")?;
    let rounds = context.rounds.unwrap_or(ROUNDS);
    report.set("rounds", rounds);
    report.set("memory_mib", MEMORY_MIB);
    report.set("processors", 1);
    report.set("virtiofsd", VIRTIOFSD.1);
    let files = context.boot_files(KernelSource::Distribution, None)?;
    report.set("kernel", files.manifest().kernel.release.clone());
    let directory = tempfile::tempdir_in(IN_MEMORY)?;
    fill(directory.path())?;
    let options = options(&files, 1, MEMORY_MIB)?;
    let line = command_line(context, &options).await?;
    let mut theirs =
        References { fs: virtiofsd(context, &line, directory.path())?, nine: nine(context, &line, directory.path())? };
    let (vm, _) = first_exec(context.platform(), &options).await?;
    let wanted = ShareOptions::new(directory.path(), "/mnt").with_kind(ShareKind::VirtioFs);
    let share = vm.share_with(&wanted).await?;
    tokio::time::sleep(SETTLE).await;
    for round in 0..=rounds {
        for (what, arguments, unit, _) in ROWS {
            let sides = REFERENCES.map(|(name, _)| Some(name)).into_iter().chain([None]);
            let mut sides: Vec<_> = sides.collect();
            sides.rotate_left(round % (REFERENCES.len() + 1));
            for side in sides {
                let sample = match side {
                    Some(name) => theirs.run(name, arguments)?,
                    None => figure_of(&vm, words(arguments, "/mnt")).await?,
                };
                if round > 0 {
                    report.sample(&series(what, side.unwrap_or("ours")), unit, sample);
                }
            }
        }
    }
    share.release().await?;
    vm.close().await?;
    for (what, _, _, more_is_better) in ROWS {
        for (name, _) in REFERENCES {
            // `loose` is not coherent with the host.
            let target = match name {
                "virtiofsd" if more_is_better => Some(Target::AtLeast(0.95)),
                "virtiofsd" => Some(Target::AtMost(1.05)),
                "virtio-9p, loose" => None,
                _ if more_is_better => Some(Target::AtLeast(1.0)),
                _ => Some(Target::AtMost(1.0)),
            };
            let reference = series(what, name);
            let figure = format!("{what} / {name}");
            report.figure(&figure, &series(what, "ours"), Statistic::Median, Some(&reference), target)?;
        }
    }
    report.end()?;
    Ok(report)
}

fn series(what: &str, side: &str) -> String {
    format!("{what}: {side}")
}

/// What is looked at.
fn fill(directory: &Path) -> anyhow::Result<()> {
    fs::write(directory.join("big"), vec![b'x'; usize::try_from(MIB << 20)?])?;
    for (name, count) in [("many", 1000), ("wide", 5000)] {
        fs::create_dir(directory.join(name))?;
        for index in 0..count {
            fs::write(directory.join(name).join(format!("file-{index}")), "")?;
        }
    }
    for index in 0..300 {
        let parent = directory.join(format!("tree/directory-{}/below", index / 10));
        fs::create_dir_all(&parent)?;
        fs::write(parent.join(format!("file-{index}")), vec![b'x'; 4096])?;
    }
    Ok(())
}

fn words(arguments: &[&str], at: &str) -> Vec<String> {
    std::iter::once(FILE.to_owned()).chain(arguments.iter().map(|word| word.replace('@', at))).collect()
}

/// The references. What one guest has just freed it uses again at less cost than what has gone back to the host, so that each
/// has, like ours, a guest that rests while others are measured.
struct References {
    fs: Reference,
    nine: Reference,
}

impl References {
    fn run(&mut self, name: &str, arguments: &[&str]) -> anyhow::Result<f64> {
        let (_, how) = REFERENCES.into_iter().find(|(known, _)| *known == name).context("no such reference")?;
        let at = how.rsplit(' ').next().unwrap_or_default();
        let guest = if how.starts_with("9p ") { &mut self.nine.guest } else { &mut self.fs.guest };
        guest.order("run", &format!("run {}", words(arguments, at).join(" ")))?;
        let said = guest.done("run").with_context(|| format!("{name}: {arguments:?}"))?;
        said.parse().with_context(|| format!("{name}: {arguments:?} printed {said:?}"))
    }
}

/// A guest, and what serves it.
struct Reference {
    guest: Guest,
    _qemu: BareQemu,
    _daemon: Option<Daemon>,
}

fn virtiofsd(context: &Context, line: &CommandLine, directory: &Path) -> anyhow::Result<Reference> {
    let daemon = Daemon::start(VIRTIOFSD, |command, dir| {
        command.arg("--socket-path").arg(dir.join(SOCKET)).arg("--shared-dir").arg(directory);
        command.args(["--cache", "auto"]).stderr(Stdio::null());
    })?;
    let line = line.clone().and(&[
        ("-chardev", "socket,id=reference,fd=0".to_owned()),
        ("-device", "vhost-user-fs-pci,chardev=reference,tag=reference".to_owned()),
    ]);
    let given = BTreeMap::from([("reference".to_owned(), OwnedFd::from(daemon.connect()?))]);
    boot(context, line, given, "virtiofs", Some(daemon))
}

fn nine(context: &Context, line: &CommandLine, directory: &Path) -> anyhow::Result<Reference> {
    let line = TAGS_OF_9P.into_iter().fold(line.clone(), |line, tag| {
        line.and(&[
            ("-fsdev", format!("local,id={tag},path={},security_model=none", directory.display())),
            ("-device", format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}")),
        ])
    });
    boot(context, line, BTreeMap::new(), "9p", None)
}

/// Boots it and mounts what is of that kind.
fn boot(
    context: &Context,
    line: CommandLine,
    given: BTreeMap<String, OwnedFd>,
    kind: &str,
    daemon: Option<Daemon>,
) -> anyhow::Result<Reference> {
    let line = line.with_plain_ports(&[CONTROL_PORT]);
    let files: BootFiles = context.boot_files(KernelSource::Distribution, Some(by_hand::GUEST))?;
    let mut qemu = BareQemu::spawn_with(context.host.program(), &line, &files, given)?;
    let mut guest = Guest::connect(qemu.channel(CONTROL_PORT)?)?;
    for (name, how) in REFERENCES.into_iter().filter(|(_, how)| how.split(' ').next() == Some(kind)) {
        guest.order("mount", &format!("mount {how}"))?;
        guest.done("mount").with_context(|| name.to_owned())?;
    }
    Ok(Reference { guest, _qemu: qemu, _daemon: daemon })
}
