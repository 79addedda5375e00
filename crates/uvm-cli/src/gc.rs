//! `uvm gc` and `uvm ps`: what is on this machine, with an owner and without.

use anyhow::Context;
use serde::Serialize;
use uvm::Gc;
use uvm::qemu::StateRoot;

use crate::args::{GcArgs, ReportArgs};
use crate::report;

#[derive(Serialize)]
struct Removed {
    id: String,
    objects: Vec<String>,
    error: Option<String>,
}

pub(crate) fn run(args: &GcArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let mode = if args.dry_run { Gc::DryRun } else { Gc::Remove };
    let reclaimed = runtime.block_on(uvm::gc(mode))?;
    let removed: Vec<Removed> =
        reclaimed.into_iter().map(|vm| Removed { id: vm.id, objects: vm.objects, error: vm.error }).collect();
    if args.json {
        report::json(&removed)?;
    } else {
        for vm in &removed {
            let verb = if args.dry_run { "would remove" } else { "removed" };
            match &vm.error {
                None => report::line(format_args!("{verb} {}", vm.id))?,
                Some(e) => report::line(format_args!("could not remove all of {}: {e}", vm.id))?,
            }
            for object in &vm.objects {
                report::line(format_args!("    {object}"))?;
            }
        }
        if removed.is_empty() {
            report::line("nothing is left of any VM without an owner")?;
        }
    }
    let failed = removed.iter().filter(|vm| vm.error.is_some()).count();
    anyhow::ensure!(failed == 0, "something is left of {failed} VMs");
    Ok(())
}

#[derive(Serialize)]
struct Live {
    id: String,
    owner_pid: u32,
}

pub(crate) fn ps(args: &ReportArgs) -> anyhow::Result<()> {
    let path = StateRoot::default_path();
    let live = StateRoot::open(&path).and_then(|root| root.live());
    let live = live.with_context(|| format!("state directory {}", path.display()))?;
    let live: Vec<Live> = live.into_iter().map(|vm| Live { id: vm.id, owner_pid: vm.owner_pid }).collect();
    if args.json {
        return report::json(&live);
    }
    report::line(format_args!("{:<40} OWNER", "ID"))?;
    for vm in live {
        report::line(format_args!("{:<40} {}", vm.id, vm.owner_pid))?;
    }
    Ok(())
}
