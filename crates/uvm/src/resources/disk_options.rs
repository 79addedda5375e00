//! A SCSI disk to add: what it is on the host, and what the guest does with it.

use std::fmt;
use std::num::NonZeroU64;
use std::path::PathBuf;

use uvm_platform::requests::{BlockSize, ImageFormat, ScsiKind, ScsiSettings, VmAccess};
use uvm_wire::modify::MOUNT_OPTIONS;
use uvm_wire::negotiate::GuestOs;

use super::ResourceError;

/// A SCSI disk to add.
///
/// On QEMU the owner of the VM opens it, with its own rights and in the very mode that is asked for, and QEMU gets the open
/// file: so `access` says who answers for these rights, and nothing is changed on the host. With `Noop` that is the caller,
/// with `Group` and `Individual` it is left to the library.
///
/// ```no_run
/// use uvm::{ScsiDisk, UtilityVm};
///
/// # async fn example(vm: UtilityVm) -> Result<(), uvm::UvmError> {
/// let disk = vm.add_scsi(&ScsiDisk::new("/images/data.img").with_guest_path("/data")).await?;
/// // Processes in the guest use /data.
/// disk.release().await
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScsiDisk {
    /// The image, or the host's disk.
    pub host_path: PathBuf,
    /// Where the guest mounts it; `None`: it is only attached. To Linux guests, a full path without `..`: links on the way are
    /// followed, one at the very path is refused. If the directory was made for it, it is removed with it.
    pub guest_path: Option<String>,
    /// The guest cannot write.
    pub read_only: bool,
    /// Whom the host opens the file to. Default: nobody, the caller sees to it.
    pub access: VmAccess,
    /// What it is on the host. Default: an image.
    pub kind: ScsiKind,
    /// Format, serial number and block size, where they are not those of the image. On QEMU.
    pub settings: ScsiSettings,
    /// The partition to mount, from 1. Default: the whole disk.
    pub partition: Option<NonZeroU64>,
    /// The file system to mount. Default: the one that the guest recognises.
    pub file_system: Option<FileSystem>,
    /// How it is mounted: `nosuid`, `nodev`, `noexec`, `noatime`, `nodiratime`, `relatime`, `strictatime`, `sync`, `discard`,
    /// and how mounts below propagate: `shared`, `slave`, `private`, `unbindable`, or one of these with an `r` before it.
    pub mount_options: Vec<String>,
    /// The guest path becomes a link to the guest's device, and nothing is mounted.
    pub block_device: bool,
    /// Make an ext4 there if the guest finds the disk, or the partition, empty, or making one has broken off there.
    pub ensure_file_system: bool,
}

impl ScsiDisk {
    /// A disk image, writable, only attached.
    pub fn new(host_path: impl Into<PathBuf>) -> Self {
        Self {
            host_path: host_path.into(),
            guest_path: None,
            read_only: false,
            access: VmAccess::Noop,
            kind: ScsiKind::VirtualDisk,
            settings: ScsiSettings::default(),
            partition: None,
            file_system: None,
            mount_options: Vec::new(),
            block_device: false,
            ensure_file_system: false,
        }
    }

    /// A physical disk of the host, writable, only attached; the host opens it to this VM.
    pub fn physical(host_path: impl Into<PathBuf>) -> Self {
        Self { kind: ScsiKind::PassThrough, access: VmAccess::Individual, ..Self::new(host_path) }
    }

    /// Mounted there in the guest.
    #[must_use]
    pub fn with_guest_path(self, path: impl Into<String>) -> Self {
        Self { guest_path: Some(path.into()).filter(|path| !path.is_empty()), ..self }
    }

    /// Not writable.
    #[must_use]
    pub fn read_only(self) -> Self {
        Self { read_only: true, ..self }
    }

    /// Opened to those.
    #[must_use]
    pub fn with_access(self, access: VmAccess) -> Self {
        Self { access, ..self }
    }

    /// An image of this format, whatever its name says.
    #[must_use]
    pub fn with_format(mut self, format: ImageFormat) -> Self {
        self.settings.format = Some(format);
        self
    }

    /// With this serial number, which the guest reads: 1 to 36 printable ASCII characters without spaces.
    #[must_use]
    pub fn with_serial(mut self, serial: impl Into<String>) -> Self {
        self.settings.serial = Some(serial.into());
        self
    }

    /// With blocks of this size.
    #[must_use]
    pub fn with_block_size(mut self, size: BlockSize) -> Self {
        self.settings.block_size = Some(size);
        self
    }

    /// This partition is mounted, from 1; 0 is the whole disk.
    #[must_use]
    pub fn with_partition(self, number: u64) -> Self {
        Self { partition: NonZeroU64::new(number), ..self }
    }

    /// Mounted as this file system.
    #[must_use]
    pub fn with_file_system(self, file_system: FileSystem) -> Self {
        Self { file_system: Some(file_system), ..self }
    }

