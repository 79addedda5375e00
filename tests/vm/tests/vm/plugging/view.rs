//! What the guest sees: disks by its kernel's list of them, mounts by its table of them, and what each says it is.

use std::collections::BTreeSet;
use std::time::Duration;

use uvm::UtilityVm;
use uvm_testkit::TestResult;

use super::things::{MOUNTED, NAME};
use crate::disks::sh;

/// Where layers are, by number.
const LAYERS: &str = "/run/layers";
/// What was given back in the background may still be on its way.
const SETTLES_WITHIN: Duration = Duration::from_secs(120);

/// Waits until the guest sees what is in the books, and no more.
pub(super) async fn agrees(vm: &UtilityVm, wanted: &BTreeSet<String>) -> TestResult {
    let settled = async {
        loop {
            let seen = look(vm).await?;
            if seen == *wanted {
                return TestResult::Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    if let Ok(settled) = tokio::time::timeout(SETTLES_WITHIN, settled).await {
        return settled;
    }
    let seen = look(vm).await?;
    let missing: Vec<_> = wanted.difference(&seen).collect();
    let too_much: Vec<_> = seen.difference(wanted).collect();
    Err(format!("the guest lacks {missing:?} and has {too_much:?} too much").into())
}

async fn look(vm: &UtilityVm) -> TestResult<BTreeSet<String>> {
    let script = format!(
        "for d in /sys/bus/scsi/devices/*:0:*:*; do [ -d $d/block ] || continue; \
         echo disk ${{d#*:0:}} $(head -c 16 /dev/$(ls $d/block) | head -n 1); done; \
         while read -r _ at kind options _; do case $at in {MOUNTED}/*|{LAYERS}/*) \
         echo mount $at $kind ${{options%%,*}} $(cat $at/{NAME} 2>&1);; esac; done < /proc/mounts; \
         for d in {MOUNTED}/* {LAYERS}/*; do [ -e $d ] || continue; \
         if [ -S $d ]; then echo socket $d; else grep -q \" $d \" /proc/mounts || echo left $d; fi; done"
    );
    Ok(sh(vm, &script).await?.lines().map(ToOwned::to_owned).collect())
}
