//! Measures VMs against reference programs, interleaved in the same run.
//!
//! Each measurement is a module that gives a [`report::Report`]: all samples, and figures drawn from them.

mod bare;
mod boot;
mod command_line;
mod context;
mod machine;
mod report;
mod statistics;

use std::path::PathBuf;

use clap::Parser;

use context::Context;

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
    /// How often each thing is measured, instead of what is usual for it.
    #[arg(long)]
    rounds: Option<usize>,
    /// Measure with KVM. Without this it is QEMU's translator, also where KVM works, so that figures compare.
    #[arg(long)]
    kvm: bool,
}

const NAMES: [&str; 1] = ["boot"];

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let names = if options.names.is_empty() { NAMES.map(ToOwned::to_owned).to_vec() } else { options.names };
    let context = Context::new(options.guests, options.kvm, options.rounds)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for name in &names {
        let report = match name.as_str() {
            "boot" => runtime.block_on(boot::measure(&context))?,
            _ => anyhow::bail!("there is no measurement {name}; there are: {}", NAMES.join(", ")),
        };
        println!("{}", report.table());
        report.write(&options.out)?;
    }
    Ok(())
}
