//! Disks of a running VM, added until the guest has mounted them and removed until their places are free, one at a time
//! and 64 at once: against the same commands to QEMU by hand, and a guest that only scans, mounts, unmounts and lets go.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::json;
use tokio::task::JoinSet;
use uvm::image::KernelSource;
use uvm::{ScsiDisk, UtilityVm};

use crate::bare::BareQemu;
use crate::by_hand::{self, Guest, Monitor};
use crate::context::{Context, first_exec, millis, options};
use crate::report::{Report, Statistic, Target};

const MEMORY_MIB: u64 = 1024;
/// Disks on each side, one at a time.
const SAMPLES: usize = 200;
/// Disks of one side before it is the other's turn.
const BLOCK: usize = 10;
const AT_ONCE: usize = 64;
const AT_ONCE_ROUNDS: usize = 7;
const IMAGE_BYTES: u64 = 4 << 20;
const SETTLE: Duration = Duration::from_secs(5);
/// Disks on each side before the first that counts.
const WARM_UP: usize = 10;

pub(crate) async fn measure(context: &Context) -> anyhow::Result<Report> {
    let mut report = Report::begin("disks")?;
    let blocks = context.rounds.unwrap_or(SAMPLES / BLOCK);
    let rounds = context.rounds.unwrap_or(AT_ONCE_ROUNDS);
    report.set("samples", blocks * BLOCK);
    report.set("at_once", AT_ONCE);
    report.set("rounds_at_once", rounds);
    report.set("memory_mib", MEMORY_MIB);
    report.set("processors", 1);
    report.set("file_system", "ext4");
    let files = context.boot_files(KernelSource::Distribution, None)?;
    report.set("kernel", files.manifest().kernel.release.clone());
    let options = options(&files, 1, MEMORY_MIB)?;
    let directory = tempfile::tempdir()?;
    let (qemu, monitor, guest) = by_hand::boot(context, &options).await?;
    let mut theirs = ByHand { monitor, guest, disks: images(directory.path(), "theirs")?, _qemu: qemu };
    let (vm, _) = first_exec(context.platform(), &options).await?;
    let ours = Ours { vm, disks: images(directory.path(), "ours")? };
    tokio::time::sleep(SETTLE).await;

    one_at_a_time(&mut Report::begin("warm-up")?, &ours, &mut theirs, WARM_UP / BLOCK).await?;
    one_at_a_time(&mut report, &ours, &mut theirs, blocks).await?;
    for round in 0..=rounds {
        let mut take = |name: &str, took: f64| {
            // What is mapped and translated for the first time is not counted.
            if round > 0 {
                report.sample(name, "ms", took);
            }
        };
        for turn in 0..3 {
            match (turn + round) % 3 {
                0 => {
                    let (added, removed) = ours.at_once().await?;
                    take("add at once", added);
                    take("remove at once", removed);
                }
                1 => {
                    let (added, removed) = ours.one_after_the_other().await?;
                    take("add in turn", added);
                    take("remove in turn", removed);
                }
                _ => {
                    let (added, removed) = theirs.at_once()?;
                    take("add at once by hand", added);
                    take("remove at once by hand", removed);
                }
            }
        }
    }
    ours.vm.close().await?;
    for verb in ["add", "remove"] {
        for (name, statistic) in [("p50", Statistic::Median), ("p99", Statistic::P99)] {
            let (what, by_hand) = (format!("{verb} a disk, {name}"), format!("{verb} by hand"));
            report.figure(&what, verb, statistic, Some(&by_hand), Some(Target::AtMost(1.2)))?;
        }
    }
    for (verb, of_turn) in [("add", 1.2), ("remove", 0.25)] {
        let series = format!("{verb} at once");
        for (other, target) in [("by hand", (verb == "add").then_some(1.2)), ("in turn", Some(of_turn))] {
            let reference = if other == "in turn" { format!("{verb} in turn") } else { format!("{series} by hand") };
            let what = format!("{verb} {AT_ONCE} disks at once / {other}");
            report.figure(&what, &series, Statistic::Median, Some(&reference), target.map(Target::AtMost))?;
        }
    }
    report.end()?;
    Ok(report)
}

async fn one_at_a_time(report: &mut Report, ours: &Ours, theirs: &mut ByHand, blocks: usize) -> anyhow::Result<()> {
    for block in 0..blocks {
        for turn in 0..2 {
            for _ in 0..BLOCK {
                let is_ours = (turn + block) % 2 == 0;
                let (added, removed) = if is_ours { ours.one().await? } else { theirs.one()? };
                report.sample(if is_ours { "add" } else { "add by hand" }, "ms", added);
                report.sample(if is_ours { "remove" } else { "remove by hand" }, "ms", removed);
            }
        }
    }
    Ok(())
}

/// Images with an empty ext4 each.
fn images(directory: &Path, name: &str) -> anyhow::Result<Vec<PathBuf>> {
    let paths: Vec<_> = (0..AT_ONCE).map(|index| directory.join(format!("{name}-{index}.img"))).collect();
    for path in &paths {
        File::create(path)?.set_len(IMAGE_BYTES)?;
        // It is off the path of users.
        let search = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
        let made = Command::new("mkfs.ext4").arg("-q").arg(path).env("PATH", search).status().context("mkfs.ext4")?;
        ensure!(made.success(), "mkfs.ext4 {}: {made}", path.display());
    }
    Ok(paths)
}

struct Ours {
    vm: UtilityVm,
    disks: Vec<PathBuf>,
}