    /// Mounted with [these options](Self::mount_options).
    #[must_use]
    pub fn with_mount_options(self, options: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { mount_options: options.into_iter().map(Into::into).collect(), ..self }
    }

    /// The guest path is a link to the device: nothing is mounted.
    #[must_use]
    pub fn as_block_device(self) -> Self {
        Self { block_device: true, ..self }
    }

    /// With an ext4 made by the guest, if the disk (or the partition) is empty. One that holds anything known, a file system, a
    /// table of partitions, members of volume groups and arrays, or any byte but zeros at its beginning and end, is left as it
    /// is.
    #[must_use]
    pub fn ensuring_file_system(self) -> Self {
        Self { ensure_file_system: true, ..self }
    }

    /// Whether more is said of the mount than agents of January 2021 know.
    fn says_more(&self) -> bool {
        self.partition.is_some()
            || self.file_system.is_some()
            || !self.mount_options.is_empty()
            || self.block_device
            || self.ensure_file_system
    }

    /// What of it cannot be had together, or in no guest of this system.
    pub(super) fn check(&self, os: GuestOs) -> Result<(), ResourceError> {
        let bad = |what, value: &str, allowed| Err(ResourceError::BadInput { what, value: value.to_owned(), allowed });
        if let Some(serial) = &self.settings.serial
            && !((1..=36).contains(&serial.len()) && serial.bytes().all(|byte| byte.is_ascii_graphic()))
        {
            return bad("serial number", serial, "1 to 36 printable ASCII characters without spaces are allowed");
        }
        if !self.says_more() {
            return Ok(());
        }
        if os == GuestOs::Windows {
            return Err(ResourceError::NotForThisGuest { what: "how a disk is mounted", os: "Windows" });
        }
        if self.guest_path.is_none() {
            return bad("guest path", "", "one is needed where it is said how a disk is mounted");
        }
        if let Some(option) = self.mount_options.iter().find(|option| !MOUNT_OPTIONS.contains(&option.as_str())) {
            return bad("mount option", option, "those are allowed that the documentation of ScsiDisk lists");
        }
        let mounts = self.file_system.is_some() || !self.mount_options.is_empty() || self.ensure_file_system;
        if self.block_device && mounts {
            return bad("block device", "with a file system", "it is a link to the device, or mounted, not both");
        }
        if self.ensure_file_system && self.read_only {
            return bad("read-only disk", "with a file system to be made", "it has to be writable for that");
        }
        if let (true, Some(other)) = (self.ensure_file_system, self.file_system.filter(|fs| *fs != FileSystem::Ext4)) {
            return bad("file system to be made", other.name(), "ext4");
        }
        Ok(())
    }
}

/// A file system that a guest mounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FileSystem {
    /// ext4, and ext2 and ext3 by its driver.
    Ext4,
    /// XFS.
    Xfs,
    /// EROFS, which is read-only.
    Erofs,
    /// Squashfs, which is read-only.
    Squashfs,
    /// ISO 9660, which is read-only.
    Iso9660,
}

impl FileSystem {
    /// As Linux calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Erofs => "erofs",
            Self::Squashfs => "squashfs",
            Self::Iso9660 => "iso9660",
        }
    }
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(disk: &ScsiDisk) -> String {
        disk.check(GuestOs::Linux).expect_err("it cannot be").to_string()
    }

    #[test]
    fn what_cannot_be_had_together_is_named() {
        let disk = || ScsiDisk::new("d.img").with_guest_path("/d");
        for good in [
            disk().with_serial("a".repeat(36)).with_partition(1).with_file_system(FileSystem::Xfs),
            disk().with_mount_options(MOUNT_OPTIONS),
            disk().as_block_device().with_partition(2),
            disk().ensuring_file_system().with_file_system(FileSystem::Ext4),
            ScsiDisk::new("d.img").with_partition(0),
        ] {
            good.check(GuestOs::Linux).expect("it can be had");
        }
        for serial in ["", "a b", "\u{e4}", &"a".repeat(37)] {
            let error = refused(&disk().with_serial(serial));
            assert!(error.contains(&format!("{serial:?}")) && error.contains("1 to 36"), "{error}");
        }
        assert!(refused(&ScsiDisk::new("d.img").with_partition(1)).contains("guest path"));
        assert!(refused(&disk().with_mount_options(["ro"])).contains("\"ro\""));
        assert!(refused(&disk().as_block_device().with_mount_options(["nodev"])).contains("not both"));
        assert!(refused(&disk().read_only().ensuring_file_system()).contains("writable"));
        assert!(refused(&disk().ensuring_file_system().with_file_system(FileSystem::Xfs)).contains("xfs"));
        let windows = disk().with_partition(1).check(GuestOs::Windows).expect_err("it has no such thing");
        assert!(matches!(windows, ResourceError::NotForThisGuest { .. }));
    }
}
