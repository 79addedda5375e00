//! Kernels as they are kept in the data directory.
//!
//! ```text
//! kernels/<name>/vmlinux or kernel     the image
//! kernels/<name>/config                its configuration, where known
//! kernels/<name>/modules/...           what becomes /lib/modules/<release>/... in the guest
//! kernels/<name>/uvm.index             what becomes /lib/modules/uvm.index, if there are modules
//! kernels/<name>/kernel.json           the description
//! ```

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{KernelError, KernelKind};
use crate::data_dir::DataDir;
use crate::digest::Sha256;
use crate::entries::{self, Removed};
use crate::error::ImageError;
use crate::manifest::KernelImage;
use crate::modules::{GROUPS, ModuleName};
use crate::sealed::{self, Damage, Depth, Description, FileRecords};
use crate::staging;

/// A kernel in the data directory.
#[derive(Clone, Debug)]
pub struct Kernel {
    name: String,
    dir: PathBuf,
    description: KernelDescription,
}

impl Kernel {
    pub(crate) fn new(name: String, dir: PathBuf, description: KernelDescription) -> Self {
        Self { name, dir, description }
    }

    /// Its name: kind, release, and what tells it from others of the same release.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it came from.
    pub fn kind(&self) -> KernelKind {
        self.description.kind
    }

    /// Where it came from in detail: package and version, or path.
    pub fn source(&self) -> &str {
        &self.description.source
    }

    /// Its release, as `uname -r` says in the guest.
    pub fn release(&self) -> &str {
        &self.description.release
    }

    /// Timer ticks a second, where its configuration is known.
    pub fn hz(&self) -> Option<u32> {
        self.description.hz
    }

    /// What kind of image it is.
    pub fn image(&self) -> KernelImage {
        self.description.image
    }

    /// The image's file.
    pub fn image_path(&self) -> PathBuf {
        self.dir.join(self.image().file_name())
    }

