//! SCSI disks: an image, or a disk of the host, at a controller and a LUN, mounted in the guest or only there.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use uvm_platform::requests::{Device, ScsiAttachment, ScsiSettings, ScsiSlot, VmAccess};
use uvm_wire::modify::{MappedVirtualDisk, Modification, Resource, WindowsMappedVirtualDisk, WindowsResource};
use uvm_wire::negotiate::GuestOs;

use super::disk_options::{FileSystem, ScsiDisk};
use super::places::Places;
use super::table::{Fit, Place};
use super::{EntryId, Held, Key, Limits, Plan, ResourceError, Step, Wanted};
use crate::error::UvmError;
use crate::vm::UtilityVm;

/// Disks of one controller.
pub(crate) const LUNS: u32 = 64;

pub(super) fn check(disk: &ScsiDisk, limits: &Limits) -> Result<(), ResourceError> {
    if limits.scsi_controllers == 0 { Err(ResourceError::NoScsiControllers) } else { disk.check(limits.os) }
}

pub(super) fn plan(disk: &ScsiDisk, places: &Places<EntryId>, limits: &Limits) -> Result<(Plan, Place), ResourceError> {
    let count = places.count() as usize;
    let place = places.free().ok_or(ResourceError::NoAvailableLocation { what: "SCSI places", count })?;
    Ok((attached_at(disk, place, limits), Place::Scsi(place)))
}

/// A disk in this place.
pub(super) fn attached_at(disk: &ScsiDisk, place: u32, limits: &Limits) -> Plan {
    let slot = ScsiSlot { controller: byte(place / LUNS), lun: byte(place % LUNS) };
    let (path, settings) = (disk.host_path.clone(), disk.settings.clone());
    let attachment = ScsiAttachment { slot, path, kind: disk.kind, read_only: disk.read_only, settings };
    whole(disk, attachment, limits)
}

/// There are at most 4 controllers of 64.
fn byte(number: u32) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

fn whole(disk: &ScsiDisk, attachment: ScsiAttachment, limits: &Limits) -> Plan {
    let (guest_path, os) = (disk.guest_path.as_deref(), limits.os);
    let grant = (disk.access != VmAccess::Noop).then(|| (disk.host_path.clone(), disk.access));
    let hears = guest_path.is_some() || limits.looks_for_disks;
    let guest_add = hears.then(|| Modification::add(guest_disk(disk, attachment.slot, os)));
    // A Linux guest is always told, to let go of the disk; a Windows guest only of a mount.
    let tells = guest_path.is_some() || os == GuestOs::Linux;
    let bare = ScsiDisk { guest_path: disk.guest_path.clone(), block_device: disk.block_device, ..ScsiDisk::new("") };
    let guest_remove = tells.then(|| Modification::remove(guest_disk(&bare, attachment.slot, os)));
    Plan { grant, device: Some(Device::Scsi(attachment)), guest_add, guest_remove, ..Plan::default() }
}

/// The guest's half of a disk at this place.
fn guest_disk(disk: &ScsiDisk, slot: ScsiSlot, os: GuestOs) -> Resource {
    let path = disk.guest_path.clone().unwrap_or_default();
    let ScsiSlot { controller, lun } = slot;
    match os {
        GuestOs::Linux => Resource::MappedVirtualDisk(MappedVirtualDisk {
            mount_path: path,
            lun,
            controller,
            read_only: disk.read_only,
            partition: disk.partition.map_or(0, NonZeroU64::get),
            options: disk.mount_options.clone(),
            block_dev: disk.block_device,
            ensure_filesystem: disk.ensure_file_system,
            filesystem: disk.file_system.map(FileSystem::name).unwrap_or_default().to_owned(),
            ..MappedVirtualDisk::default()
        }),
        GuestOs::Windows => Resource::Windows(WindowsResource::MappedVirtualDisk(WindowsMappedVirtualDisk {
            container_path: path,
            lun: lun.into(),
        })),
    }
}

