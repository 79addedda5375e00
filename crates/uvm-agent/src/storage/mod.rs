//! Disks of the VM and directories of the host: found, mounted, let go of.
//!
//! What is asked for is done on threads of its own: each step waits for the kernel, and many disks come at a time.

mod block;
mod filesystem;
mod mount_point;
mod plan9;
mod scsi;

use std::sync::Arc;

use uvm_wire::call::Done;
use uvm_wire::modify::{Modification, RequestType, Resource};
use uvm_wire::{ContainerId, Failure, Hresult};

use crate::link::Link;
use crate::modules::Modules;
use crate::not_yet;

pub(crate) use self::mount_point::unmount_disks;
use self::scsi::ScsiBus;

/// What the disks of a VM are found by. Clones share it.
#[derive(Clone)]
pub(crate) struct Storage {
    modules: Arc<Modules>,
    scsi: ScsiBus,
}

impl Storage {
    /// With the modules that file systems and disks may need.
    pub(crate) fn new(modules: Arc<Modules>) -> Self {
        Self { modules, scsi: ScsiBus::of_this_system() }
    }

    /// Does what is asked. What is not for the VM itself, or not for its disks, is refused by name.
    pub(crate) async fn modify(
        &self,
        link: &Link,
        container: &ContainerId,
        change: Modification,
    ) -> Result<Done, Failure> {
        if !container.is_uvm() || change.check_linux().is_err() {
            return Err(not_yet::modify(container, &change));
        }
        if let (RequestType::Add, Resource::MappedDirectory(share)) = (&change.request_type, &change.resource) {
            let added = plan9::add(self, link, share.clone()).await;
            return added.map(|()| Done {}).map_err(StorageError::into_failure);
        }
        let storage = self.clone();
        let done = tokio::task::spawn_blocking(move || storage.modify_now(&change)).await;
        done.unwrap_or_else(|e| Err(Failure::plain(format_args!("the request was not done: {e}"))))
    }

    fn modify_now(&self, change: &Modification) -> Result<Done, Failure> {
        let done = match (&change.request_type, &change.resource) {
            (RequestType::Add, Resource::MappedVirtualDisk(disk)) => scsi::add(self, disk),
            (RequestType::Remove, Resource::MappedVirtualDisk(disk)) => scsi::remove(self, disk),
            (RequestType::Remove, Resource::MappedDirectory(share)) => plan9::remove(share),
            (RequestType::Remove, Resource::ScsiDevice(disk)) => self.scsi.unplug(disk.controller, disk.lun),
            _ => return Err(not_yet::modify(&ContainerId::UVM, change)),
        };
        done.map(|()| Done {}).map_err(StorageError::into_failure)
    }
}

/// What cannot be done to a disk, and why.
#[derive(Debug, thiserror::Error)]
enum StorageError {
    #[error("{0}")]
    Bad(String),
    #[error("{what} cannot be done in this guest yet")]
    NotYet { what: &'static str },
    #[error("{step}: {source}")]
    Io { step: String, source: std::io::Error },
}

impl StorageError {
    /// For `map_err`: this step failed.
    fn at(step: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let step = step.into();
        move |source| Self::Io { step, source }
    }

    fn into_failure(self) -> Failure {
        match &self {
            Self::Bad(_) => Failure::plain(&self),
            Self::NotYet { .. } => Failure::wrapping(Hresult::NOT_IMPLEMENTED, &self),
            Self::Io { source, .. } => {
                let failure = Failure::plain(&self);
                match source.raw_os_error() {
                    Some(errno) => failure.with_errno(errno),
                    None => failure,
                }
            }
        }
    }
}
