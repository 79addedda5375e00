//! Disks, memory-backed disks, shares and layers of Linux guests.

use crate::json::RawJson;
use crate::object::omitting_object;

omitting_object! {
    /// A SCSI disk of a Linux guest, and its mount.
    ///
    /// `Remove` unmounts. Agents of January 2021 then also unplug the disk; newer ones (2023-05) wait for
    /// [`ScsiDevice`], and want `read_only` and `block_dev` as they were in `Add`.
    pub struct MappedVirtualDisk {
        /// Where to mount it; empty: nowhere, only attach.
        pub mount_path: String = "MountPath",
        /// The LUN.
        pub lun: u8 = "Lun",
        /// The controller.
        pub controller: u8 = "Controller",
        /// Mount it read-only.
        pub read_only: bool = "ReadOnly",
        /// The partition to mount, from 1; 0: the whole disk. Newer agents (2023-05).
        pub partition: u64 = "Partition",
        /// Put dm-crypt on it. Newer agents (2021-09).
        pub encrypted: bool = "Encrypted",
        /// Propagation flags (`shared`, `rslave`, ...); others have no effect. Newer agents (2021-04). Agents of this project
        /// take all [`MOUNT_OPTIONS`].
        pub options: Vec<String> = "Options",
        /// Make `mount_path` a link to the device instead of a mount. Newer agents (2024-06).
        pub block_dev: bool = "BlockDev",
        /// Deprecated, ignored by guests.
        pub verity_info: Option<RawJson> = "VerityInfo",
        /// Make a file system where there is none. Newer agents (2023-05).
        pub ensure_filesystem: bool = "EnsureFilesystem",
        /// `ext4` or `xfs`; empty: `ext4`. Newer agents (2023-05).
        pub filesystem: String = "Filesystem",
    }
}

/// What may stand in [`MappedVirtualDisk::options`] for an agent of this project. Others have no effect, as in the originals.
pub const MOUNT_OPTIONS: [&str; 17] = [
    "shared",
    "rshared",
    "slave",
    "rslave",
    "private",
    "rprivate",
    "unbindable",
    "runbindable",
    "nosuid",
    "nodev",
    "noexec",
    "noatime",
    "nodiratime",
    "relatime",
    "strictatime",
    "sync",
    "discard",
];

omitting_object! {
    /// The size that a SCSI disk of a Linux guest has on the host by now. An extension of ours, for agents that say
    /// [`disk_sizes`](crate::negotiate::GuestDefinedCapabilities::disk_sizes).
    ///
    /// `Update` has the kernel look at the disk, and waits until it has that size.
    pub struct DiskSize {
        /// The controller.
        pub controller: u8 = "Controller",
        /// The LUN.
        pub lun: u8 = "Lun",
        /// The size in bytes.
        pub bytes: u64 = "Bytes",
        /// Where the disk's file system is mounted that is to grow with it; empty: none is.
        pub grow: String = "Grow",
    }
}

omitting_object! {
    /// A SCSI disk of a Linux guest, to be unplugged. Newer agents (2023-05).
    #[derive(Copy)]
    pub struct ScsiDevice {
        /// The controller.
        pub controller: u8 = "Controller",
        /// The LUN.
        pub lun: u8 = "Lun",
    }
}

omitting_object! {
    /// A 9P share in a Linux guest; or, with a tag, one that is a device.
    pub struct MappedDirectory {
        /// Where to mount it.
        pub mount_path: String = "MountPath",
        /// The vsock port of the server: [`PLAN9_PORT`](crate::ports::PLAN9_PORT).
        pub port: i32 = "Port",
        /// The share, as the server knows it.
        pub share_name: String = "ShareName",
        /// Mount it read-only.
        pub read_only: bool = "ReadOnly",
        /// Ours: mount the virtio-fs device of this tag instead, and dial nobody. For guests that announce
        /// [`virtio_fs`](crate::negotiate::GuestDefinedCapabilities::virtio_fs).
        pub tag: String = "Tag",
    }
}

omitting_object! {
    /// A Unix socket of the host, offered in a Linux guest. An extension of ours: for agents that say
    /// [`mapped_sockets`](crate::negotiate::GuestDefinedCapabilities::mapped_sockets).
    ///
    /// The agent listens at `mount_path` and dials `port` for each connection. The host sends [`SOCKET_REACHED`] once it
    /// has reached its socket, and resets the stream where it has not; from then on the stream carries the connection's
    /// bytes in both directions. `Remove` ends the listening.
    pub struct MappedSocket {
        /// Where the guest's programs connect: an absolute path that is free.
        pub mount_path: String = "MountPath",
        /// The host's port; as one of a socket alone, it also tells sockets apart.
        pub port: u32 = "Port",
    }
}

/// The first byte on the stream of a connection to a [`MappedSocket`], from the host: the socket was reached.
pub const SOCKET_REACHED: u8 = 1;

omitting_object! {
    /// A memory-backed disk of a Linux guest, and its read-only mount.
    ///
    /// The last key is an extension of ours. It is left out unless set, and guests that do not know it read past it.
    pub struct VpmemDevice {
        /// The device: `/dev/pmem<n>`.
        pub device_number: u32 = "DeviceNumber",
        /// Where to mount it.
        pub mount_path: String = "MountPath",
        /// Which part of the device to mount; all of it without. Newer agents (2021-06).
        pub mapping_info: Option<DeviceMapping> = "MappingInfo",
        /// Deprecated, ignored by guests.
        pub verity_info: Option<RawJson> = "VerityInfo",
        /// Ours: where the device is, whatever its number: slot and function on each PCI bus from the root on, in
        /// hexadecimal, as `12.0/03.0`. The guest lets go of it on `Remove`, and takes it again on the next `Add`.
        pub pci_path: String = "PciPath",
    }
}

omitting_object! {
    /// A part of a memory-backed disk, in bytes.
    #[derive(Copy)]
    pub struct DeviceMapping {
        /// Where it begins.
        pub device_offset_bytes: u64 = "DeviceOffsetInBytes",
        /// How long it is.
        pub device_size_bytes: u64 = "DeviceSizeInBytes",
    }
}

omitting_object! {
    /// Layers put over each other. The same shape in Linux and Windows guests.
    ///
    /// `Remove` needs the root path only.
    pub struct CombinedLayers {
        /// The container. Newer hosts.
        pub container_id: String = "ContainerID",
        /// Where the result is to be seen.
        pub container_root_path: String = "ContainerRootPath",
        /// The read-only layers, the top one first.
        pub layers: Vec<Layer> = "Layers",
        /// What is written goes here; empty: the result is read-only.
        pub scratch_path: String = "ScratchPath",
    }
}

omitting_object! {
    /// One read-only layer.
    pub struct Layer {
        /// Windows guests: the layer's GUID.
        pub id: String = "Id",
        /// Where the layer is in the guest.
        pub path: String = "Path",
    }
}
