//! SCSI disks, plugged into the running VM and unplugged: controller c and LUN l are target c of the one adapter.
//!
//! QEMU gets a descriptor of each, opened for this disk alone: its locks are those of the open file, so two VMs that shared
//! one would not see each other's. It is taken out of QEMU's set as soon as the disk has its own copy.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use uvm_platform::PlatformError;
use uvm_platform::requests::{ScsiAttachment, ScsiSize, ScsiSlot};

use crate::command::SCSI_BUS;
use crate::disk_image::{self, DiskFormat, DiskImage};
use crate::file_key::FileKey;
use crate::file_users;
use crate::qmp::CallError;
use crate::vm::Vm;

/// The disks that QEMU has, or may have.
#[derive(Default)]
pub(crate) struct Disks(Mutex<Table>);

#[derive(Default)]
struct Table {
    /// Every disk gets a number of its own: what QEMU says late of an earlier one is not of this one.
    count: u32,
    disks: BTreeMap<ScsiSlot, Entry>,
}

struct Entry {
    names: Names,
    /// For people to read.
    path: PathBuf,
    /// Which file it is, by whatever name.
    file: FileKey,
    /// Why it keeps its size.
    keeps_size: Option<&'static str>,
}

impl Disks {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the place.
    fn enter(&self, slot: ScsiSlot, path: &Path, file: FileKey, keeps_size: Option<&'static str>) -> Option<Names> {
        let mut table = self.lock();
        if table.disks.contains_key(&slot) {
            return None;
        }
        table.count += 1;
        let names = Names { number: table.count };
        table.disks.insert(slot, Entry { names, path: path.to_owned(), file, keeps_size });
        Some(names)
    }

    fn find(&self, slot: ScsiSlot) -> Option<Names> {
        self.lock().disks.get(&slot).map(|entry| entry.names)
    }

    /// Frees the place, if it is still of this disk.
    fn leave(&self, slot: ScsiSlot, names: Names) {
        let mut table = self.lock();
        if table.disks.get(&slot).is_some_and(|entry| entry.names == names) {
            table.disks.remove(&slot);
        }
    }

    /// The disk at a place, if it can become larger.
    fn resizable(&self, slot: ScsiSlot) -> Result<(Names, PathBuf), &'static str> {
        let table = self.lock();
        let entry = table.disks.get(&slot).ok_or("there is no disk")?;
        entry.keeps_size.map_or_else(|| Ok((entry.names, entry.path.clone())), Err)
    }

    /// The other places that have the same file, for people to read.
    fn same_file(&self, slot: ScsiSlot, file: FileKey) -> Vec<String> {
        let table = self.lock();
        let others = table.disks.iter().filter(|(other, entry)| **other != slot && entry.file == file);
        let named = others.map(|(ScsiSlot { controller, lun }, Entry { path, .. })| {
            format!("this VM's disk {} at controller {controller}, LUN {lun}", path.display())
        });
        named.collect()
    }

    /// The file that a node of QEMU's stands for.
    pub(crate) fn image_of(&self, node: &str) -> Option<PathBuf> {
        let table = self.lock();
        let found =
            table.disks.values().find(|entry| [entry.names.node(), entry.names.file()].iter().any(|n| n == node));
        found.map(|entry| entry.path.clone())
    }
}

/// What QEMU calls the parts of a disk.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Names {
    number: u32,
}

impl Names {
    /// The disk's content, by its format.
    fn node(self) -> String {
        format!("disk-{}", self.number)
    }

    /// The file below it.
    fn file(self) -> String {
        format!("disk-{}-file", self.number)
    }

    /// What the guest sees.
    fn device(self) -> String {
        format!("disk-{}-device", self.number)
    }

    /// The set that brings the descriptor in.
    fn set(self) -> u32 {
        self.number
    }
}

impl Vm {
    /// Plugs a disk in. If that fails, nothing is left of it; what went unanswered is taken back by
    /// [`remove_disk`](Self::remove_disk).
    pub(crate) async fn add_disk(&self, disk: &ScsiAttachment) -> Result<(), PlatformError> {
        let (path, kind, format, read_only) = (disk.path.clone(), disk.kind, disk.settings.format, disk.read_only);
        let intent = format!("open disk {}", path.display());
        let image = self.blocking_step(intent, move || disk_image::open(&path, kind, format, read_only)).await?;
        let Some(names) = self.disks.enter(disk.slot, &disk.path, image.key, keeps_size(disk, &image)) else {
            let ScsiSlot { controller, lun } = disk.slot;
            let why = format!("controller {controller}, LUN {lun} has a disk");
            return Err(PlatformError::host(format!("attach {}", disk.path.display()), why));
        };
        let added = self.add_disk_as(disk, &image, names).await;
        match added {
            // Answered with an error, so it is known what is left.
            Err(error @ (PlatformError::Host { .. } | PlatformError::NotAllowed { .. })) => {
                match self.take_disk_out(disk.slot, names).await {
                    // Now it is not: who hears so keeps the place.
                    Err(left @ PlatformError::Timeout { .. }) => {
                        tracing::warn!(vm = %self.id, disk = %disk.path.display(), %error, "a disk could not be attached");
                        Err(left)
                    }
                    Err(e) => {
                        tracing::warn!(vm = %self.id, disk = %disk.path.display(), error = %e, "a disk stays in QEMU");
                        Err(error)
                    }
                    Ok(()) => Err(error),
                }
            }
            added => added,
        }
    }

