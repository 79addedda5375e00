//! From files, wherever they come from, to a kernel in the data directory.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use super::bzimage::{self, KernelError};
use super::entry::{CONFIG_FILE, INDEX_FILE, Kernel, KernelDescription, MODULES_DIR, entry_name, layout};
use super::{KernelKind, kconfig};
use crate::compression::Compression;
use crate::digest::Sha256;
use crate::error::{ImageError, Intent, IoContext};
use crate::manifest::KernelImage;
use crate::modules::{Catalog, GROUPS, ModInfo, ModuleError, ModuleName, Selection, index};
use crate::progress::Step;
use crate::sealed::{self, FileRecords};
use crate::staging::Staging;
use crate::store::ImageStore;

/// The files of one kernel, wherever they are. Walked twice: to learn what is there, and to take what is needed; so
/// that hundreds of megabytes of modules are neither kept in memory nor written to disk.
pub(crate) trait KernelFiles {
    /// What is walked, for messages.
    fn path(&self) -> &Path;

    /// Calls `visit` for each file that may matter, with a path as in a package: `boot/vmlinuz-<release>`,
    /// `boot/config-<release>`, `lib/modules/<release>/...`. The visitor reads the file by the function given to it,
    /// which refuses files of more than a number of bytes.
    fn walk(&self, visit: &mut dyn FnMut(&str, &mut ReadFile<'_>) -> Result<(), ImageError>) -> Result<(), ImageError>;
}

/// Reads one file of a walk; the argument is the largest size allowed.
pub(crate) type ReadFile<'a> = dyn FnMut(u64) -> Result<Vec<u8>, ImageError> + 'a;

/// What tells one kernel from another.
pub(crate) struct Identity {
    pub(crate) kind: KernelKind,
    /// Package and version, or path.
    pub(crate) source: String,
    /// A hash over everything that the kernel is made from.
    pub(crate) inputs: Sha256,
}

/// Makes the kernel that `files` hold and moves it into place. The caller holds the lock.
pub(crate) fn import(store: &ImageStore, identity: Identity, files: &dyn KernelFiles) -> Result<Kernel, ImageError> {
    let parts = store.progress.step(Step::Unpacking, identity.source.clone(), || collect(store, files))?;
    let bad_kernel = |source| ImageError::BadKernel { path: parts.image_path.clone(), source };
    let lacks = |what: &str| ImageError::PackageLacks { path: files.path().to_owned(), what: what.into() };
    let image = parts.image.as_deref().ok_or_else(|| lacks("kernel image (boot/vmlinuz-...)"))?;
    let (kind, vmlinux) = store
        .progress
        .step(Step::ExtractingKernel, identity.source.clone(), || bootable(store, image, &parts.image_path))?;
    let release = release_of(image).map_err(bad_kernel)?;
    let modular = !parts.catalog.is_empty();

    let staging = Staging::new(&store.data_dir, "kernel")?;
    let mut writer = Writer { dir: staging.path(), files: FileRecords::new() };
    writer.write(kind.file_name(), vmlinux.as_deref().unwrap_or(image))?;
    let hz = match &parts.config {
        Some(config) => {
            writer.write(CONFIG_FILE, config.as_bytes())?;
            kconfig::hz(config)
        }
        None => None,
    };
    if modular {
        store.progress.step(Step::ChoosingModules, release.clone(), || {
            let selection = select(&parts, &release)?;
            writer.write_modules(store, files, &parts, &selection)?;
            writer.write(INDEX_FILE, index::index(&release, &parts.catalog, &selection).as_bytes())?;
            for (name, text) in [
                ("modules.dep", index::modules_dep(&parts.catalog, &selection)),
                ("modules.alias", index::modules_alias(&parts.catalog, &selection)),
                ("modules.softdep", index::modules_softdep(&parts.catalog, &selection)),
            ] {
                writer.write(&format!("{MODULES_DIR}{name}"), text.as_bytes())?;
            }
            Ok(())
        })?;
    }

    let name = entry_name(identity.kind, &release, &identity.inputs).map_err(bad_kernel)?;
    let mut description = KernelDescription {
        format: 1,
        kind: identity.kind,
        source: identity.source,
        release,
        image: kind,
        hz,
        inputs: identity.inputs,
        layout: modular.then(layout),
        files: writer.files,
        seal: None,
    };
    sealed::write_description(staging.path(), &mut description)?;
    let dir = store.data_dir.kernels().join(&name);
    staging.publish(&store.data_dir, &dir)?;
    Ok(Kernel::new(name, dir, description))
}

/// What the first walk finds.
struct Parts {
    image: Option<Vec<u8>>,
    image_path: PathBuf,
    config: Option<String>,
    catalog: Catalog,
    /// Where each module's file is in the walk, by the path it gets.
    origins: BTreeMap<String, String>,
}

fn collect(store: &ImageStore, files: &dyn KernelFiles) -> Result<Parts, ImageError> {
    let mut parts = Parts {
        image: None,
        image_path: files.path().to_owned(),
        config: None,
        catalog: Catalog::default(),
        origins: BTreeMap::new(),
    };
    files.walk(&mut |path, read| {
        store.cancel.check()?;
        if path.strip_prefix("boot/vmlinuz").is_some_and(|rest| rest.is_empty() || rest.starts_with('-')) {
            parts.image = Some(read(MAX_IMAGE)?);
        } else if path.starts_with("boot/config") {
            parts.config = Some(String::from_utf8_lossy(&read(MAX_TEXT)?).into_owned());
        } else if let Some(inside) = module_path(path) {
            match inside.rsplit('/').next().unwrap_or_default() {
                "modules.builtin" => parts.catalog.add_builtin(&String::from_utf8_lossy(&read(MAX_TEXT)?)),
                "modules.builtin.modinfo" => parts.catalog.add_builtin_aliases(&read(MAX_TEXT)?),
                file_name => {
                    let Some(name) = ModuleName::of_file(file_name).filter(|_| is_plain(inside)) else { return Ok(()) };
                    let info = decompressed(path, read(MAX_MODULE)?).and_then(|module| ModInfo::of_module(&module));
                    let target = uncompressed_name(inside).to_owned();
                    match info {
                        Ok(info) => {
                            parts.origins.insert(target.clone(), path.to_owned());
                            parts.catalog.add(name, target, info);
                        }
                        // One bad driver among thousands: if it is needed after all, it will be missing.
                        Err(error) => tracing::warn!(module = path, %error, "left out"),
                    }
                }
            }
        }
        Ok(())
    })?;
    Ok(parts)
}

fn release_of(image: &[u8]) -> Result<String, KernelError> {
    if bzimage::is_bzimage(image) {
        bzimage::release(image)
    } else {
        bzimage::vmlinux_release(image).ok_or(KernelError::NoRelease)
    }
}

/// The image to boot: an ELF file as it is, a bzImage unpacked where that works, and as it is where it does not.
fn bootable(store: &ImageStore, image: &[u8], path: &Path) -> Result<(KernelImage, Option<Vec<u8>>), ImageError> {
    let bad_kernel = |source| ImageError::BadKernel { path: path.to_owned(), source };
    if !bzimage::is_bzimage(image) {
        if !image.starts_with(b"\x7fELF") {
            return Err(bad_kernel(KernelError::UnknownImage));
        }
        bzimage::check_vmlinux(image).map_err(bad_kernel)?;
        return Ok((KernelImage::Vmlinux, None));
    }
    match bzimage::extract_vmlinux(image, MAX_VMLINUX) {
        Ok(vmlinux) => Ok((KernelImage::Vmlinux, Some(vmlinux))),
        // Whole, but not for us to unpack: QEMU boots it as it is.
        Err(why @ (KernelError::Compression(_) | KernelError::NoPvhEntry | KernelError::OldProtocol(_))) => {
            store.progress.note(format!("{}: {why}. It is booted as a bzImage, which is slower", path.display()));
            Ok((KernelImage::BzImage, None))
        }
        Err(damaged) => Err(bad_kernel(damaged)),
    }
}

/// Chooses the modules. The kernel refuses modules of another release, so they are refused here.
fn select(parts: &Parts, release: &str) -> Result<Selection, ImageError> {
    let selection = parts.catalog.select(GROUPS).map_err(|(name, why)| match why {
        Some(source) => ImageError::BadModule { path: PathBuf::from(name.as_str()), source },
        None => ImageError::KernelLacks {
            kernel: release.to_owned(),
            feature: format!("the driver {name}"),
            hint: "choose another kernel",
        },
    })?;
    let releases = selection.modules.keys().filter_map(|name| parts.catalog.module(name)?.info.release.as_deref());
    match releases.into_iter().find(|modules| *modules != release) {
        None => Ok(selection),
        Some(modules) => Err(ImageError::BadKernel {
            path: parts.image_path.clone(),
            source: KernelError::ModulesDiffer { kernel: release.to_owned(), modules: modules.to_owned() },
        }),
    }
}

/// Writes the files of one kernel and keeps their records.
struct Writer<'a> {
    dir: &'a Path,
    files: FileRecords,
}

impl Writer<'_> {
    fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), ImageError> {
        let path = self.dir.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).at(Intent::Create, parent)?;
        }
        sealed::create_new(&path)?.write_all(bytes).at(Intent::Write, &path)?;
        self.files.insert(name.to_owned(), sealed::seal_file(&path)?);
        Ok(())
    }

    /// The second walk: takes the chosen modules.
    fn write_modules(
        &mut self,
        store: &ImageStore,
        files: &dyn KernelFiles,
        parts: &Parts,
        selection: &Selection,
    ) -> Result<(), ImageError> {
        let mut wanted: BTreeMap<&str, &str> = BTreeMap::new();
        for module in selection.modules.keys().filter_map(|name| parts.catalog.module(name)) {
            if let Some(origin) = parts.origins.get(&module.path) {
                wanted.insert(origin, &module.path);
            }
        }
        files.walk(&mut |path, read| {
            store.cancel.check()?;
            let Some(target) = wanted.remove(path) else { return Ok(()) };
            let bad_module = |source| ImageError::BadModule { path: PathBuf::from(path), source };
            let module = decompressed(path, read(MAX_MODULE)?).map_err(bad_module)?;
            self.write(&format!("{MODULES_DIR}{target}"), &module)
        })?;
        match wanted.keys().next() {
            None => Ok(()),
            Some(gone) => Err(ImageError::PackageLacks { path: files.path().to_owned(), what: (*gone).to_owned() }),
        }
    }
}