/// Whether what is there is what is asked for, or can become it: a disk that is only attached can be mounted.
pub(super) fn fit(disk: &ScsiDisk, plan: &Plan, limits: &Limits) -> Result<Fit, ResourceError> {
    let Some(Device::Scsi(there)) = &plan.device else { return Ok(Fit::AsIs) };
    let otherwise = |how: String| Err(ResourceError::AttachedOtherwise { how });
    let words = |read_only: bool| if read_only { "read-only" } else { "writable" };
    if there.read_only != disk.read_only {
        return otherwise(format!("{}, asked for {}", words(there.read_only), words(disk.read_only)));
    }
    if there.kind != disk.kind {
        return otherwise(format!("{:?}, asked for {:?}", there.kind, disk.kind));
    }
    if let Some(how) = differs(&there.settings, &disk.settings) {
        return otherwise(how);
    }
    match (guest_path(plan), &disk.guest_path) {
        (_, None) => Ok(Fit::AsIs),
        (Some(mounted), Some(wanted)) if mounted == wanted => {
            let asked = guest_disk(disk, there.slot, limits.os);
            match plan.guest_add.as_ref().map(|add| &add.resource) {
                Some(as_it_is) if *as_it_is != asked => otherwise(format!("mounted at {mounted:?} in another way")),
                _ => Ok(Fit::AsIs),
            }
        }
        (Some(mounted), Some(wanted)) => otherwise(format!("mounted at {mounted:?}, asked for at {wanted:?}")),
        (None, Some(_)) => {
            let mut to = whole(disk, there.clone(), limits);
            // What was granted for it, if anything, is what is taken back.
            to.grant.clone_from(&plan.grant);
            let guest = to.guest_add.clone();
            Ok(Fit::After(Box::new(Step { to, host: None, guest })))
        }
    }
}

/// How what is asked for differs from what is there; what is not said does not.
fn differs(there: &ScsiSettings, asked: &ScsiSettings) -> Option<String> {
    fn of<T: PartialEq + std::fmt::Debug>(what: &str, there: Option<&T>, asked: Option<&T>) -> Option<String> {
        let asked = asked.filter(|asked| there != Some(asked))?;
        Some(match there {
            Some(there) => format!("with {what} {there:?}, asked for with {asked:?}"),
            None => format!("without a {what} of its own, asked for with {asked:?}"),
        })
    }
    of("format", there.format.as_ref(), asked.format.as_ref())
        .or_else(|| of("serial number", there.serial.as_ref(), asked.serial.as_ref()))
        .or_else(|| of("block size", there.block_size.as_ref(), asked.block_size.as_ref()))
}

/// Where the guest has mounted it.
fn guest_path(plan: &Plan) -> Option<&str> {
    let path = match &plan.guest_add.as_ref()?.resource {
        Resource::MappedVirtualDisk(disk) => &disk.mount_path,
        Resource::Windows(WindowsResource::MappedVirtualDisk(disk)) => &disk.container_path,
        _ => return None,
    };
    // It may have been told to look for the disk, and no more.
    Some(path.as_str()).filter(|path| !path.is_empty())
}

/// A SCSI disk that is attached. Dropping it gives it back in the background; the last one detaches the disk. If guest or host
/// do not let go then, which the log tells, the disk is nobody's: that is tried again when something is added to the VM the next
/// time, and whoever adds the same disk, or removes it by its path, has it instead.
#[derive(Debug)]
pub struct ScsiMount {
    pub(super) held: Held,
}

impl ScsiMount {
    /// The image or disk on the host.
    pub fn host_path(&self) -> Option<&Path> {
        self.attachment().map(|disk| disk.path.as_path())
    }

    /// The controller.
    pub fn controller(&self) -> Option<u8> {
        self.attachment().map(|disk| disk.slot.controller)
    }

    /// The LUN.
    pub fn lun(&self) -> Option<u8> {
        self.attachment().map(|disk| disk.slot.lun)
    }

    /// Where the guest has mounted it.
    pub fn guest_path(&self) -> Option<&str> {
        guest_path(&self.held.plan)
    }

