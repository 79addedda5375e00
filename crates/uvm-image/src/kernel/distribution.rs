//! The distribution's kernel: its package, downloaded and unpacked, not installed.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::entry::Kernel;
use super::import::{Identity, KernelFiles, ReadFile, import};
use super::{Freshness, KernelKind};
use crate::apt::{Apt, Package};
use crate::deb::{EntryKind, Visit, WalkError, walk_deb};
use crate::digest::Sha256;
use crate::error::{ImageError, Intent, IoContext};
use crate::lock::BuildLock;
use crate::staging;
use crate::store::ImageStore;

/// The distribution's kernel, fetched now if need be.
pub(super) fn ensure(store: &ImageStore, freshness: Freshness) -> Result<Kernel, ImageError> {
    let there = || Ok(Kernel::usable(&store.data_dir, KernelKind::Distribution)?.into_iter().next());
    if freshness == Freshness::Cached
        && let Some(kernel) = there()?
    {
        return Ok(kernel);
    }
    let _lock = BuildLock::acquire(store, &super::lock_name(KernelKind::Distribution), "the distribution's kernel")?;
    if freshness == Freshness::Cached
        && let Some(kernel) = there()?
    {
        return Ok(kernel);
    }
    staging::sweep(&store.data_dir);
    let mut apt = Apt::new(store, METAPACKAGES[0], ALTERNATIVE)?;
    if freshness == Freshness::Newest {
        apt.update()?;
    }
    let packages = apt.with_fresh_lists_if_need_be(|apt| {
        let packages = resolve(apt)?;
        let files = packages.iter().map(|package| apt.download(package)).collect::<Result<Vec<_>, _>>()?;
        Ok(Packages { packages, files })
    })?;
    drop(apt);
    let identity = packages.identity();
    if let Some(same) = there()?.filter(|kernel| kernel.is_from(&identity.inputs) && kernel.verify().is_ok()) {
        return Ok(same);
    }
    import(store, identity, &packages)
}

/// The packages that hold the newest kernel.
fn resolve(apt: &Apt<'_>) -> Result<Vec<Package>, ImageError> {
    let mut missing = None;
    for name in METAPACKAGES {
        let meta = match apt.find(name)? {
            Ok(meta) => meta,
            Err(output) => {
                missing.get_or_insert(output);
                continue;
            }
        };
        let is_image = |name: &str| name.starts_with("linux-image-") && !METAPACKAGES.contains(&name);
        let dependency = meta.depends.iter().find(|dependency| is_image(&dependency.name));
        let dependency = dependency.ok_or_else(|| ImageError::BadPackageRecord {
            package: meta.to_string(),
            why: "it depends on no linux-image-... package".into(),
        })?;
        let image = apt.dependency(dependency)?;
        // Where image and modules are packages of their own, some of them named by the metapackage only.
        let is_part = |name: &str| name.starts_with("linux-modules-") || name.starts_with("linux-binary-");
        let mut parts = Vec::new();
        for part in image.depends.iter().chain(&meta.depends).filter(|part| is_part(&part.name)) {
            if !parts.contains(part) {
                parts.push(part.clone());
            }
        }
        let mut packages = vec![image];
        for part in &parts {
            packages.push(apt.dependency(part)?);
        }
        return Ok(packages);
    }
    Err(ImageError::NoPackage {
        package: METAPACKAGES.join(" or "),
        output: missing.unwrap_or_default(),
        alternative: ALTERNATIVE,
    })
}

/// Downloaded packages that together hold a kernel.
struct Packages {
    packages: Vec<Package>,
    files: Vec<PathBuf>,
}

impl Packages {
    fn identity(&self) -> Identity {
        let source = self.packages.iter().map(Package::to_string).collect::<Vec<_>>().join(", ");
        let hashes = self.packages.iter().map(|package| package.sha256.to_string()).collect::<Vec<_>>().join("\n");
        Identity { kind: KernelKind::Distribution, source, inputs: Sha256::of(hashes.as_bytes()) }
    }
}

impl KernelFiles for Packages {
    fn path(&self) -> &Path {
        &self.files[0]
    }

    fn walk(&self, visit: &mut dyn FnMut(&str, &mut ReadFile<'_>) -> Result<(), ImageError>) -> Result<(), ImageError> {
        for deb in &self.files {
            let file = File::open(deb).at(Intent::Read, deb)?;
            let walked = walk_deb(file, MAX_UNPACKED, |mut entry| {
                // Only files, and only their contents, are ever taken from a package: its links lead nowhere.
                if entry.kind == EntryKind::File
                    && let Some(path) = entry.path.as_path().to_str().map(str::to_owned)
                {
                    visit(&path, &mut |limit| entry.read_all(limit).map_err(|error| error.of_package(deb)))?;
                }
                Ok::<_, WalkError>(Visit::Continue)
            });
            walked.map_err(|error| error.of_package(deb))?;
        }
        Ok(())
    }
}

/// The packages that always depend on the newest kernel: Debian's, and Ubuntu's (its smaller one,
/// `linux-image-virtual`, goes without virtio-pmem).
const METAPACKAGES: &[&str] = &["linux-image-amd64", "linux-image-generic"];
const ALTERNATIVE: &str =
    "a kernel by path (`--kernel PATH`), or take the one installed on this machine (`--kernel installed`)";
/// Debian's kernel has 410 MB.
const MAX_UNPACKED: u64 = 4 << 30;
