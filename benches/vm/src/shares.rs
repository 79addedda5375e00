//! Files of a virtio-fs share as a guest sees them, against plain virtiofsd and QEMU's own virtio-9p, the latter two in one
//! guest on our command line: the same program over the same directory.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use uvm::image::{BootFiles, KernelSource};
use uvm::{ProcessSpec, ShareKind, ShareOptions, UtilityVm};
use uvm_bench_guest::{CONTROL_PORT, FILE};

use crate::bare::BareQemu;
use crate::by_hand::{self, Guest};
use crate::command_line::CommandLine;
use crate::context::{Context, command_line, first_exec, options};
use crate::report::{Report, Statistic, Target};
use crate::vng::{cache_directory, once, run};

/// What is installed.
const VERSION: &str = "1.14.0";
const ROUNDS: usize = 9;
const MEMORY_MIB: u64 = 1024;
const MIB: u64 = 128;
/// A file system in memory: no disk is measured.
const IN_MEMORY: &str = "/dev/shm";
/// The agent loads modules two seconds after the start.
const SETTLE: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(30);

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
    ("virtio-9p, none", "9p nine trans=virtio,version=9p2000.L,msize=512000,cache=none /mnt/none"),
    ("virtio-9p, mmap", "9p nine trans=virtio,version=9p2000.L,msize=512000,cache=mmap /mnt/mmap"),
    ("virtio-9p, loose", "9p nine trans=virtio,version=9p2000.L,msize=512000,cache=loose /mnt/loose"),
];

pub(crate) async fn measure(context: &Context) -> anyhow::Result<Report> {
    let mut report = Report::begin("shares")?;
    let rounds = context.rounds.unwrap_or(ROUNDS);
    report.set("rounds", rounds);
    report.set("memory_mib", MEMORY_MIB);
    report.set("processors", 1);
    report.set("virtiofsd", VERSION);
    let files = context.boot_files(KernelSource::Distribution, None)?;
    report.set("kernel", files.manifest().kernel.release.clone());
    let directory = tempfile::tempdir_in(IN_MEMORY)?;
    fill(directory.path())?;
    let options = options(&files, 1, MEMORY_MIB)?;
    let line = command_line(context, &options).await?;
    let mut theirs = References::boot(context, &line, directory.path())?;
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
                    None => ours(&vm, arguments).await?,
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

async fn ours(vm: &UtilityVm, arguments: &[&str]) -> anyhow::Result<f64> {
    let output = vm.create_process(&ProcessSpec::new(words(arguments, "/mnt"))).await?.output().await?;
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.exit.is_success(), "{arguments:?}: {}: {complained}", output.exit);
    said.trim().parse().with_context(|| format!("{arguments:?} printed {said:?}"))
}

/// A guest with the references, and what serves it.
struct References {
    guest: Guest,
    _qemu: BareQemu,
    _daemon: Daemon,
}

impl References {
    fn boot(context: &Context, line: &CommandLine, directory: &Path) -> anyhow::Result<Self> {
        let daemon = Daemon::start(directory)?;
        let line = line.clone().with_plain_ports(&[CONTROL_PORT]).and(&[
            ("-chardev", "socket,id=reference,fd=0".to_owned()),
            ("-device", "vhost-user-fs-pci,chardev=reference,tag=reference".to_owned()),
            ("-fsdev", format!("local,id=nine,path={},security_model=none", directory.display())),
            ("-device", "virtio-9p-pci,fsdev=nine,mount_tag=nine".to_owned()),
        ]);
        let files: BootFiles = context.boot_files(KernelSource::Distribution, Some(by_hand::GUEST))?;
        let given = BTreeMap::from([("reference".to_owned(), OwnedFd::from(daemon.connect()?))]);
        let mut qemu = BareQemu::spawn_with(context.host.program(), &line, &files, given)?;
        let mut guest = Guest::connect(qemu.channel(CONTROL_PORT)?)?;
        for (name, how) in REFERENCES {
            guest.order("mount", &format!("mount {how}"))?;
            guest.done("mount").with_context(|| name.to_owned())?;
        }
        Ok(Self { guest, _qemu: qemu, _daemon: daemon })
    }

    fn run(&mut self, name: &str, arguments: &[&str]) -> anyhow::Result<f64> {
        let (_, how) = REFERENCES.into_iter().find(|(known, _)| *known == name).context("no such reference")?;
        let at = how.rsplit(' ').next().unwrap_or_default();
        self.guest.order("run", &format!("run {}", words(arguments, at).join(" ")))?;
        let said = self.guest.done("run").with_context(|| format!("{name}: {arguments:?}"))?;
        said.parse().with_context(|| format!("{name}: {arguments:?} printed {said:?}"))
    }
}

/// virtiofsd, as its users start it. Dropping it ends it.
struct Daemon {
    child: Child,
    dir: tempfile::TempDir,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It ends by itself, with QEMU.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Daemon {
    fn start(directory: &Path) -> anyhow::Result<Self> {
        let (program, dir) = (program()?, tempfile::tempdir()?);
        let mut command = Command::new(program);
        command.arg("--socket-path").arg(dir.path().join("socket")).arg("--shared-dir").arg(directory);
        command.args(["--cache", "auto"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self { child: command.spawn().context("start virtiofsd")?, dir })
    }

    fn connect(&self) -> anyhow::Result<UnixStream> {
        let began = Instant::now();
        loop {
            match UnixStream::connect(self.dir.path().join("socket")) {
                Ok(end) => return Ok(end),
                Err(_) if began.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(5)),
                Err(e) => return Err(e).context("connect to virtiofsd"),
            }
        }
    }
}

/// Finds the program, or installs it.
fn program() -> anyhow::Result<PathBuf> {
    let root = cache_directory()?.join(format!("virtiofsd-{VERSION}"));
    once(&root, |directory| {
        let mut install = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        install.args(["install", "virtiofsd", "--version", VERSION, "--locked", "--root"]).arg(directory);
        // Not into this project's directory, and not with its lock.
        run(install.arg("--target-dir").arg(directory.join("target")).current_dir("/"))
    })
    .context("install virtiofsd from crates.io")?;
    Ok(root.join("bin/virtiofsd"))
}
