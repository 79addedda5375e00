//! `uvm image`: what guests boot from.

use std::time::SystemTime;

use anyhow::Context;
use serde::Serialize;
use uvm::image::{
    BootFiles, BootFilesEntry, BootFilesOptions, DataDir, Freshness, ImageErrorKind, ImageStore, Kernel,
    TrimmedKernelOptions,
};

use crate::args::{ImageCommand, ReportArgs};
use crate::boot::kernel_source;
use crate::progress;
use crate::report;

pub(crate) fn run(command: &ImageCommand) -> anyhow::Result<()> {
    match command {
        ImageCommand::Build { kernel, newest, json } => build(kernel, *newest, *json),
        ImageCommand::Kernel { jobs, newest } => build_kernel(*jobs, *newest),
        ImageCommand::Ls(args) => list(args),
        ImageCommand::Rm { keys } => keys.iter().try_for_each(|key| remove(key)),
        ImageCommand::Prune { dry_run } => prune(*dry_run),
        ImageCommand::Verify => verify(),
    }
}

fn store() -> anyhow::Result<ImageStore> {
    Ok(ImageStore::from_env()?.with_progress(progress::sink(true)))
}

fn freshness(newest: bool) -> Freshness {
    if newest { Freshness::Newest } else { Freshness::Cached }
}

#[derive(Serialize)]
struct Built {
    directory: String,
    kernel: String,
    initrd: String,
    kernel_release: String,
    agent_version: String,
}

fn build(kernel: &str, newest: bool, json: bool) -> anyhow::Result<()> {
    let options = BootFilesOptions::new(store()?).with_kernel(kernel_source(kernel)).with_freshness(freshness(newest));
    let files = BootFiles::ensure(&options)?;
    let manifest = files.manifest();
    let built = Built {
        directory: files.dir().display().to_string(),
        kernel: files.kernel_path().display().to_string(),
        initrd: files.initrd_path().display().to_string(),
        kernel_release: manifest.kernel.release.clone(),
        agent_version: manifest.agent.version.clone(),
    };
    if json { report::json(&built) } else { report::line(&built.directory) }
}

fn build_kernel(jobs: Option<std::num::NonZeroUsize>, newest: bool) -> anyhow::Result<()> {
    let mut options = TrimmedKernelOptions::new(store()?).with_freshness(freshness(newest));
    if let Some(jobs) = jobs {
        options = options.with_jobs(jobs);
    }
    let kernel = Kernel::build_trimmed(&options)?;
    report::line(format_args!("{} ({})", kernel.name(), kernel.image_path().display()))
}

#[derive(Serialize)]
struct Entry {
    kind: &'static str,
    key: String,
    bytes: u64,
    kernel_release: Option<String>,
    agent_version: Option<String>,
    in_use: bool,
    made_seconds_ago: Option<u64>,
    damage: Option<String>,
}

fn list(args: &ReportArgs) -> anyhow::Result<()> {
    let data_dir = DataDir::from_env()?;
    let age = |made: Option<SystemTime>| made.and_then(|made| made.elapsed().ok()).map(|age| age.as_secs());
    let mut entries = Vec::new();
    for boot in BootFiles::list(&data_dir)? {
        let manifest = boot.manifest.as_ref().ok();
        entries.push(Entry {
            kind: "boot files",
            key: boot.key.clone(),
            bytes: boot.bytes,
            kernel_release: manifest.map(|manifest| manifest.kernel.release.clone()),
            agent_version: manifest.map(|manifest| manifest.agent.version.clone()),
            in_use: boot.in_use,
            made_seconds_ago: age(boot.made),
            damage: boot.manifest.as_ref().err().cloned(),
        });
    }
    for kernel in Kernel::list(&data_dir)? {
        entries.push(Entry {
            kind: "kernel",
            key: kernel.name().to_owned(),
            bytes: kernel.size(),
            kernel_release: Some(kernel.release().to_owned()),
            agent_version: None,
            in_use: false,
            made_seconds_ago: None,
            damage: None,
        });
    }
    if args.json {
        return report::json(&entries);
    }
    report::line(format_args!("{:<11} {:<44} {:>8}  {:<24} STATE", "KIND", "KEY", "MIB", "KERNEL"))?;
    for entry in entries {
        let state = match (&entry.damage, entry.in_use) {
            (Some(damage), _) => damage.as_str(),
            (None, true) => "in use",
            (None, false) => "",
        };
        let kernel = entry.kernel_release.unwrap_or_default();
        let mib = entry.bytes >> 20;
        report::line(format_args!("{:<11} {:<44} {mib:>8}  {kernel:<24} {state}", entry.kind, entry.key))?;
    }
    Ok(())
}

/// Boot files of this key, or else a kernel of this name.
fn remove(key: &str) -> anyhow::Result<()> {
    let data_dir = DataDir::from_env()?;
    let removed = match BootFiles::remove(&data_dir, key) {
        Err(e) if e.kind() == ImageErrorKind::NotFound => {
            Kernel::remove(&data_dir, key).with_context(|| format!("no boot files and no kernel {key:?}"))?
        }
        result => result?,
    };
    report::line(format_args!("removed {} ({} MiB)", removed.name, removed.bytes >> 20))
}

fn prune(dry_run: bool) -> anyhow::Result<()> {
    let data_dir = DataDir::from_env()?;
    let mut bytes = 0;
    for BootFilesEntry { key, bytes: of_these, .. } in BootFiles::superseded(&data_dir)? {
        if !dry_run {
            match BootFiles::remove(&data_dir, &key) {
                Ok(_) => {}
                // A VM has begun to use them, or another has removed them, since they were listed.
                Err(e) if matches!(e.kind(), ImageErrorKind::Busy | ImageErrorKind::NotFound) => continue,
                Err(e) => return Err(e.into()),
            }
        }
        bytes += of_these;
        let verb = if dry_run { "would remove" } else { "removed" };
        report::line(format_args!("{verb} {key} ({} MiB)", of_these >> 20))?;
    }
    if bytes == 0 {
        report::line("no boot files are superseded and unused")?;
    }
    Ok(())
}

fn verify() -> anyhow::Result<()> {
    let data_dir = DataDir::from_env()?;
    let mut damaged = 0;
    for entry in BootFiles::list(&data_dir)? {
        let checked = BootFiles::open(&entry.dir).and_then(|files| files.verify());
        match checked {
            Ok(()) => report::line(format_args!("{}: intact", entry.key))?,
            Err(e) => {
                damaged += 1;
                report::line(format_args!("{}: {}", entry.key, report::describe(&e)))?;
            }
        }
    }
    anyhow::ensure!(damaged == 0, "{damaged} are damaged; the next build makes them anew");
    Ok(())
}