    fn attachment(&self) -> Option<&ScsiAttachment> {
        match &self.held.plan.device {
            Some(Device::Scsi(disk)) => Some(disk),
            _ => None,
        }
    }

    /// Gives it back; the last one has the guest let go and detaches the disk: then slot and file are free.
    ///
    /// Cancel-safe: it goes on. Calling this again waits for that and tells what becomes of it, also if it has ended by then:
    /// after success [`ResourceError::NotAttached`] follows only once somebody was told of it, and what failed is begun again.
    ///
    /// # Errors
    /// [`UvmError::Resource`]: the guest or the host did not let go; this can be called again, and dropping the handle tries it
    /// again, too.
    pub async fn release(&self) -> Result<(), UvmError> {
        self.held.release().await
    }
}

/// What it is called in errors.
fn name(host_path: &Path) -> String {
    format!("SCSI disk {}", host_path.display())
}

impl UtilityVm {
    /// Adds a SCSI disk, or shares the one that is there. Cancel-safe: what was begun is given back.
    ///
    /// # Errors
    /// [`UvmError::Resource`]: no controllers, no place, attached otherwise, or the host or the guest refused, and nothing
    /// is left. [`UvmError::Refused`], [`UvmError::Exited`].
    pub async fn add_scsi(&self, disk: &ScsiDisk) -> Result<ScsiMount, UvmError> {
        let what = name(&disk.host_path);
        Ok(ScsiMount { held: self.attach(what, Wanted::Scsi(disk.clone())).await? })
    }

    /// Adds a physical disk of the host, opened to this VM.
    ///
    /// # Errors
    /// As [`add_scsi`](Self::add_scsi).
    pub async fn add_scsi_physical_disk(
        &self,
        host_path: impl Into<PathBuf>,
        guest_path: &str,
        read_only: bool,
    ) -> Result<ScsiMount, UvmError> {
        let disk = ScsiDisk { read_only, ..ScsiDisk::physical(host_path).with_guest_path(guest_path) };
        self.add_scsi(&disk).await
    }

    /// Gives one count of the disk back, whoever has it; the last one detaches it.
    ///
    /// # Errors
    /// [`UvmError::Resource`]: not attached, or as [`ScsiMount::release`].
    pub async fn remove_scsi(&self, host_path: impl AsRef<Path>) -> Result<(), UvmError> {
        let host_path = host_path.as_ref();
        let what = name(host_path);
        self.detach(what, Key::Scsi(self.path_key(host_path))).await
    }

    /// Where the guest has mounted the disk; `None`: it is only attached.
    ///
    /// # Errors
    /// [`UvmError::Resource`]: not attached.
    pub async fn scsi_guest_path(&self, host_path: impl AsRef<Path>) -> Result<Option<String>, UvmError> {
        let host_path = host_path.as_ref();
        let what = name(host_path);
        let plan = self.find(what, Key::Scsi(self.path_key(host_path))).await?;
        Ok(guest_path(&plan).map(str::to_owned))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d39_a_windows_guest_hears_nothing_of_a_disk_it_never_mounted() {
        let slot = ScsiSlot { controller: 0, lun: 3 };
        let plan = |disk: ScsiDisk, os| {
            let plain = attached_at(&disk, 3, &Limits::of_windows(Path::new("scratch")));
            let Some(Device::Scsi(attachment)) = plain.device else { panic!("a disk") };
            assert_eq!(attachment.slot, slot);
            whole(&disk, attachment, &Limits { os, ..Limits::of_windows(Path::new("scratch")) })
        };
        let bare = || ScsiDisk::new(r"C:\d.vhdx");
        assert_eq!(plan(bare(), GuestOs::Windows).guest_remove, None);
        assert!(plan(bare().with_guest_path(r"C:\mnt"), GuestOs::Windows).guest_remove.is_some());
        assert!(plan(bare(), GuestOs::Linux).guest_remove.is_some(), "it unplugs the disk");
    }
}
