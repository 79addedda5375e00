//! What serves the files that a suite is run on: what is to be expected differs in a few places.

use std::io;

/// What serves the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The kernel itself, for somebody who may do everything: to try a suite where nothing of ours takes part.
    Local,
    /// A 9P share.
    Plan9,
    /// A virtio-fs share.
    VirtioFs,
}

impl Kind {
    /// From its name on the command line.
    pub(crate) fn parse(name: &str) -> io::Result<Self> {
        match name {
            "local" => Ok(Self::Local),
            "9p" => Ok(Self::Plan9),
            "virtio-fs" => Ok(Self::VirtioFs),
            other => Err(io::Error::other(format!("{other:?} is no kind of files; there are local, 9p, virtio-fs"))),
        }
    }

    /// Whether a share of ours has it: no set-id bits, no devices, no other owners, `user.*` alone of attributes.
    pub(crate) fn is_share(self) -> bool {
        self != Self::Local
    }

    /// Whether files are mapped to be written, allocated and punched, and renamed by flags. The protocol 9P2000.L has no
    /// such messages, and Linux maps nothing to be written over it unless it caches.
    pub(crate) fn is_complete(self) -> bool {
        self != Self::Plan9
    }
}