/// The path beneath `/lib/modules/<release>`.
fn module_path(path: &str) -> Option<&str> {
    let path = path.strip_prefix("usr/").unwrap_or(path);
    path.strip_prefix("lib/modules/")?.split_once('/').map(|(_, inside)| inside)
}

/// Whether a module's path can stand in a line of words.
fn is_plain(path: &str) -> bool {
    path.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '?' | ':'))
}

fn uncompressed_name(path: &str) -> &str {
    path.rsplit_once(".ko").map_or(path, |(stem, _)| &path[..stem.len() + 3])
}

fn decompressed(name: &str, bytes: Vec<u8>) -> Result<Vec<u8>, ModuleError> {
    match Compression::of_name(name) {
        Compression::None => Ok(bytes),
        compression => {
            let mut module = Vec::new();
            let read =
                compression.reader(&bytes[..], MAX_MODULE).and_then(|mut reader| reader.read_to_end(&mut module));
            read.map(|_| module).map_err(ModuleError::Decompress)
        }
    }
}

/// The largest sizes of what is read into memory; Debian's are 8 MiB, 60 MiB, 10 MiB and 260 KiB.
const MAX_IMAGE: u64 = 256 << 20;
const MAX_VMLINUX: u64 = 512 << 20;
const MAX_MODULE: u64 = 128 << 20;
const MAX_TEXT: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_paths_are_the_same_wherever_lib_is() {
        assert_eq!(module_path("lib/modules/6.1/kernel/x.ko"), Some("kernel/x.ko"));
        assert_eq!(module_path("usr/lib/modules/6.1/kernel/x.ko.xz"), Some("kernel/x.ko.xz"));
        assert_eq!(module_path("lib/firmware/x"), None);
        assert_eq!(uncompressed_name("kernel/x.ko.xz"), "kernel/x.ko");
        assert_eq!(uncompressed_name("kernel/x.ko"), "kernel/x.ko");
        assert!(is_plain("kernel/x-y_z.ko") && !is_plain("kernel/a b.ko") && !is_plain("?x.ko"));
    }
}
