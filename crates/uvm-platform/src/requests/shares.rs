//! Shared directories: by 9P, virtio-fs and VSMB.

use std::path::PathBuf;

use crate::stream::Port;

/// A directory served by 9P.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan9Export {
    /// What the guest calls it.
    pub name: String,
    /// The directory.
    pub path: PathBuf,
    /// Where it is served.
    pub port: Port,
    /// The guest cannot write.
    pub read_only: bool,
    /// The only names beneath the directory that the guest sees; `None` for all.
    pub allowed_files: Option<Vec<String>>,
}

/// A directory served as a virtio-fs device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtioFsExport {
    /// What the guest finds it by: at most 36 bytes, another one for each of a VM.
    pub tag: String,
    /// The directory.
    pub path: PathBuf,
    /// The guest cannot write.
    pub read_only: bool,
    /// Whose the files are.
    pub owners: ShareOwners,
}

/// Whose the files of a share are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ShareOwners {
    /// To the guest, all are the directory's owner's, and they are made as that user's.
    #[default]
    Directory,
    /// The numbers of users and groups are the same in the guest and on the host; the guest's root is root of the files.
    /// Only for an owner of VMs who is root.
    Passthrough,
}

/// A directory, or some files of one, shared with a Windows guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VsmbExport {
    /// What the guest calls it.
    pub name: String,
    /// The directory.
    pub path: PathBuf,
    /// How it is shared.
    pub options: VsmbOptions,
    /// The only files that the guest sees, by their full paths; empty for all. For a share of single files only.
    pub allowed_files: Vec<PathBuf>,
}

/// How a directory is shared with a Windows guest. The names are the host's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches of the host's service, named as there")]
pub struct VsmbOptions {
    /// The guest cannot write.
    pub read_only: bool,
    /// Others may read what is open.
    pub share_read: bool,
    /// Cache what is read.
    pub cache_io: bool,
    /// Never cache.
    pub non_cache_io: bool,
    /// No opportunistic locks.
    pub no_oplocks: bool,
    /// Open with backup privilege.
    pub take_backup_privilege: bool,
    /// Act as the owner of the share's root.
    pub use_share_root_identity: bool,
    /// Never map files directly into the guest's memory.
    pub no_direct_map: bool,
    /// No byte range locks.
    pub no_locks: bool,
    /// No notifications of changes.
    pub no_dir_notify: bool,
    /// Share memory with the VM.
    pub vm_shared_memory: bool,
    /// Only the files that are allowed.
    pub restrict_file_access: bool,
    /// Level II locks only.
    pub force_level_ii_oplocks: bool,
    /// The share's root is a reparse point to a base layer.
    pub reparse_base_layer: bool,
    /// Pretend to have opportunistic locks.
    pub pseudo_oplocks: bool,
    /// Pretend to notify of changes.
    pub pseudo_dir_notify: bool,
    /// A share of single files.
    pub single_file_mapping: bool,
}
