//! What is done to one device of a VM is done one after the other: who gave up on an addition and takes it back waits until it
//! has come to its end, and finds what there is of it. Without that, an image that is slow to open would be plugged in after
//! its place had been given to another.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;
use uvm_platform::requests::{Change, Device};

/// Devices that something is done to, or was.
#[derive(Default)]
pub(crate) struct Turns(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

/// So many devices are remembered before those that nothing is done to are forgotten.
const REMEMBERED: usize = 1024;

impl Turns {
    /// Waits until nothing else is done to the device that a change is about. `None`: it is about none.
    pub(crate) async fn take(&self, change: &Change) -> Option<OwnedMutexGuard<()>> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if turns.len() >= REMEMBERED {
                turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            }
            Arc::clone(turns.entry(name(change)?).or_default())
        };
        Some(turn.lock_owned().await)
    }
}

/// What tells a device from the others of a VM.
fn name(change: &Change) -> Option<String> {
    let (Change::Add(device) | Change::Remove(device) | Change::UndoAdd(device)) = change else { return None };
    Some(match device {
        Device::Scsi(disk) => format!("disk {:?}", disk.slot),
        Device::Vpmem(layer) => format!("layer {}", layer.slot),
        Device::Plan9(share) => format!("share {}", share.name),
        Device::VirtioFs(share) => format!("device {}", share.tag),
        Device::Pci(device) => format!("pci {:?}", device.port),
        Device::Pipe(pipe) => format!("pipe {:?}", pipe.port),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uvm_platform::Port;
    use uvm_platform::requests::Plan9Export;

    use super::*;

    fn share(name: &str) -> Device {
        let (path, port) = ("/nowhere".into(), Port(564));
        Device::Plan9(Plan9Export { name: name.into(), path, port, read_only: false, allowed_files: None })
    }

    #[tokio::test]
    async fn what_takes_an_addition_back_waits_for_its_end_and_others_do_not() {
        let turns = Turns::default();
        let adding = turns.take(&Change::Add(share("1"))).await;
        drop(turns.take(&Change::Add(share("2"))).await.expect("another one"));
        let undone = Change::UndoAdd(share("1"));
        let undoing = tokio::time::timeout(Duration::from_millis(50), turns.take(&undone)).await;
        assert!(undoing.is_err(), "it did not wait");
        drop(adding);
        drop(turns.take(&undone).await.expect("its turn"));
    }

    #[tokio::test]
    async fn those_that_nothing_is_done_to_are_forgotten() {
        let turns = Turns::default();
        let held = turns.take(&Change::Add(share("held"))).await;
        for number in 0..2 * REMEMBERED {
            drop(turns.take(&Change::Add(share(&number.to_string()))).await);
        }
        let known = |turns: &Turns| turns.0.lock().map(|all| all.len()).unwrap_or_default();
        assert!(known(&turns) <= REMEMBERED, "{}", known(&turns));
        let again = tokio::time::timeout(Duration::from_millis(50), turns.take(&Change::Remove(share("held")))).await;
        assert!(again.is_err(), "it was forgotten while it was held");
        drop(held);
    }
}
