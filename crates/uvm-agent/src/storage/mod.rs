//! Disks and PCI devices of the VM, layers, directories and sockets of the host: found, mounted, put over each other, let go of.
//!
//! What is asked for is done on threads of its own: each step waits for the kernel, and many disks come at a time. Requests
//! about one disk or one path are done in the order they came.

mod arrivals;
mod block;
mod disk_size;
mod empty;
mod ext4_image;
mod filesystem;
mod last_unmount;
mod layers;
mod make_ext4;
mod mount_point;
mod mounts;
mod overlay;
mod path;
mod pci;
mod plan9;
mod plan9_relay;
mod pmem;
mod request;
mod scsi;
mod socket;
mod turns;
mod virtio_fs;

use std::path::PathBuf;
use std::sync::Arc;

use uvm_wire::call::Done;
use uvm_wire::modify::{Modification, RequestType, Resource};
use uvm_wire::{ContainerId, Failure, Hresult};

use crate::failure::{with_causes, with_errno};
use crate::link::Link;
use crate::modules::Modules;
use crate::not_yet;

use self::arrivals::Arrivals;
pub(crate) use self::last_unmount::unmount_disks;
use self::layers::Combined;
use self::mount_point::MountPoints;
use self::pmem::PmemBus;
use self::request::Request;
use self::scsi::ScsiBus;
use self::socket::Sockets;
use self::turns::{Place, Turns};

/// What the disks of a VM are found by. Clones share it.
#[derive(Clone)]
pub(crate) struct Storage {
    modules: Arc<Modules>,
    scsi: ScsiBus,
    sockets: Sockets,
    pmem: PmemBus,
    combined: Combined,
    mount_points: MountPoints,
    turns: Turns,
}

impl Storage {
    /// With the modules that file systems and disks may need.
    pub(crate) fn new(modules: Arc<Modules>) -> Self {
        let arrivals = Arrivals::default();
        Self {
            modules,
            scsi: ScsiBus::of_this_system(arrivals.clone()),
            pmem: PmemBus::of_this_system(arrivals),
            combined: Combined::default(),
            mount_points: MountPoints::default(),
            sockets: Sockets::default(),
            turns: Turns::default(),
        }
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
        let done = match (change.request_type.clone(), change.resource.clone()) {
            (RequestType::Add, Resource::MappedVirtualDisk(disk)) => scsi::add(self, disk).await,
            (RequestType::Remove, Resource::MappedVirtualDisk(disk)) => scsi::remove(self, disk).await,
            (RequestType::Remove, Resource::ScsiDevice(disk)) => scsi::unplug(self, disk.controller, disk.lun).await,
            (RequestType::Update, Resource::DiskSize(size)) => disk_size::update(self, size).await,
            (RequestType::Add, Resource::MappedDirectory(share)) if !share.tag.is_empty() => {
                virtio_fs::add(self, share).await
            }
            (RequestType::Remove, Resource::MappedDirectory(share)) if !share.tag.is_empty() => {
                virtio_fs::remove(self, share).await
            }
            (RequestType::Add, Resource::VpmemDevice(device)) => pmem::add(self, device).await,
            (RequestType::Remove, Resource::VpmemDevice(device)) => pmem::remove(self, device).await,
            (RequestType::Add, Resource::CombinedLayers(combined)) => layers::add(self, combined).await,
            (RequestType::Remove, Resource::CombinedLayers(combined)) => layers::remove(self, combined).await,
            (RequestType::Add, Resource::MappedDirectory(share)) => plan9::add(self, link, share).await,
            (RequestType::Remove, Resource::MappedDirectory(share)) => plan9::remove(self, share).await,
            (RequestType::Add, Resource::VpciDevice(device)) => pci::add(self, device).await,
            (RequestType::Add, Resource::MappedSocket(socket)) => socket::add(self, link, socket).await,
            (RequestType::Remove, Resource::MappedSocket(socket)) => socket::remove(self, socket).await,
            _ => return Err(not_yet::modify(container, &change)),
        };
        done.map(|()| Done {}).map_err(StorageError::into_failure)
    }

    /// Waits for the turn of a request about these places.
    async fn begin(&self, places: Vec<Place>) -> Result<Request, StorageError> {
        Request::begin(&self.turns, places).await
    }

    /// Waits for the turn of a request about these places and what is mounted at a path; tells what the kernel calls it.
    async fn begin_at(&self, places: Vec<Place>, path: &str) -> Result<(Request, PathBuf), StorageError> {
        let path = path::absolute(path)?.to_owned();
        let places = places.into_iter().chain([Place::Path(path.clone())]).collect();
        let (request, mut found) = self.begin(places).await?.find(&self.turns, vec![path.clone()]).await?;
        Ok((request, found.pop().unwrap_or(path)))
    }
}

/// What cannot be done to a disk, and why.
#[derive(Debug, thiserror::Error)]
enum StorageError {
    #[error("{0}")]
    Bad(String),
    /// Something was waited for, and has not come in time. What was given up, and not just looked for in vain, may yet end,
    /// by itself.
    #[error("{0}")]
    Late(String),
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

    /// For `map_err`: what another part of the agent says, with its causes.
    fn because(error: impl std::error::Error) -> Self {
        Self::Bad(with_causes(&error))
    }

    fn into_failure(self) -> Failure {
        match &self {
            Self::Bad(_) => Failure::plain(&self),
            Self::Late(_) => Failure::wrapping(Hresult::TIMEOUT, &self),
            Self::NotYet { .. } => Failure::wrapping(Hresult::NOT_IMPLEMENTED, &self),
            Self::Io { source, .. } => with_errno(Failure::plain(&self), source),
        }
    }

    /// What the host hears of it.
    #[cfg(test)]
    fn told(self) -> (Hresult, String) {
        let failure = self.into_failure();
        (failure.result, failure.message)
    }
}