impl Ours {
    fn disk(path: &Path) -> anyhow::Result<ScsiDisk> {
        let name = path.file_stem().context("an image has a name")?.to_string_lossy();
        Ok(ScsiDisk::new(path).with_guest_path(format!("/mnt/{name}")))
    }

    async fn one(&self) -> anyhow::Result<(f64, f64)> {
        let disk = Self::disk(self.disks.first().context("no image")?)?;
        let began = Instant::now();
        let mount = self.vm.add_scsi(&disk).await?;
        let added = millis(began);
        let began = Instant::now();
        mount.release().await?;
        Ok((added, millis(began)))
    }

    async fn one_after_the_other(&self) -> anyhow::Result<(f64, f64)> {
        let disks = self.disks.iter().map(|path| Self::disk(path)).collect::<anyhow::Result<Vec<_>>>()?;
        let (mut mounts, began) = (Vec::new(), Instant::now());
        for disk in &disks {
            mounts.push(self.vm.add_scsi(disk).await?);
        }
        let added = millis(began);
        let began = Instant::now();
        for mount in mounts {
            mount.release().await?;
        }
        Ok((added, millis(began)))
    }

    async fn at_once(&self) -> anyhow::Result<(f64, f64)> {
        let disks = self.disks.iter().map(|path| Self::disk(path)).collect::<anyhow::Result<Vec<_>>>()?;
        let (mut adding, began) = (JoinSet::new(), Instant::now());
        for disk in disks {
            let vm = self.vm.clone();
            adding.spawn(async move { vm.add_scsi(&disk).await });
        }
        let mut mounts = Vec::new();
        while let Some(mount) = adding.join_next().await {
            mounts.push(mount??);
        }
        let added = millis(began);
        let (mut removing, began) = (JoinSet::new(), Instant::now());
        for mount in mounts {
            removing.spawn(async move { mount.release().await });
        }
        while let Some(removed) = removing.join_next().await {
            removed??;
        }
        Ok((added, millis(began)))
    }
}

/// The same without the library.
struct ByHand {
    monitor: Monitor,
    guest: Guest,
    disks: Vec<PathBuf>,
    _qemu: BareQemu,
}

impl ByHand {
    fn one(&mut self) -> anyhow::Result<(f64, f64)> {
        let path = self.disks.first().context("no image")?;
        let began = Instant::now();
        let file = File::options().read(true).write(true).open(path)?;
        for (command, arguments) in commands_to_add(0) {
            self.monitor.call(command, &arguments, (command == "add-fd").then(|| file.as_fd()))?;
        }
        drop(file);
        self.guest.order("add", "add 0 0 /mnt/0")?;
        self.guest.done("add")?;
        let added = millis(began);
        let began = Instant::now();
        self.guest.order("remove", "remove 0 0 /mnt/0")?;
        self.guest.done("remove")?;
        self.monitor.call("device_del", &json!({ "id": "device-0" }), None)?;
        self.monitor.deleted("device-0")?;
        self.monitor.call("blockdev-del", &json!({ "node-name": "disk-0" }), None)?;
        Ok((added, millis(began)))
    }

    fn at_once(&mut self) -> anyhow::Result<(f64, f64)> {
        let (mut sent, began) = (Vec::new(), Instant::now());
        for (lun, path) in self.disks.iter().enumerate() {
            let file = File::options().read(true).write(true).open(path)?;
            for (command, arguments) in commands_to_add(lun) {
                sent.push(self.monitor.send(command, &arguments, (command == "add-fd").then(|| file.as_fd()))?);
            }
        }
        for number in sent {
            self.monitor.answer(number)?;
        }
        self.order_all("add")?;
        let added = millis(began);
        let began = Instant::now();
        self.order_all("remove")?;
        for lun in 0..AT_ONCE {
            self.monitor.send("device_del", &json!({ "id": format!("device-{lun}") }), None)?;
        }
        let mut sent = Vec::new();
        for lun in 0..AT_ONCE {
            self.monitor.deleted(&format!("device-{lun}"))?;
            sent.push(self.monitor.send("blockdev-del", &json!({ "node-name": format!("disk-{lun}") }), None)?);
        }
        for number in sent {
            self.monitor.answer(number)?;
        }
        Ok((added, millis(began)))
    }

    fn order_all(&mut self, verb: &str) -> anyhow::Result<()> {
        for lun in 0..AT_ONCE {
            self.guest.order(&format!("{verb}-{lun}"), &format!("{verb} 0 {lun} /mnt/{lun}"))?;
        }
        (0..AT_ONCE).try_for_each(|lun| self.guest.done(&format!("{verb}-{lun}")).map(drop))
    }
}

/// What the library sends.
fn commands_to_add(lun: usize) -> [(&'static str, serde_json::Value); 4] {
    let set = lun + 1;
    let file = json!({
        "driver": "file",
        "filename": format!("/dev/fdset/{set}"),
        "discard": "unmap",
        "cache": { "direct": false, "no-flush": false },
    });
    let node = json!({ "driver": "raw", "node-name": format!("disk-{lun}"), "discard": "unmap", "file": file });
    let device = json!({
        "driver": "scsi-hd",
        "id": format!("device-{lun}"),
        "drive": format!("disk-{lun}"),
        "bus": "scsi0.0",
        "channel": 0,
        "scsi-id": 0,
        "lun": lun,
    });
    [
        ("add-fd", json!({ "fdset-id": set })),
        ("blockdev-add", node),
        ("remove-fd", json!({ "fdset-id": set })),
        ("device_add", device),
    ]
}
