//! Writing an archive's files beneath a directory, whatever the archive says.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, mkdirat, openat, symlinkat, unlinkat};
use rustix::io::Errno;

use super::WalkError;
use super::tarball::{ArchivePath, EntryKind, TarEntry};
use crate::error::{ImageError, Intent, IoContext};

/// Writes entries beneath one directory.
///
/// Every directory on the way is opened one by one without following links, and symbolic links are made last, in
/// [`finish`](Self::finish). So no order of entries makes a write leave the directory. A link whose target could lead
/// out of the directory is not made.
pub(crate) struct Extractor {
    root: OwnedFd,
    path: PathBuf,
    /// The directory of the last file; archives keep a directory's files together.
    last: Option<(PathBuf, OwnedFd)>,
    symlinks: Vec<(ArchivePath, PathBuf)>,
}

impl Extractor {
    /// Writes into the directory at `path`, which must be there.
    pub(crate) fn new(path: &Path) -> Result<Self, ImageError> {
        let root = openat(CWD, path, DIRECTORY, Mode::empty()).at(Intent::Read, path)?;
        Ok(Self { root, path: path.to_owned(), last: None, symlinks: Vec::new() })
    }

    /// Writes `entry` at its own path. A second entry of the same path replaces the first.
    pub(crate) fn write(&mut self, mut entry: TarEntry<'_>) -> Result<(), WalkError> {
        let path = entry.path.clone();
        let full = self.path.join(path.as_path());
        match entry.kind.clone() {
            EntryKind::Directory => drop(self.directory(path.as_path()).at(Intent::Create, &full)?),
            EntryKind::File => {
                let mut file = self.create(&path).at(Intent::Create, &full)?;
                entry.copy_to(&mut file, &full)?;
                let mode = if entry.mode & 0o100 == 0 { 0o644 } else { 0o755 };
                file.set_permissions(std::fs::Permissions::from_mode(mode)).at(Intent::Write, &full)?;
            }
            EntryKind::HardLink(target) => self.hard_link(&path, &target).at(Intent::Create, &full)?,
            EntryKind::Symlink(target) => self.symlinks.push((path, target)),
            EntryKind::Other => {
                tracing::debug!(path = %full.display(), "left out: neither a file, a directory nor a link");
            }
        }
        Ok(())
    }

    /// Makes the symbolic links.
    pub(crate) fn finish(mut self) -> Result<(), ImageError> {
        for (path, target) in std::mem::take(&mut self.symlinks) {
            let full = self.path.join(path.as_path());
            if !stays_inside(path.as_path(), &target) {
                tracing::warn!(path = %full.display(), "left out: it leads out of the archive");
                continue;
            }
            let make = |this: &mut Self| {
                let (parent, name) = this.parent(path.as_path())?;
                remove_file(parent, name)?;
                symlinkat(&target, parent, name)
            };
            make(&mut self).at(Intent::Create, &full)?;
        }
        Ok(())
    }

    fn create(&mut self, path: &ArchivePath) -> Result<File, Errno> {
        let (parent, name) = self.parent(path.as_path())?;
        // Never write into what is there: it may be a hard link to something else.
        remove_file(parent, name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(parent, name, flags, Mode::from_raw_mode(0o644)).map(File::from)
    }

    fn hard_link(&mut self, path: &ArchivePath, target: &ArchivePath) -> Result<(), Errno> {
        let (source_dir, source) = self.parent(target.as_path())?;
        let source_dir = source_dir.try_clone().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        let (parent, name) = self.parent(path.as_path())?;
        remove_file(parent, name)?;
        linkat(source_dir, source, parent, name, AtFlags::empty())
    }

    /// The open directory that `path` lies in, made if need be, and the last part of `path`.
    fn parent<'a>(&mut self, path: &'a Path) -> Result<(&OwnedFd, &'a std::ffi::OsStr), Errno> {
        let name = path.file_name().ok_or(Errno::INVAL)?;
        let dir = path.parent().unwrap_or(Path::new(""));
        if self.last.as_ref().is_none_or(|(last, _)| last != dir) {
            self.last = Some((dir.to_owned(), self.directory(dir)?));
        }
        let (_, dir) = self.last.as_ref().ok_or(Errno::INVAL)?;
        Ok((dir, name))
    }

    /// Opens the directory at `path`, making what is missing on the way.
    fn directory(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let mut dir = openat(&self.root, ".", DIRECTORY, Mode::empty())?;
        for part in path.components() {
            let Component::Normal(part) = part else { return Err(Errno::INVAL) };
            dir = match openat(&dir, part, DIRECTORY, Mode::empty()) {
                Err(Errno::NOENT) => {
                    mkdirat(&dir, part, Mode::from_raw_mode(0o755))?;
                    openat(&dir, part, DIRECTORY, Mode::empty())?
                }
                other => other?,
            };
        }
        Ok(dir)
    }
}

