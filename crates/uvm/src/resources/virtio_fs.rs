//! Shares of Linux guests that are virtio-fs devices: whole directories.

use std::path::PathBuf;

use uvm_platform::requests::{Device, ShareOwners, VirtioFsExport};
use uvm_wire::modify::{MappedDirectory, Modification, Resource};

use super::Plan;

/// A directory of the host, to be mounted in a Linux guest.
#[derive(Clone, Debug)]
pub(crate) struct DirectoryShare {
    pub(super) host_path: PathBuf,
    pub(super) guest_path: String,
    pub(super) read_only: bool,
    pub(super) owners: ShareOwners,
}

pub(super) fn plan(share: &DirectoryShare, number: u64) -> Plan {
    let tag = format!("share-{number}");
    let guest = |read_only| {
        Resource::MappedDirectory(MappedDirectory {
            mount_path: share.guest_path.clone(),
            read_only,
            tag: tag.clone(),
            ..MappedDirectory::default()
        })
    };
    Plan {
        guest_add: Some(Modification::add(guest(share.read_only))),
        guest_remove: Some(Modification::remove(guest(false))),
        device: Some(Device::VirtioFs(VirtioFsExport {
            tag,
            path: share.host_path.clone(),
            read_only: share.read_only,
            owners: share.owners,
        })),
        ..Plan::default()
    }
}
