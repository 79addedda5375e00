//! `uvm gc` and `uvm ps`: what is on this machine, with an owner and without.

use anyhow::Context;
use serde::Serialize;
use uvm::qemu::StateRoot;

use crate::args::{GcArgs, ReportArgs};

#[derive(Serialize)]
struct Removed {
    id: String,
    objects: Vec<String>,
    error: Option<String>,
}

pub(crate) fn run(args: &GcArgs) -> anyhow::Result<()> {
    let path = StateRoot::default_path();
    let root = open(&path)?;
    let reclaimed =
        uvm::qemu::gc(&root, args.dry_run).with_context(|| format!("state directory {}", path.display()))?;
    let removed: Vec<Removed> =
        reclaimed.into_iter().map(|vm| Removed { id: vm.id, objects: vm.objects, error: vm.error }).collect();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&removed)?);
    } else {
        for vm in &removed {
            let verb = if args.dry_run { "would remove" } else { "removed" };
            match &vm.error {
                None => println!("{verb} {}", vm.id),
                Some(e) => println!("could not remove all of {}: {e}", vm.id),
            }
            for object in &vm.objects {
                println!("    {object}");
            }
        }
        if removed.is_empty() {
            println!("nothing is left of any VM without an owner");
        }
    }
    let failed = removed.iter().filter(|vm| vm.error.is_some()).count();
    anyhow::ensure!(failed == 0, "something is left of {failed} VMs");
    Ok(())
}

fn open(path: &std::path::Path) -> anyhow::Result<StateRoot> {
    StateRoot::open(path).with_context(|| format!("state directory {}", path.display()))
}

#[derive(Serialize)]
struct Live {
    id: String,
    owner_pid: u32,
}

pub(crate) fn ps(args: &ReportArgs) -> anyhow::Result<()> {
    let path = StateRoot::default_path();
    let live = open(&path)?.live().with_context(|| format!("state directory {}", path.display()))?;
    let live: Vec<Live> = live.into_iter().map(|vm| Live { id: vm.id, owner_pid: vm.owner_pid }).collect();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&live)?);
        return Ok(());
    }
    println!("{:<40} OWNER", "ID");
    for vm in live {
        println!("{:<40} {}", vm.id, vm.owner_pid);
    }
    Ok(())
}