/// Whether a link at `path` with `target` leads to a place beneath the root.
///
/// `..` is allowed only at the start of the target, and no further up than the root. The directories that `path` lies
/// in are real ones, so that start leads to a real directory; from there it only goes down, through directories and
/// through links for which the same holds. Links to absolute paths are not made: in a source tree they can only lead
/// astray.
fn stays_inside(path: &Path, target: &Path) -> bool {
    let depth = path.components().count().saturating_sub(1);
    let up = target.components().take_while(|part| *part == Component::ParentDir).count();
    let down = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    up <= depth && target.components().skip(up).all(down)
}

fn remove_file(dir: &OwnedFd, name: &std::ffi::OsStr) -> Result<(), Errno> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Never through a link.
const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

#[cfg(test)]
mod tests {
    use std::fs;

    use tar::EntryType;

    use super::*;
    use crate::deb::{Visit, walk_tar};
    use crate::testing::TarBuilder;

    /// Unpacks into `<dir>/in`, beside a directory `<dir>/out` that nothing may touch.
    fn unpack(tar: &[u8]) -> (tempfile::TempDir, Result<(), String>) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("in")).unwrap();
        fs::create_dir(dir.path().join("out")).unwrap();
        fs::write(dir.path().join("out/precious"), "kept").unwrap();
        let mut extractor = Extractor::new(&dir.path().join("in")).unwrap();
        let walked = walk_tar(tar, |entry| extractor.write(entry).map(|()| Visit::Continue));
        let result =
            walked.map_err(|error| format!("{error:?}")).and_then(|()| extractor.finish().map_err(|e| e.to_string()));
        assert_eq!(fs::read_to_string(dir.path().join("out/precious")).unwrap(), "kept");
        assert_eq!(fs::read_dir(dir.path().join("out")).unwrap().count(), 1);
        (dir, result)
    }

    #[test]
    fn files_directories_and_links_come_out() {
        let tar = TarBuilder::default()
            .directory("d/")
            .file("d/f", b"one")
            .mode(0o4755)
            .file("d/tool", b"#!/bin/sh\n")
            .link(EntryType::Link, "e/hard", "d/f")
            .link(EntryType::Symlink, "e/deep/soft", "../../d/f")
            .file("d/f", b"two")
            .build();
        let (dir, result) = unpack(&tar);
        result.unwrap();
        let inside = dir.path().join("in");
        assert_eq!(fs::read_to_string(inside.join("d/f")).unwrap(), "two");
        assert_eq!(
            fs::read_to_string(inside.join("e/hard")).unwrap(),
            "one",
            "replacing a file leaves its other names alone"
        );
        assert_eq!(fs::read_to_string(inside.join("e/deep/soft")).unwrap(), "two");
        let mode = |name| fs::metadata(inside.join(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("d/tool"), mode("d/f")), (0o755, 0o644), "no set-uid bit survives");
    }

    #[test]
    fn no_link_makes_a_later_write_leave_the_directory() {
        for target in ["../out", "/", "../../../../../../tmp"] {
            let tar = TarBuilder::default()
                .link(EntryType::Symlink, "way", target)
                .file("way/precious", b"overwritten")
                .build();
            let (dir, _) = unpack(&tar);
            assert!(!dir.path().join("in/way").is_symlink(), "{target}");
        }
        // Two links that are harmless alone and lead out together: the second is made through a real directory only.
        let tar = TarBuilder::default()
            .link(EntryType::Symlink, "a/b/c", "..")
            .link(EntryType::Symlink, "a/b/c/d", "../../../out")
            .build();
        let (_dir, result) = unpack(&tar);
        assert!(result.is_err(), "a link cannot also be a directory");
    }

    #[test]
    fn links_to_what_lies_outside_are_left_out() {
        let inside = [("a", "b"), ("a/b", "../c"), ("a/b/c", "../../d/e")];
        let outside =
            [("a", ".."), ("a", "/etc"), ("a/b", "../../x"), ("a/b", "c/../../../x"), ("a", "link-to-root/..")];
        for (path, target) in inside {
            assert!(stays_inside(Path::new(path), Path::new(target)), "{path} {target}");
        }
        for (path, target) in outside {
            assert!(!stays_inside(Path::new(path), Path::new(target)), "{path} {target}");
        }
    }

    #[test]
    fn a_file_where_a_directory_is_needed_is_an_error() {
        let (_dir, result) = unpack(&TarBuilder::default().file("a", b"").file("a/b", b"").build());
        assert!(result.is_err());
        let (_dir, result) = unpack(&TarBuilder::default().directory("a/").file("a", b"").build());
        assert!(result.is_err());
    }
}