    async fn add_disk_as(&self, disk: &ScsiAttachment, image: &DiskImage, names: Names) -> Result<(), PlatformError> {
        let set = json!({ "fdset-id": names.set(), "opaque": names.node() });
        self.call_with("add-fd", set, Some(image.file.as_fd())).await?;
        let node = self.disk_call(disk, image, "blockdev-add", node(image, names, disk.read_only)).await;
        // The node has its own copy, and keeps none in the set; without a node nobody needs the set.
        let forgotten = self.forget_set(names).await;
        node.and(forgotten)?;
        self.disk_call(disk, image, "device_add", device(disk, names)).await
    }

    /// A command that may find the disk in use: QEMU does not say by whom.
    async fn disk_call(
        &self,
        disk: &ScsiAttachment,
        image: &DiskImage,
        command: &'static str,
        arguments: Value,
    ) -> Result<(), PlatformError> {
        match self.qmp.call(command, arguments).await {
            Ok(_) => Ok(()),
            Err(CallError::Refused(e)) if is_of_a_lock(&e.desc) => Err(self.in_use(disk, image).await),
            Err(e @ CallError::Refused(_)) => Err(PlatformError::host(format!("attach {}", disk.path.display()), e)),
            Err(e) => Err(self.call_error(command, e).await),
        }
    }

    async fn in_use(&self, disk: &ScsiAttachment, image: &DiskImage) -> PlatformError {
        // This VM's QEMU has it from this very attempt: what else the VM does with it is known here.
        let (key, these) = (image.key, [std::process::id(), self.child.id()]);
        let find = move || Ok(file_users::besides(key, &these));
        let mut users = self.disks.same_file(disk.slot, key);
        users.extend(self.blocking_step("find who uses a disk".into(), find).await.unwrap_or_default());
        let how = if disk.read_only { "reading, while it is being written" } else { "writing, while it is in use" };
        let by = if users.is_empty() { "another process".to_owned() } else { users.join(", ") };
        let intent = format!("attaching {} for {how}", disk.path.display());
        PlatformError::NotAllowed { intent, why: format!("it is in use by {by}") }
    }

    /// Unplugs the disk at a place: it, and its file, are free then. A place without a disk is one that is free. After a
    /// failure it can be called again, and goes on.
    pub(crate) async fn remove_disk(&self, slot: ScsiSlot) -> Result<(), PlatformError> {
        match self.disks.find(slot) {
            Some(names) => self.take_disk_out(slot, names).await,
            None => Ok(()),
        }
    }

    async fn take_disk_out(&self, slot: ScsiSlot, names: Names) -> Result<(), PlatformError> {
        self.remove_device(&names.device()).await?;
        match self.qmp.call("blockdev-del", json!({ "node-name": names.node() })).await {
            Ok(_) => {}
            Err(CallError::Refused(e)) if e.desc.contains("find node") => {}
            Err(e) => return Err(self.call_error("blockdev-del", e).await),
        }
        self.forget_set(names).await?;
        self.disks.leave(slot, names);
        Ok(())
    }

    /// Makes the disk at a place larger; the guest's driver is told by QEMU.
    pub(crate) async fn resize_disk(&self, size: ScsiSize) -> Result<(), PlatformError> {
        let ScsiSize { slot, bytes } = size;
        let bad = |why: String| PlatformError::BadInput { what: "size of a disk", value: bytes.to_string(), why };
        let (names, path) = self.disks.resizable(slot).map_err(|why| bad(why.into()))?;
        let now = self.disk_bytes(names).await?;
        if bytes < now {
            return Err(bad(format!("{} has {now} bytes, and disks do not shrink", path.display())));
        }
        let arguments = json!({ "node-name": names.node(), "size": bytes });
        match self.qmp.call("block_resize", arguments).await {
            Ok(_) => Ok(()),
            Err(e @ CallError::Refused(_)) => {
                Err(PlatformError::host(format!("make {} {bytes} bytes large", path.display()), e))
            }
            Err(e) => Err(self.call_error("block_resize", e).await),
        }
    }

    /// How large the guest sees it.
    async fn disk_bytes(&self, names: Names) -> Result<u64, PlatformError> {
        let nodes = self.call("query-named-block-nodes", json!({ "flat": true })).await?;
        let node = nodes.as_array().into_iter().flatten().find(|node| node["node-name"] == names.node());
        let bytes = node.and_then(|node| node["image"]["virtual-size"].as_u64());
        bytes.ok_or_else(|| PlatformError::host("look at the size of a disk", "QEMU does not tell it"))
    }

