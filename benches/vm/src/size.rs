//! What a VM costs in bytes: files, the agent's memory in the guest, the owner's memory on the host.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use uvm::image::KernelSource;
use uvm::{LcowOptions, ProcessSpec, UtilityVm};

use crate::context::{AGENT, Context, KERNELS, first_exec, options};
use crate::report::{Report, Statistic, Target};

const ROUNDS: usize = 5;
const MEMORY_MIB: u64 = 512;
/// VMs of one owner, to see what one more costs.
const MORE: usize = 4;
/// The agent loads modules two seconds after the start; then it is idle.
const SETTLE: Duration = Duration::from_secs(6);

pub(crate) async fn measure(context: &Context) -> anyhow::Result<Report> {
    let mut report = Report::begin("size")?;
    let rounds = context.rounds.unwrap_or(ROUNDS);
    report.set("rounds", rounds);
    report.set("memory_mib", MEMORY_MIB);
    report.sample("agent", "MiB", mib(fs::metadata(context.guests.join(AGENT))?.len()));
    report.figure("agent: binary", "agent", Statistic::Median, None, Some(Target::AtMost(1.5)))?;

    let files = context.boot_files(KernelSource::Distribution, None)?;
    let options = options(&files, 1, MEMORY_MIB)?;
    report.set("kernel", files.manifest().kernel.release.clone());
    for _ in 0..rounds {
        let (vm, _) = first_exec(context.platform(), &options).await?;
        tokio::time::sleep(SETTLE).await;
        report.sample("agent's RSS", "MiB", agent_rss(&vm).await?);
        vm.close().await?;
        report.sample("owner's PSS", "MiB", command_pss(context)?);
        report.sample("one more", "MiB", one_more(context, &options).await?);
    }
    report.figure("agent: RSS, idle", "agent's RSS", Statistic::Median, None, Some(Target::AtMost(3.0)))?;
    for (kernel, source) in KERNELS {
        match context.plain_boot_files(source) {
            Ok(files) => {
                report.sample(kernel, "MiB", mib(fs::metadata(files.initrd_path())?.len()));
                report.figure(&format!("initramfs, {kernel} kernel"), kernel, Statistic::Median, None, None)?;
            }
            Err(e) => report.note(format!("{kernel} kernel: not measured: {e:#}")),
        }
    }
    let what = "owner's PSS with one VM: all of `uvm run`, without QEMU";
    report.figure(what, "owner's PSS", Statistic::Median, None, Some(Target::AtMost(12.0)))?;
    report.figure("owner's PSS: each further VM", "one more", Statistic::Median, None, None)?;
    report.end()?;
    Ok(report)
}

#[expect(clippy::cast_precision_loss, reason = "sizes far below 2^52")]
pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

async fn agent_rss(vm: &UtilityVm) -> anyhow::Result<f64> {
    let output = vm.create_process(&ProcessSpec::new(["cat", "/proc/1/status"])).await?.output().await?;
    ensure!(output.exit.is_success(), "cat in the guest: {}", output.exit);
    kib_of(&String::from_utf8_lossy(&output.stdout), "VmRSS").map(|kib| mib(kib << 10))
}

/// The memory of a whole owner: the command, while a VM of it is idle.
fn command_pss(context: &Context) -> anyhow::Result<f64> {
    let mut run = Command::new(&context.uvm)
        .args(["run", "--accel", "tcg", "--cpus", "1", "--memory"])
        .arg(MEMORY_MIB.to_string())
        .args(["--", "sh", "-c", "echo up; cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map(Owner)
        .context("start uvm run")?;
    let mut line = String::new();
    BufReader::new(run.0.stdout.take().context("no output")?).read_line(&mut line)?;
    ensure!(line == "up\n", "uvm run printed {line:?}");
    std::thread::sleep(SETTLE);
    let pss = pss_of(run.0.id())?;
    drop(run.0.stdin.take());
    let status = run.0.wait()?;
    ensure!(status.success(), "uvm run: {status}");
    Ok(pss)
}

/// Its VM ends with it.
struct Owner(Child);

impl Drop for Owner {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the memory of an owner grows by with each VM after its first.
async fn one_more(context: &Context, options: &LcowOptions) -> anyhow::Result<f64> {
    let mut vms = vec![first_exec(context.platform(), options).await?.0];
    let with_one = pss_of(std::process::id())?;
    for _ in 0..MORE {
        vms.push(first_exec(context.platform(), options).await?.0);
    }
    tokio::time::sleep(SETTLE).await;
    let grown = pss_of(std::process::id())? - with_one;
    for vm in vms {
        vm.close().await?;
    }
    Ok(grown / f64::from(u32::try_from(MORE)?))
}

/// The memory that a process uses, in MiB: of what it shares, its part.
pub(crate) fn pss_of(pid: u32) -> anyhow::Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).context("memory of the owner")?;
    kib_of(&text, "Pss").map(|kib| mib(kib << 10))
}

/// The number of KiB on the line `name:`.
pub(crate) fn kib_of(text: &str, name: &str) -> anyhow::Result<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = value.and_then(|value| value.trim().strip_suffix("kB"));
    number.and_then(|number| number.trim().parse().ok()).with_context(|| format!("no {name} in {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_by_its_whole_name() {
        let text = "55 ---p [rollup]\nRss:   9 kB\nPss_Anon: 7 kB\nPss:      1234 kB\n";
        assert_eq!(kib_of(text, "Pss").expect("a number"), 1234);
        assert!(kib_of(text, "Ps").is_err() && kib_of("Pss: many", "Pss").is_err());
    }
}
