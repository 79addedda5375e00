//! What tells the files of the host apart.

use std::os::unix::fs::{FileTypeExt, MetadataExt};

/// Which file it is, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum FileKey {
    File {
        device: u64,
        inode: u64,
    },
    /// It has many names, each with an inode of its own.
    BlockDevice(u64),
}

impl FileKey {
    pub(crate) fn of(meta: &std::fs::Metadata) -> Self {
        if meta.file_type().is_block_device() {
            Self::BlockDevice(meta.rdev())
        } else {
            Self::File { device: meta.dev(), inode: meta.ino() }
        }
    }
}
