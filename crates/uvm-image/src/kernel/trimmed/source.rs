//! The kernel source: the distribution's package, downloaded and unpacked, not installed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::compression::Compression;
use crate::deb::{EntryKind, Extractor, Visit, WalkError, walk_deb, walk_tar};
use crate::error::{ImageError, Intent, IoContext};
use crate::staging;
use crate::store::ImageStore;

/// Unpacks the source package `deb` beneath `dir` and returns the directory of the source. The package holds a tar
/// archive, which is read straight out of it.
pub(super) fn unpack(store: &ImageStore, deb: &Path, dir: &Path) -> Result<PathBuf, ImageError> {
    let tree = dir.join("source");
    staging::discard(&store.data_dir, &tree)?;
    fs::create_dir(&tree).at(Intent::Create, &tree)?;
    let mut extractor = Extractor::new(&tree)?;
    let mut found = false;
    let file = File::open(deb).at(Intent::Read, deb)?;
    let walked = walk_deb(file, MAX_PACKAGE, |entry| {
        let name = entry.path.as_path().to_string_lossy().into_owned();
        if entry.kind != EntryKind::File || !name.starts_with("usr/src/") || !name.contains(".tar") {
            return Ok(Visit::Continue);
        }
        let tar = Compression::of_name(&name).reader(entry, MAX_SOURCE).map_err(crate::deb::DebError::Read)?;
        walk_tar(tar, |entry| {
            store.cancel.check()?;
            extractor.write(entry).map(|()| Visit::Continue)
        })?;
        found = true;
        Ok::<_, WalkError>(Visit::Stop)
    });
    walked.map_err(|error| error.of_package(deb))?;
    extractor.finish()?;
    let lacks = |what: &str| ImageError::PackageLacks { path: deb.to_owned(), what: what.into() };
    if !found {
        return Err(lacks("kernel source (usr/src/*.tar.*)"));
    }
    top_level(&tree)?.ok_or_else(|| lacks("kernel source in one directory with a Kbuild file"))
}

/// The one directory that an earlier [`unpack`] finished, if it did.
pub(super) fn top_level(tree: &Path) -> Result<Option<PathBuf>, ImageError> {
    let entries = crate::entries::list(tree)?;
    Ok(entries.into_iter().map(|(_, path)| path).find(|path| path.join("Kbuild").is_file()))
}

/// linux-source-6.12 has 150 MB, unpacked 1.7 GB.
const MAX_PACKAGE: u64 = 2 << 30;
const MAX_SOURCE: u64 = 8 << 30;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data_dir::DataDir;
    use crate::testing::{TarBuilder, compress, deb};

    #[test]
    fn the_archive_in_the_package_is_unpacked() {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::new(DataDir::at(dir.path().join("data")).unwrap());
        let source =
            TarBuilder::default().file("linux-6/Kbuild", b"obj").file("linux-6/kernel/fork.c", b"int x;").build();
        let write = |tar: TarBuilder| {
            let path = dir.path().join("source.deb");
            fs::write(&path, deb(&tar.build(), ".xz")).unwrap();
            path
        };
        let good = write(TarBuilder::default().file("./usr/src/linux-source-6.tar.xz", &compress(&source, ".xz")));
        for _ in 0..2 {
            let tree = unpack(&store, &good, dir.path()).unwrap();
            assert_eq!(fs::read_to_string(tree.join("kernel/fork.c")).unwrap(), "int x;");
        }
        let without = write(TarBuilder::default().file("./usr/share/doc/x", b""));
        assert!(matches!(unpack(&store, &without, dir.path()), Err(ImageError::PackageLacks { .. })));
        let cut = &compress(&source, ".xz")[..100];
        let truncated = write(TarBuilder::default().file("./usr/src/linux-source-6.tar.xz", cut));
        assert!(matches!(unpack(&store, &truncated, dir.path()), Err(ImageError::BadPackage { .. })));
    }
}
