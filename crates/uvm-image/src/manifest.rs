//! `manifest.json`: what a directory of boot files holds.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::Sha256;
use crate::sealed::{Description, FileRecords};

/// What a directory of boot files holds. `ensure` writes it; whoever is given a directory reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Manifest {
    /// The version of this format: [`Manifest::FORMAT`].
    pub format: u32,
    /// The agent in the initramfs.
    pub agent: AgentRecord,
    /// The kernel.
    pub kernel: KernelRecord,
    /// The tools in the initramfs: name and version of the package, or the path they came from. `None` for none.
    pub busybox: Option<String>,
    /// Modules in the initramfs, by name, sorted. Empty for a kernel that has everything built in.
    pub modules: Vec<String>,
    /// The other files of the directory.
    pub files: FileRecords,
    /// The hash of this description with this field left out. A manifest written by hand need not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<Sha256>,
}

impl Manifest {
    /// The only format version this crate reads and writes.
    pub const FORMAT: u32 = 1;
    /// The manifest's file name.
    pub const FILE: &'static str = "manifest.json";
    /// The initramfs's file name.
    pub const INITRD: &'static str = "initrd.img";
}

impl Description for Manifest {
    const FILE: &'static str = Self::FILE;
    const FORMAT: u32 = Self::FORMAT;

    fn format(&self) -> u32 {
        self.format
    }

    fn files(&self) -> &FileRecords {
        &self.files
    }

    fn seal(&mut self) -> &mut Option<Sha256> {
        &mut self.seal
    }
}

/// The agent in the initramfs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct AgentRecord {
    /// Whose it is. It decides the kernel command line and the transports present at boot.
    pub kind: AgentKind,
    /// Its version.
    pub version: String,
    /// The hash of its executable.
    pub sha256: Sha256,
}

/// Whose agent it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentKind {
    /// This project's.
    Ours,
    /// The original Linux agent, which knows virtual sockets only.
    Original,
}

impl fmt::Display for AgentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ours => "ours",
            Self::Original => "original",
        })
    }
}

/// The kernel of a directory of boot files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct KernelRecord {
    /// Its name in the data directory.
    pub name: String,
    /// Its release, as `uname -r` says in the guest.
    pub release: String,
    /// What kind of image it is; also tells its file name.
    pub image: KernelImage,
    /// Timer ticks a second (`CONFIG_HZ`), where the configuration is known.
    pub hz: Option<u32>,
}

/// What kind of kernel image it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KernelImage {
    /// An uncompressed ELF file with a PVH entry; boots fastest.
    Vmlinux,
    /// A bzImage, which unpacks itself at boot.
    BzImage,
}

impl KernelImage {
    /// The file name in a directory of boot files: `vmlinux` or `kernel`.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Vmlinux => "vmlinux",
            Self::BzImage => "kernel",
        }
    }
}
