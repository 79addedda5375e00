//! What a layer costs in memory when many VMs have it: one image for all, against a copy for each.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use uvm::image::KernelSource;
use uvm::{LayerMechanism, LcowOptions, ProcessSpec, UtilityVm, VpmemMount};

use crate::context::{Context, options};
use crate::report::{Report, Statistic, Target};
use crate::size::{kib_of, mib, pss_of};

/// VMs at a time; the number of rounds that is asked for is taken for it, where one is.
const VMS: usize = 50;
const MEMORY_MIB: u64 = 256;
/// The image, and the one file in it.
const LAYER_MIB: u64 = 100;
const FILE_MIB: u64 = 92;

pub(crate) async fn measure(context: &Context) -> anyhow::Result<Report> {
    let mut report = Report::begin("layers")?;
    let count = context.rounds.unwrap_or(VMS);
    let files = context.plain_boot_files(KernelSource::Distribution)?;
    for (key, value) in [("memory_mib", MEMORY_MIB), ("layer_mib", LAYER_MIB), ("read_mib", FILE_MIB)] {
        report.set(key, value);
    }
    report.set("vms", count);
    report.set("kernel", files.manifest().kernel.release.clone());
    let mut options = options(&files, 1, MEMORY_MIB)?;
    (options.vpmem_devices, options.vpmem_size_bytes) = (1, LAYER_MIB << 20);

    let dir = tempfile::Builder::new().prefix("uvm-bench-layers-").tempdir()?;
    let image = make_image(dir.path())?;
    let shared = vec![image.clone(); count];
    measure_all(context, &options, &shared, "shared", &mut report).await?;
    let copies = (0..count).map(|number| copy(&image, number)).collect::<anyhow::Result<Vec<_>>>()?;
    measure_all(context, &options, &copies, "copies", &mut report).await?;

    // Once, and a twentieth for what else may be counted; to three places.
    let once = (1050.0 / f64::from(u32::try_from(count)?)).round() / 1000.0;
    let what = format!("the layer's pages in all QEMUs together (PSS), {count} VMs / as many copies");
    let target = Some(Target::AtMost(once));
    report.figure(&what, "layer, shared", Statistic::Median, Some("layer, copies"), target)?;
    let what = format!("all of {count} QEMUs (PSS), every VM has read the layer / as many copies");
    report.figure(&what, "QEMUs, shared", Statistic::Median, Some("QEMUs, copies"), None)?;
    report.figure("what the guest's page cache grew by", "cached, shared", Statistic::Median, None, None)?;
    report.end()?;
    Ok(report)
}

/// An image with a file that nothing else in memory is like.
fn make_image(dir: &Path) -> anyhow::Result<PathBuf> {
    let content = dir.join("content");
    fs::create_dir(&content)?;
    let mut random = std::io::Read::take(fs::File::open("/dev/urandom")?, FILE_MIB << 20);
    std::io::copy(&mut random, &mut fs::File::create(content.join("file"))?)?;
    let image = dir.join("layer.img");
    fs::File::create(&image)?.set_len(LAYER_MIB << 20)?;
    let words = ["-q", "-b", "4096", "-O", "^has_journal", "-d"].map(OsStr::new);
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let made = Command::new("mkfs.ext4").args(words).arg(&content).arg(&image).env("PATH", path).status();
    ensure!(made.context("mkfs.ext4")?.success(), "mkfs.ext4 failed");
    fs::remove_dir_all(&content)?;
    Ok(image)
}

fn copy(image: &Path, number: usize) -> anyhow::Result<PathBuf> {
    let copy = image.with_file_name(format!("copy-{number}.img"));
    fs::copy(image, &copy)?;
    Ok(copy)
}

/// A VM for each image, all at a time; each has read all of it before anything is counted.
async fn measure_all(
    context: &Context,
    options: &LcowOptions,
    images: &[PathBuf],
    name: &str,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut vms = Vec::new();
    for image in images {
        let (vm, layer, grown) = read_layer(context, options, image).await?;
        report.sample(&format!("cached, {name}"), "MiB", grown);
        vms.push((vm, layer));
    }
    let (mut layer, mut all) = (0.0, 0.0);
    for ((vm, _), image) in vms.iter().zip(images) {
        let pid = vm.properties().await?.host_pid.context("QEMU's process id")?;
        layer += pss_of_file(pid, image)?;
        all += pss_of(pid)?;
    }
    report.sample(&format!("layer, {name}"), "MiB", layer);
    report.sample(&format!("QEMUs, {name}"), "MiB", all);
    for (vm, layer) in vms {
        drop(layer);
        vm.close().await?;
    }
    Ok(())
}

/// A VM that has read its layer, and by how much its page cache grew for that.
async fn read_layer(
    context: &Context,
    options: &LcowOptions,
    image: &Path,
) -> anyhow::Result<(UtilityVm, VpmemMount, f64)> {
    let vm = UtilityVm::create_lcow_on(context.platform(), options).await?;
    vm.start().await?;
    let layer = vm.add_vpmem(image).await?;
    ensure!(*layer.mechanism() == LayerMechanism::Memory, "the layer is a disk: {:?}", layer.mechanism());
    let before = cached(&vm).await?;
    let read = format!("cat {}/file | wc -c", layer.guest_path().context("no path")?);
    let read = output(&vm, &["sh", "-c", &read]).await?;
    ensure!(read.trim() == (FILE_MIB << 20).to_string(), "the guest read {read:?} bytes");
    let grown = cached(&vm).await? - before;
    Ok((vm, layer, grown))
}

async fn cached(vm: &UtilityVm) -> anyhow::Result<f64> {
    kib_of(&output(vm, &["cat", "/proc/meminfo"]).await?, "Cached").map(|kib| mib(kib << 10))
}

async fn output(vm: &UtilityVm, command: &[&str]) -> anyhow::Result<String> {
    let output = vm.create_process(&ProcessSpec::new(command.iter().copied())).await?.output().await?;
    ensure!(output.exit.is_success(), "{command:?}: {}", output.exit);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The part of a file's pages in memory that a process answers for, in MiB.
fn pss_of_file(pid: u32, file: &Path) -> anyhow::Result<f64> {
    let file = file.canonicalize()?;
    let name = file.to_str().context("a path that is no text")?;
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).context("QEMU's mappings")?;
    let kib = pss_of_mapping(&text, name).with_context(|| format!("process {pid} does not map {name}"))?;
    Ok(mib(kib << 10))
}

/// The sum of a file's mappings, in KiB; `None` if there are none. A mapping begins with a line that ends with its file.
fn pss_of_mapping(smaps: &str, name: &str) -> Option<u64> {
    let mut is_it = false;
    let mut sum = None;
    for line in smaps.lines() {
        let begins = line.split_once(' ').is_some_and(|(first, _)| first.contains('-'));
        if begins {
            is_it = line.ends_with(name);
        } else if is_it && line.starts_with("Pss:") {
            sum = Some(sum.unwrap_or(0) + kib_of(line, "Pss").ok()?);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_mappings_of_the_file_are_counted() {
        let smaps = "7f00-7f10 r--s 00000000 fd:01 12   /tmp/layer.img\nSize: 9 kB\nPss:  40 kB\nPss_Dirty: 3 kB\n\
                     7f10-7f20 rw-p 00000000 00:00 0\nPss:  7 kB\n\
                     7f20-7f30 r--s 00000000 fd:01 12   /tmp/layer.img\nPss:  2 kB\n";
        assert_eq!(pss_of_mapping(smaps, "/tmp/layer.img"), Some(42));
        assert_eq!(pss_of_mapping(smaps, "/tmp/other.img"), None);
    }
}
