//! Measures VMs against reference programs, interleaved in the same run.
//!
//! Each measurement is a module that gives a [`report::Report`]: all samples, and figures drawn from them.

mod bare;
mod boot;
mod by_hand;
mod command_line;
mod context;
mod daemon;
mod disks;
mod exec;
mod layers;
mod machine;
mod mux;
mod page;
mod parallel;
mod plan9;
mod raw_stream;
mod report;
mod run;
mod share_plug;
mod shares;
mod size;
mod statistics;
mod stdout;
mod vng;
mod vsock;
mod vsock_device;
mod vsock_exec;

use std::path::PathBuf;

use anyhow::bail;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use context::Context;
use report::Report;

/// Measures VMs; `cargo xtask bench` builds what this needs and runs it.
#[derive(Parser)]
struct Options {
    /// What to measure; all if none is named.
    names: Vec<String>,
    /// Where the guests' programs are.
    #[arg(long, default_value = "target/x86_64-unknown-linux-musl/agent")]
    guests: PathBuf,
    /// Where the samples are written to.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    /// The page whose tables are written anew from all samples there.
    #[arg(long)]
    page: Option<PathBuf>,
    /// How often each thing is measured, instead of what is usual for it.
    #[arg(long)]
    rounds: Option<usize>,
}

/// The measurements, in the order of the page.
const NAMES: [&str; 14] = [
    "boot",
    "run",
    "exec",
    "stdout",
    "mux",
    "vsock",
    "vsock-exec",
    "size",
    "parallel",
    "disks",
    "layers",
    "plan9",
    "shares",
    "share-plug",
];

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    if let Some(unknown) = options.names.iter().find(|name| !NAMES.contains(&name.as_str())) {
        bail!("there is no measurement {unknown}; there are: {}", NAMES.join(", "));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut interrupted, mut ended) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        // Whichever comes first, what was started is dropped here, and that ends it.
        tokio::select! {
            result = measure_all(&options) => result,
            _ = interrupted.recv() => bail!("interrupted"),
            _ = ended.recv() => bail!("told to end"),
        }
    })
}

async fn measure_all(options: &Options) -> anyhow::Result<()> {
    let context = Context::new(options.guests.clone(), options.rounds)?;
    for name in NAMES.iter().filter(|name| options.names.is_empty() || options.names.iter().any(|n| n == *name)) {
        eprintln!("[bench] {name}");
        let report = measure(name, &context).await?;
        println!("{}", report.table());
        report.write(&options.out)?;
        if let Some(page) = &options.page {
            page::update(page, &options.out, &NAMES)?;
        }
    }
    Ok(())
}

async fn measure(name: &str, context: &Context) -> anyhow::Result<Report> {
    match name {
        "boot" => boot::measure(context).await,
        "run" => run::measure(context),
        "exec" => exec::measure(context).await,
        "stdout" => stdout::measure(context).await,
        "mux" => mux::measure(context),
        "vsock" => vsock::measure(context).await,
        "vsock-exec" => vsock_exec::measure(context).await,
        "size" => size::measure(context).await,
        "disks" => disks::measure(context).await,
        "shares" => shares::measure(context).await,
        "share-plug" => share_plug::measure(context).await,
        "plan9" => plan9::measure(context).await,
        "layers" => layers::measure(context).await,
        _ => parallel::measure(context).await,
    }
}
