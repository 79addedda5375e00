//! Kernels from files on this machine.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::KernelKind;
use super::entry::Kernel;
use super::import::{Identity, KernelFiles, ReadFile, import};
use crate::digest::Sha256;
use crate::error::{ImageError, Intent, IoContext};
use crate::lock::BuildLock;
use crate::sealed::Damage;
use crate::staging;
use crate::store::ImageStore;

/// The kernel made from these files, made now if need be. Files count as the same as long as their names, sizes,
/// inodes and times are: they are not read each time.
pub(super) fn ensure(
    store: &ImageStore,
    kind: KernelKind,
    image: &Path,
    modules: Option<&Path>,
    config: Option<&Path>,
) -> Result<Kernel, ImageError> {
    let files = OnDisk::look(image, modules, config)?;
    let source = files.image.display().to_string();
    let inputs = files.identity();
    let known = || -> Result<Option<Kernel>, ImageError> {
        let kernels = Kernel::usable(&store.data_dir, kind)?;
        Ok(kernels.into_iter().find(|kernel| kernel.is_from(&inputs)))
    };
    if let Some(kernel) = known()? {
        return Ok(kernel);
    }
    let _lock = BuildLock::acquire(store, &super::lock_name(kind), &format!("the kernel from {source}"))?;
    if let Some(kernel) = known()? {
        return Ok(kernel);
    }
    staging::sweep(&store.data_dir);
    let kernel = import(store, Identity { kind, source, inputs }, &files)?;
    if OnDisk::look(image, modules, config)?.identity() == inputs {
        Ok(kernel)
    } else {
        let damage =
            Damage::Unreadable { file: image.display().to_string(), why: "it changed while it was read".into() };
        Kernel::remove(&store.data_dir, kernel.name())?;
        Err(ImageError::damaged(kernel.dir(), damage, "try again"))
    }
}

/// The files of a kernel on this machine.
struct OnDisk {
    image: PathBuf,
    /// Path in the walk, and file.
    files: Vec<(String, PathBuf)>,
    /// A text that changes when a file does.
    facts: String,
}

impl OnDisk {
    /// Finds the files and their attributes.
    fn look(image: &Path, modules: Option<&Path>, config: Option<&Path>) -> Result<Self, ImageError> {
        let image = std::path::absolute(image).at(Intent::Read, image)?;
        let mut look = Self { image: image.clone(), files: Vec::new(), facts: String::new() };
        look.add("boot/vmlinuz".into(), &image)?;
        if let Some(config) = config {
            look.add("boot/config".into(), config)?;
        }
        if let Some(modules) = modules {
            look.add_tree("lib/modules/-", modules, 0)?;
        }
        Ok(look)
    }

    fn add(&mut self, name: String, path: &Path) -> Result<(), ImageError> {
        use std::fmt::Write as _;
        let metadata = fs::metadata(path).at(Intent::Read, path)?;
        if !metadata.is_file() {
            let why = "it is no regular file";
            return Err(ImageError::BadInput { what: "kernel file", value: path.display().to_string(), why });
        }
        let (dev, ino, size) = (metadata.dev(), metadata.ino(), metadata.len());
        let times = [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()];
        let _ = writeln!(self.facts, "{} {dev} {ino} {size} {times:?}", path.display());
        self.files.push((name, path.to_owned()));
        Ok(())
    }

    /// Adds the regular files of a directory. Links are left out: `build` and `source` lead to whole source trees.
    fn add_tree(&mut self, name: &str, dir: &Path, depth: usize) -> Result<(), ImageError> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir).at(Intent::Read, dir)? {
            entries.push(entry.at(Intent::Read, dir)?);
        }
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let (path, kind) = (entry.path(), entry.file_type().at(Intent::Read, dir)?);
            let Ok(file_name) = entry.file_name().into_string() else { continue };
            let name = format!("{name}/{file_name}");
            if kind.is_dir() && depth < MAX_DEPTH {
                self.add_tree(&name, &path, depth + 1)?;
            } else if kind.is_file() && (file_name.contains(".ko") || file_name.starts_with("modules.builtin")) {
                self.add(name, &path)?;
            }
        }
        Ok(())
    }

    fn identity(&self) -> Sha256 {
        Sha256::of(self.facts.as_bytes())
    }
}

impl KernelFiles for OnDisk {
    fn path(&self) -> &Path {
        &self.image
    }

    fn walk(&self, visit: &mut dyn FnMut(&str, &mut ReadFile<'_>) -> Result<(), ImageError>) -> Result<(), ImageError> {
        for (name, path) in &self.files {
            visit(name, &mut |limit| {
                let file = File::open(path).at(Intent::Read, path)?;
                let mut bytes = Vec::new();
                file.take(limit + 1).read_to_end(&mut bytes).at(Intent::Read, path)?;
                if bytes.len() as u64 > limit {
                    let why = "it is larger than any file of its kind";
                    return Err(ImageError::BadInput { what: "kernel file", value: path.display().to_string(), why });
                }
                Ok(bytes)
            })?;
        }
        Ok(())
    }
}

/// Real module trees are some eight deep.
const MAX_DEPTH: usize = 32;
