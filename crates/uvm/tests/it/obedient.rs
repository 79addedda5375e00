//! A guest that plays along: it does what it is told about the VM's resources, and keeps a list.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::task::AbortHandle;
use uvm::wire::call::Done;
use uvm::wire::modify::{Modification, ModifySettings, RequestType, Resource};
use uvm::wire::{Call, Failure};
use uvm_testkit::guest::Guest;

use crate::support::{Played, TestResult};

/// A guest that does what it is told, after a while, but for what it is told to refuse.
pub(crate) struct Obedient {
    told: Arc<Mutex<Told>>,
    task: AbortHandle,
}

#[derive(Default)]
pub(crate) struct Told {
    modifications: Vec<Modification>,
    /// How many of the next it refuses, after how many.
    refuse: Option<(usize, usize)>,
    /// It does not answer.
    pub(crate) silent: bool,
}

impl Obedient {
    pub(crate) fn new(mut guest: Guest) -> Self {
        let told = Arc::new(Mutex::new(Told::default()));
        let books = Arc::clone(&told);
        let task = tokio::spawn(async move {
            while let Ok(Some(received)) = guest.next().await {
                let Call::ModifySettings(call) = &received.request.call else { return };
                let (refused, silent) = {
                    let mut books = books.lock().expect("no panic");
                    books.modifications.push(call.modification.clone());
                    let refused = match &mut books.refuse {
                        Some((0, left)) if *left > 0 => {
                            *left -= 1;
                            true
                        }
                        Some((skip, _)) if *skip > 0 => {
                            *skip -= 1;
                            false
                        }
                        _ => false,
                    };
                    (refused, books.silent)
                };
                if silent {
                    continue;
                }
                let outcome = if refused { Err(Failure::plain("no such disk")) } else { Ok(Done::default()) };
                if guest.reply::<ModifySettings>(&received, outcome).await.is_err() {
                    return;
                }
            }
        });
        Self { told, task: task.abort_handle() }
    }

    pub(crate) fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().expect("no panic")
    }

    /// What it was told since the last time, in short.
    pub(crate) fn words(&self) -> Vec<String> {
        let told = std::mem::take(&mut self.told().modifications);
        told.iter().map(word).collect()
    }

    /// Refuses the next, after `skip`.
    pub(crate) fn refuse(&self, skip: usize) {
        self.told().refuse = Some((skip, 1));
    }
}

impl Drop for Obedient {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn word(modification: &Modification) -> String {
    let verb = match modification.request_type {
        RequestType::Add => "add",
        RequestType::Remove => "remove",
        _ => "change",
    };
    match &modification.resource {
        Resource::MappedVirtualDisk(disk) => {
            format!("{verb} disk {}:{} {}", disk.controller, disk.lun, disk.mount_path)
        }
        Resource::VpmemDevice(device) => format!("{verb} pmem {} {}", device.device_number, device.mount_path),
        Resource::MappedDirectory(share) => format!("{verb} share {} {}", share.share_name, share.mount_path),
        Resource::CombinedLayers(layers) => format!("{verb} layers {}", layers.container_root_path),
        Resource::VpciDevice(_) => format!("{verb} device"),
        other => format!("{verb} {other:?}"),
    }
}

pub(crate) async fn boot() -> TestResult<(Played, Obedient)> {
    let (played, guest) = Played::boot().await?;
    Ok((played, Obedient::new(guest)))
}

/// What the host is asked of disks and files, in order.
pub(crate) fn asked(played: &Played) -> Vec<String> {
    let calls = played.host.calls();
    let words = ["add", "remove", "undo", "grant", "revoke", "update"];
    calls.into_iter().filter(|call| words.iter().any(|word| call.starts_with(word))).collect()
}
