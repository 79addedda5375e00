//! A guest that plays along: it does what it is told about the VM's resources, and keeps a list.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::task::AbortHandle;
use uvm::wire::call::Done;
use uvm::wire::modify::{Modification, ModifySettings, RequestType, Resource};
use uvm::wire::{Call, Failure, Hresult};
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
    /// What of that it has done.
    pub(crate) done: Vec<Modification>,
    /// What it does with one of the next, after how many.
    odd: Vec<(usize, Oddity)>,
    /// It does not answer.
    pub(crate) silent: bool,
    /// How long it takes for each.
    pub(crate) pace: Duration,
}

/// What a guest may do instead of what it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Oddity {
    Refuse,
    /// It says that it has tried for too long.
    GiveUp,
    /// It neither does it nor answers.
    Ignore,
}

impl Told {
    /// What it does with the next. Each oddity counts down by itself.
    fn next(&mut self) -> Option<Oddity> {
        let next = self.odd.iter().position(|(after, _)| *after == 0).map(|at| self.odd.remove(at).1);
        self.odd.iter_mut().for_each(|(after, _)| *after = after.saturating_sub(1));
        if self.silent { Some(Oddity::Ignore) } else { next }
    }
}

impl Obedient {
    pub(crate) fn new(mut guest: Guest) -> Self {
        let told = Arc::new(Mutex::new(Told::default()));
        let books = Arc::clone(&told);
        let task = tokio::spawn(async move {
            while let Ok(Some(received)) = guest.next().await {
                let Call::ModifySettings(call) = &received.request.call else { return };
                let pace = books.lock().expect("no panic").pace;
                if !pace.is_zero() {
                    tokio::time::sleep(pace).await;
                }
                let odd = {
                    let mut books = books.lock().expect("no panic");
                    books.modifications.push(call.modification.clone());
                    let odd = books.next();
                    if odd.is_none() {
                        books.done.push(call.modification.clone());
                    }
                    odd
                };
                let outcome = match odd {
                    None => Ok(Done::default()),
                    Some(Oddity::Refuse) => Err(Failure::plain("no such disk")),
                    Some(Oddity::GiveUp) => Err(Failure::wrapping(Hresult::TIMEOUT, "it took longer than 25s")),
                    Some(Oddity::Ignore) => continue,
                };
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
        self.plant(skip, Oddity::Refuse);
    }

    /// Does this instead of what it is told, after `skip`.
    pub(crate) fn plant(&self, skip: usize, oddity: Oddity) {
        self.told().odd.push((skip, oddity));
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
        Resource::MappedDirectory(share) if !share.tag.is_empty() => {
            format!("{verb} device {} {}", share.tag, share.mount_path)
        }
        Resource::MappedDirectory(share) => format!("{verb} share {} {}", share.share_name, share.mount_path),
        Resource::DiskSize(size) => {
            format!("{verb} size {}:{} {} {}", size.controller, size.lun, size.bytes, size.grow)
        }
        Resource::MappedSocket(socket) => format!("{verb} socket {} {:#x}", socket.mount_path, socket.port),
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
