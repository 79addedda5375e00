//! What is asked for, and what tells one thing from another.

use super::disk_options::ScsiDisk;
use super::{layers, network, pipe, plan9, resize, share, virtio_fs, vpci, vpmem, vsmb};

/// What tells things apart: who asks for one with the same key asks for the same. Paths are as the host compares them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Key {
    Scsi(String),
    Vpmem(String),
    Plan9(u64),
    /// A share that is a device, by the number in its tag.
    VirtioFs(u64),
    /// A shared directory, or one file of a share of single files, and whether it is read-only.
    Vsmb(String, bool),
    /// The share of single files of a directory, whose parts are those.
    VsmbFiles(String, bool),
    /// A share of the guest's, by a number: each is its own.
    Mapped(u64),
    Pipe(String),
    /// The root, and a number: each is its own.
    Layers(String, u64),
    Pci(String),
    Namespace(String),
    Adapter {
        namespace: String,
        endpoint: String,
    },
}

/// What is asked for.
#[derive(Clone, Debug)]
pub(crate) enum Wanted {
    Scsi(ScsiDisk),
    Resize(resize::Resize),
    Vpmem(vpmem::Layer),
    Plan9(plan9::Plan9ShareOptions),
    VirtioFs(virtio_fs::DirectoryShare),
    Vsmb(vsmb::Part),
    Mapped(share::Mapped),
    Pipe(pipe::Offered),
    Layers(layers::Overlay),
    Pci(vpci::Assignment),
    Network(network::Part),
}