    /// The names of its modules, sorted.
    pub fn modules(&self) -> Vec<String> {
        let names = self.description.files.keys().filter(|path| path.starts_with(MODULES_DIR));
        let names = names.filter_map(|path| ModuleName::of_file(path.rsplit('/').next()?));
        names.map(|name| name.to_string()).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Bytes on disk.
    pub fn size(&self) -> u64 {
        self.description.files.values().map(|record| record.size).sum()
    }

    /// All intact kernels of `data_dir`, newest release first.
    pub fn list(data_dir: &DataDir) -> Result<Vec<Self>, ImageError> {
        let mut kernels = Vec::new();
        for (name, dir) in entries::list(&data_dir.kernels())? {
            kernels.extend(Self::open(&name, &dir)?);
        }
        kernels.sort_by(|a, b| {
            let newest_first = |of: fn(&Self) -> &str| crate::version::compare(of(b), of(a));
            newest_first(Self::release).then_with(|| newest_first(Self::source)).then_with(|| newest_first(Self::name))
        });
        Ok(kernels)
    }

    /// Removes a kernel by name, or by the beginning of one if it fits only one. Boot files made from it stay.
    pub fn remove(data_dir: &DataDir, name: &str) -> Result<Removed, ImageError> {
        let (name, dir) = entries::find(&data_dir.kernels(), name, "kernel")?;
        let bytes = entries::tree_size(&dir);
        staging::discard(data_dir, &dir)?;
        Ok(Removed { name, bytes })
    }

    /// Compares every file with its recorded hash.
    ///
    /// # Errors
    /// [`ImageError::Damaged`] names the first file that differs.
    pub fn verify(&self) -> Result<(), ImageError> {
        let files = &self.description.files;
        sealed::check_files(&self.dir, files, Depth::Full).map_err(|damage| self.damaged(damage))
    }

    /// The kernel of that name.
    pub(crate) fn named(data_dir: &DataDir, name: &str) -> Result<Self, ImageError> {
        let missing = || {
            let known = Self::list(data_dir).unwrap_or_default().into_iter().map(|kernel| kernel.name).collect();
            ImageError::NoSuchKernel { name: name.to_owned(), dir: data_dir.kernels(), known }
        };
        if !entries::is_name(name) {
            return Err(missing());
        }
        Self::open(name, &data_dir.kernels().join(name))?.ok_or_else(missing)
    }

    /// The kernel in `dir`, if its description is intact.
    pub(crate) fn open(name: &str, dir: &Path) -> Result<Option<Self>, ImageError> {
        match sealed::read_description::<KernelDescription>(dir)? {
            Some(Ok(description)) if description.files.contains_key(description.image.file_name()) => {
                Ok(Some(Self { name: name.to_owned(), dir: dir.to_owned(), description }))
            }
            Some(Err(damage)) => {
                tracing::warn!(dir = %dir.display(), %damage, "damaged kernel");
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    /// The kernels of one kind with the modules that this version of the program chooses, newest first.
    pub(crate) fn usable(data_dir: &DataDir, kind: KernelKind) -> Result<Vec<Self>, ImageError> {
        let mut kernels = Self::list(data_dir)?;
        let current = layout();
        let fits = |layout: &Option<String>| layout.as_ref().is_none_or(|layout| *layout == current);
        kernels.retain(|kernel| kernel.kind() == kind && fits(&kernel.description.layout));
        Ok(kernels)
    }

    /// What of it goes into the guest: path beneath `/lib/modules/<release>` and file, with size and hash.
    pub(crate) fn module_files(&self) -> impl Iterator<Item = (&str, PathBuf, u64, Sha256)> {
        self.description.files.iter().filter_map(|(name, record)| {
            let inside = name.strip_prefix(MODULES_DIR)?;
            Some((inside, self.dir.join(name), record.size, record.sha256))
        })
    }

    /// The file that becomes `/lib/modules/uvm.index`, with size and hash. A kernel without modules has none.
    pub(crate) fn index_file(&self) -> Option<(PathBuf, u64, Sha256)> {
        let record = self.description.files.get(INDEX_FILE)?;
        Some((self.dir.join(INDEX_FILE), record.size, record.sha256))
    }

    pub(crate) fn image_sha256(&self) -> Option<Sha256> {
        self.description.files.get(self.image().file_name()).map(|record| record.sha256)
    }

    /// Whether it was made from just these inputs.
    pub(crate) fn is_from(&self, inputs: &Sha256) -> bool {
        self.description.inputs == *inputs
    }

    fn damaged(&self, damage: Damage) -> ImageError {
        let remedy = match self.kind() {
            KernelKind::Trimmed => "build it again with `uvm image kernel`",
            _ => "it is made anew when its source is asked for",
        };
        ImageError::damaged(&self.dir, damage, remedy)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

/// `kernel.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KernelDescription {
    pub(crate) format: u32,
    pub(crate) kind: KernelKind,
    pub(crate) source: String,
    pub(crate) release: String,
    pub(crate) image: KernelImage,
    pub(crate) hz: Option<u32>,
    /// A hash over what it was made from.
    pub(crate) inputs: Sha256,
    /// What the choice of modules depended on: [`layout`]. `None`: there are none to choose from.
    pub(crate) layout: Option<String>,
    pub(crate) files: FileRecords,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seal: Option<Sha256>,
}

impl Description for KernelDescription {
    const FILE: &'static str = "kernel.json";
    const FORMAT: u32 = 1;

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

/// A text that changes whenever the same kernel would be unpacked into other files: other modules, another index.
pub(crate) fn layout() -> String {
    let groups: Vec<_> = GROUPS.iter().map(|group| format!("{}:{}", group.name, group.modules.join(","))).collect();
    Sha256::of(format!("{UNPACK_VERSION}\n{}", groups.join("\n")).as_bytes()).short(16)
}

/// Makes a kernel's name. It is a file name.
pub(crate) fn entry_name(kind: KernelKind, release: &str, identity: &Sha256) -> Result<String, KernelError> {
    if !super::bzimage::is_release(release) {
        return Err(KernelError::NoRelease);
    }
    Ok(format!("{kind}-{release}-{}", identity.short(8)))
}

/// Where in a kernel's directory the modules are.
pub(crate) const MODULES_DIR: &str = "modules/";
pub(crate) const INDEX_FILE: &str = "uvm.index";
pub(crate) const CONFIG_FILE: &str = "config";

/// Counts changes to how kernels are unpacked that [`layout`] does not see by itself.
const UNPACK_VERSION: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_their_directory() {
        let data = DataDir::at("/nowhere").unwrap();
        for name in ["..", "a/b", "", "/etc"] {
            assert!(matches!(Kernel::named(&data, name), Err(ImageError::NoSuchKernel { .. })), "{name}");
        }
        assert!(entry_name(KernelKind::Given, "../x", &Sha256::of(b"")).is_err());
    }
}
