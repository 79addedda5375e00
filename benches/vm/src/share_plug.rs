//! Virtio-fs shares of a running VM, added until the guest has mounted them and removed until nothing of them is left:
//! against virtiofsd, the same commands to QEMU by hand, and a guest that only mounts and unmounts.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;
use uvm::image::KernelSource;
use uvm::{ShareKind, ShareOptions, UtilityVm};

use crate::bare::BareQemu;
use crate::by_hand::{self, Guest, Monitor};
use crate::context::{Context, first_exec, millis, options};
use crate::daemon::{Daemon, SOCKET};
use crate::report::{Report, Statistic, Target};
use crate::shares::VIRTIOFSD;

const MEMORY_MIB: u64 = 1024;
/// Shares on each side.
const SAMPLES: usize = 100;
/// Shares of one side before it is the other's turn.
const BLOCK: usize = 10;
const SETTLE: Duration = Duration::from_secs(5);
const MOUNTED: &str = "/run/share";
/// What has no device of its own at boot is plugged in here.
const BUS: &str = "pb0";

pub(crate) async fn measure(context: &Context) -> anyhow::Result<Report> {
    let mut report = Report::begin("share-plug")?;
    let blocks = context.rounds.unwrap_or(SAMPLES / BLOCK);
    report.set("samples", blocks * BLOCK);
    report.set("memory_mib", MEMORY_MIB);
    report.set("processors", 1);
    report.set("virtiofsd", VIRTIOFSD.1);
    let files = context.boot_files(KernelSource::Distribution, None)?;
    report.set("kernel", files.manifest().kernel.release.clone());
    let options = options(&files, 1, MEMORY_MIB)?;
    let directory = tempfile::tempdir()?;
    let (qemu, monitor, guest) = by_hand::boot(context, &options).await?;
    let mut theirs = ByHand { monitor, guest, _qemu: qemu };
    let (vm, _) = first_exec(context.platform(), &options).await?;
    tokio::time::sleep(SETTLE).await;
    // The first of each loads modules, and QEMU keeps what it opens once.
    theirs.one(directory.path())?;
    one(&vm, directory.path()).await?;
    for block in 0..blocks {
        for turn in 0..2 {
            for _ in 0..BLOCK {
                let is_ours = (turn + block) % 2 == 0;
                let (added, removed) =
                    if is_ours { one(&vm, directory.path()).await? } else { theirs.one(directory.path())? };
                report.sample(if is_ours { "add" } else { "add by hand" }, "ms", added);
                report.sample(if is_ours { "remove" } else { "remove by hand" }, "ms", removed);
            }
        }
    }
    vm.close().await?;
    for verb in ["add", "remove"] {
        for (name, statistic, target) in
            [("p50", Statistic::Median, Some(Target::AtMost(1.2))), ("p99", Statistic::P99, None)]
        {
            let (what, by_hand) = (format!("{verb} a share, {name}"), format!("{verb} by hand"));
            report.figure(&what, verb, statistic, Some(&by_hand), target)?;
        }
    }
    report.end()?;
    Ok(report)
}

async fn one(vm: &UtilityVm, directory: &Path) -> anyhow::Result<(f64, f64)> {
    let wanted = ShareOptions::new(directory, MOUNTED).with_kind(ShareKind::VirtioFs);
    let began = Instant::now();
    let share = vm.share_with(&wanted).await?;
    let added = millis(began);
    let began = Instant::now();
    share.release().await?;
    Ok((added, millis(began)))
}

/// The same without the library.
struct ByHand {
    monitor: Monitor,
    guest: Guest,
    _qemu: BareQemu,
}

impl ByHand {
    fn one(&mut self, directory: &Path) -> anyhow::Result<(f64, f64)> {
        let began = Instant::now();
        let mut daemon = Daemon::start(VIRTIOFSD, |command, dir| {
            command.arg("--socket-path").arg(dir.join(SOCKET)).arg("--shared-dir").arg(directory);
            command.args(["--cache", "auto"]).stderr(Stdio::null());
        })?;
        let socket = daemon.listening()?;
        let address = json!({ "type": "unix", "data": { "path": socket } });
        let backend = json!({ "type": "socket", "data": { "addr": address, "server": false } });
        self.monitor.call("chardev-add", &json!({ "id": "plugged", "backend": backend }), None)?;
        let device = json!({
            "driver": "vhost-user-fs-pci",
            "id": "plugged",
            "chardev": "plugged",
            "tag": "plugged",
            "bus": BUS,
            "addr": "0x1f",
        });
        self.monitor.call("device_add", &device, None)?;
        self.guest.order("add", &format!("mount virtiofs plugged rw {MOUNTED}"))?;
        self.guest.done("add")?;
        let added = millis(began);
        let began = Instant::now();
        self.guest.order("remove", &format!("unmount {MOUNTED}"))?;
        self.guest.done("remove")?;
        self.monitor.call("device_del", &json!({ "id": "plugged" }), None)?;
        self.monitor.deleted("plugged")?;
        self.monitor.call("chardev-remove", &json!({ "id": "plugged" }), None)?;
        daemon.ended().context("virtiofsd, whose guest is gone")?;
        Ok((added, millis(began)))
    }
}