    async fn forget_set(&self, names: Names) -> Result<(), PlatformError> {
        match self.qmp.call("remove-fd", json!({ "fdset-id": names.set() })).await {
            // Refused: it is not there.
            Ok(_) | Err(CallError::Refused(_)) => Ok(()),
            Err(e) => Err(self.call_error("remove-fd", e).await),
        }
    }
}

/// Why a disk keeps the size it has.
fn keeps_size(disk: &ScsiAttachment, image: &DiskImage) -> Option<&'static str> {
    match image.format {
        _ if disk.read_only => Some("it is attached read-only"),
        DiskFormat::Raw | DiskFormat::Qcow2 => None,
        DiskFormat::FixedVhd { .. } => Some("its VHD has a footer behind it, and keeps its size"),
        DiskFormat::DynamicVhd | DiskFormat::Vhdx => Some("QEMU does not resize VHD and VHDX images"),
    }
}

/// Whether QEMU says that another has locked the file: `Failed to get "write" lock`, `Failed to get shared "write" lock`.
fn is_of_a_lock(description: &str) -> bool {
    description.contains("Failed to get") && description.ends_with(" lock")
}

/// What is written is in the host's page cache, and on its disk once the guest has flushed it. What the guest discards is
/// given back.
fn node(image: &DiskImage, names: Names, read_only: bool) -> Value {
    let driver = if image.is_block_device { "host_device" } else { "file" };
    let file = json!({
        "driver": driver,
        "node-name": names.file(),
        "filename": format!("/dev/fdset/{}", names.set()),
        "read-only": read_only,
        "discard": "unmap",
        "cache": { "direct": false, "no-flush": false },
    });
    let mut node = json!({
        "driver": image.format.driver(),
        "node-name": names.node(),
        "read-only": read_only,
        "discard": "unmap",
        "file": file,
    });
    match image.format {
        // Whatever its header says by now.
        DiskFormat::Qcow2 => node["backing"] = Value::Null,
        DiskFormat::FixedVhd { bytes } => node["size"] = bytes.into(),
        DiskFormat::Raw | DiskFormat::DynamicVhd | DiskFormat::Vhdx => {}
    }
    node
}

fn device(disk: &ScsiAttachment, names: Names) -> Value {
    let ScsiAttachment { slot, settings, .. } = disk;
    let mut device = json!({
        "driver": "scsi-hd",
        "id": names.device(),
        "drive": names.node(),
        "bus": SCSI_BUS,
        "channel": 0,
        "scsi-id": slot.controller,
        "lun": slot.lun,
    });
    if let Some(serial) = &settings.serial {
        device["serial"] = serial.as_str().into();
    }
    if let Some(size) = settings.block_size {
        device["logical_block_size"] = size.bytes().into();
        device["physical_block_size"] = size.bytes().into();
    }
    device
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lock_is_a_lock() {
        assert!(is_of_a_lock("Failed to get \"write\" lock") && is_of_a_lock("Failed to get shared \"write\" lock"));
        for other in ["Block node is read-only", "Invalid block size 4099200", "Failed to get the block size"] {
            assert!(!is_of_a_lock(other), "{other}");
        }
    }

    #[test]
    fn a_place_has_one_disk_and_each_disk_its_own_names() {
        let disks = Disks::default();
        let slot = ScsiSlot { controller: 0, lun: 1 };
        let file = FileKey::BlockDevice(1);
        let first = disks.enter(slot, Path::new("image"), file, None).expect("free");
        assert!(disks.enter(slot, Path::new("image"), file, None).is_none());
        disks.leave(slot, first);
        assert!(disks.find(slot).is_none());
        let second = disks.enter(slot, Path::new("image"), file, Some("kept")).expect("free again");
        assert_eq!(disks.resizable(slot).map(|_| ()), Err("kept"));
        assert_ne!(first.node(), second.node());
        // What comes late of the first changes nothing.
        disks.leave(slot, first);
        assert_eq!(disks.find(slot).map(Names::device), Some(second.device()));
        assert_eq!(disks.image_of(&second.file()).as_deref(), Some(Path::new("image")));
        assert_eq!(disks.image_of(&first.node()), None);
    }

    #[test]
    fn a_file_at_another_place_is_found_by_whatever_name() {
        let disks = Disks::default();
        let slot = |lun| ScsiSlot { controller: 0, lun };
        let file = FileKey::BlockDevice(1);
        for (lun, name, file) in [(0, "image", file), (1, "link", file), (2, "image", FileKey::BlockDevice(2))] {
            disks.enter(slot(lun), Path::new(name), file, None).expect("free");
        }
        assert_eq!(disks.same_file(slot(1), file), ["this VM's disk image at controller 0, LUN 0"]);
        assert_eq!(disks.same_file(slot(2), FileKey::BlockDevice(2)), [] as [&str; 0], "it is no other");
    }
}
