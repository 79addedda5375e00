//! Walking a tar archive whose author is not trusted.
//!
//! The `tar` crate finds the entries. What it would read into memory without a bound (long names, pax headers), or
//! what it would believe (paths), is handled here.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use tar::EntryType;

use super::DebError;

/// One entry of an archive; its contents are read from it.
pub struct TarEntry<'a> {
    /// Where it goes.
    pub path: ArchivePath,
    /// What it is.
    pub kind: EntryKind,
    /// The size of its contents.
    pub size: u64,
    /// Its permission bits.
    pub mode: u32,
    contents: &'a mut dyn Read,
    left: u64,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link with this target, which may be anything.
    Symlink(PathBuf),
    /// Another name of an earlier entry.
    HardLink(ArchivePath),
    /// A device, a pipe, or something unknown.
    Other,
}

/// Whether to go on walking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visit {
    /// To the next entry.
    Continue,
    /// Not further: what was wanted is found.
    Stop,
}

/// A path in an archive that stays in the archive: relative, no `..`, no zero byte, not empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ArchivePath(PathBuf);

impl ArchivePath {
    /// Checks `bytes`; `.` parts and doubled slashes are dropped. `None` for the archive's root itself.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, DebError> {
        let path = Path::new(OsStr::from_bytes(bytes));
        let unsafe_path = || DebError::UnsafePath { path: path.to_string_lossy().into_owned() };
        if bytes.len() > MAX_PATH || bytes.contains(&0) {
            return Err(unsafe_path());
        }
        let mut clean = PathBuf::new();
        for part in path.components() {
            match part {
                Component::Normal(part) => clean.push(part),
                Component::CurDir => {}
                Component::ParentDir | Component::RootDir | Component::Prefix(_) => return Err(unsafe_path()),
            }
        }
        Ok((!clean.as_os_str().is_empty()).then_some(Self(clean)))
    }

    /// The path, relative to the archive's root.
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

impl Read for TarEntry<'_> {
    /// As any reader, but contents that end early are an error.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.contents.read(buffer)?;
        if count == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left = self.left.saturating_sub(count as u64);
        Ok(count)
    }
}

/// Calls `visit` for each entry of the archive that `reader` yields. Put a limit on `reader`: everything is read.
pub fn walk_tar<E: From<DebError>>(
    mut reader: impl Read,
    mut visit: impl FnMut(TarEntry<'_>) -> Result<Visit, E>,
) -> Result<(), E> {
    let mut archive = tar::Archive::new(&mut reader);
    let mut overrides = Overrides::default();
    let entries = archive.entries().map_err(DebError::from)?.raw(true);
    for (count, entry) in entries.enumerate() {
        let mut entry = entry.map_err(DebError::from)?;
        if count >= MAX_ENTRIES {
            return Err(DebError::TooManyEntries { limit: MAX_ENTRIES }.into());
        }
        let kind = entry.header().entry_type();
        let size = entry.size();
        match kind {
            EntryType::GNULongName => overrides.path = Some(long_text(&mut entry, size)?),
            EntryType::GNULongLink => overrides.link = Some(long_text(&mut entry, size)?),
            EntryType::XHeader => overrides.read_pax(&mut entry, size)?,
            EntryType::XGlobalHeader => {}
            EntryType::GNUSparse => return Err(DebError::BadEntry("a sparse file").into()),
            _ => {
                let overrides = std::mem::take(&mut overrides);
                if overrides.size.is_some_and(|stated| stated != size) {
                    return Err(DebError::BadEntry("two sizes").into());
                }
                let path = overrides.path.unwrap_or_else(|| entry.path_bytes().into_owned());
                let link = overrides.link.or_else(|| entry.link_name_bytes().map(std::borrow::Cow::into_owned));
                let Some(path) = ArchivePath::parse(&path)? else { continue };
                let mode = entry.header().mode().map_err(|_| DebError::BadEntry("no mode"))? & 0o7777;
                let kind = entry_kind(kind, link)?;
                let visited = visit(TarEntry { path, kind, size, mode, contents: &mut entry, left: size })?;
                if visited == Visit::Stop {
                    return Ok(());
                }
            }
        }
    }
    // What follows is padding. But only at its end does a compressed stream say whether all of it was right.
    io::copy(&mut reader, &mut io::sink()).map_err(DebError::from)?;
    Ok(())
}

fn entry_kind(kind: EntryType, link: Option<Vec<u8>>) -> Result<EntryKind, DebError> {
    let target = || link.filter(|link| !link.is_empty()).ok_or(DebError::BadEntry("a link without a target"));
    Ok(match kind {
        EntryType::Regular | EntryType::Continuous => EntryKind::File,
        EntryType::Directory => EntryKind::Directory,
        EntryType::Symlink => {
            let target = target()?;
            if target.len() > MAX_PATH || target.contains(&0) {
                return Err(DebError::BadEntry("an impossible link target"));
            }
            EntryKind::Symlink(PathBuf::from(OsStr::from_bytes(&target)))
        }
        EntryType::Link => {
            EntryKind::HardLink(ArchivePath::parse(&target()?)?.ok_or(DebError::BadEntry("a link to the root"))?)
        }
        _ => EntryKind::Other,
    })
}

/// What extension headers say of the entry that follows them.
#[derive(Default)]
struct Overrides {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Overrides {
    /// Reads pax records: `LENGTH KEY=VALUE\n`, the length counting all of it.
    fn read_pax(&mut self, entry: &mut impl Read, size: u64) -> Result<(), DebError> {
        let bad = || DebError::BadEntry("a damaged pax header");
        let bytes = small(entry, size, MAX_PAX)?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let space = rest.iter().take(8).position(|byte| *byte == b' ').ok_or_else(bad)?;
            let length: usize =
                std::str::from_utf8(&rest[..space]).ok().and_then(|text| text.parse().ok()).ok_or_else(bad)?;
            let record = rest.get(space + 1..length).and_then(|record| record.strip_suffix(b"\n")).ok_or_else(bad)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(bad)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => {
                    let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                    self.size = Some(size.ok_or_else(bad)?);
                }
                _ if key.starts_with(b"GNU.sparse") => return Err(DebError::BadEntry("a sparse file")),
                _ => {}
            }
            rest = &rest[length..];
        }
        Ok(())
    }
}

/// A GNU long name: text and a zero byte.
fn long_text(entry: &mut impl Read, size: u64) -> Result<Vec<u8>, DebError> {
    let mut text = small(entry, size, MAX_PATH as u64 + 1)?;
    if text.last() == Some(&0) {
        text.pop();
    }
    Ok(text)
}

fn small(entry: &mut impl Read, size: u64, limit: u64) -> Result<Vec<u8>, DebError> {
    if size > limit {
        return Err(DebError::BadEntry("an oversized extension header"));
    }
    let mut bytes = Vec::new();
    entry.take(limit).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == size { Ok(bytes) } else { Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()) }
}

/// The longest path, in bytes: Linux takes no longer ones.
const MAX_PATH: usize = 4095;
const MAX_PAX: u64 = 64 << 10;
/// The kernel source has 93,000 entries.
const MAX_ENTRIES: usize = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TarBuilder;

    fn walk(bytes: &[u8]) -> Result<Vec<(String, EntryKind, String)>, DebError> {
        let mut seen = Vec::new();
        walk_tar(bytes, |mut entry| {
            let mut text = String::new();
            entry.read_to_string(&mut text)?;
            seen.push((entry.path.as_path().to_str().unwrap().to_owned(), entry.kind.clone(), text));
            Ok::<_, DebError>(Visit::Continue)
        })?;
        Ok(seen)
    }

    #[test]
    fn entries_come_in_order_with_clean_paths() {
        let long = format!("{}/file", "d".repeat(150));
        let tar = TarBuilder::default()
            .directory("./")
            .directory("./boot/")
            .file("./boot//config", b"CONFIG_X=y\n")
            .file(&long, b"long")
            .link(EntryType::Symlink, "./sym", "../outside")
            .link(EntryType::Link, "hard", "./boot/config")
            .build();
        let hard = EntryKind::HardLink(ArchivePath(PathBuf::from("boot/config")));
        assert_eq!(
            walk(&tar).unwrap(),
            [
                ("boot".into(), EntryKind::Directory, String::new()),
                ("boot/config".into(), EntryKind::File, "CONFIG_X=y\n".into()),
                (long, EntryKind::File, "long".into()),
                ("sym".into(), EntryKind::Symlink("../outside".into()), String::new()),
                ("hard".into(), hard, String::new()),
            ]
        );
    }

    #[test]
    fn paths_that_leave_the_archive_are_refused() {
        for path in ["../x", "a/../../x", "/etc/passwd", "./../x", "a/.."] {
            let error = walk(&TarBuilder::default().raw_file(path, b"").build()).unwrap_err();
            assert!(matches!(error, DebError::UnsafePath { .. }), "{path}: {error}");
            let pax = TarBuilder::default().pax(&[("path", path)]).file("innocent", b"").build();
            assert!(matches!(walk(&pax), Err(DebError::UnsafePath { .. })), "{path} by pax");
            let long = TarBuilder::default().long_name(path).file("innocent", b"").build();
            assert!(matches!(walk(&long), Err(DebError::UnsafePath { .. })), "{path} by long name");
        }
        let link = TarBuilder::default().link(EntryType::Link, "hard", "../../etc/shadow").build();
        assert!(matches!(walk(&link), Err(DebError::UnsafePath { .. })));
    }

    #[test]
    fn extension_headers_are_bounded_and_must_agree() {
        let oversized = TarBuilder::default().long_name(&"a".repeat(5000)).file("x", b"").build();
        assert_eq!(walk(&oversized).unwrap_err().to_string(), "the archive holds an oversized extension header");
        let two_sizes = TarBuilder::default().pax(&[("size", "7")]).file("x", b"123").build();
        assert_eq!(walk(&two_sizes).unwrap_err().to_string(), "the archive holds two sizes");
        let sparse = TarBuilder::default().pax(&[("GNU.sparse.major", "1")]).file("x", b"123").build();
        assert!(matches!(walk(&sparse), Err(DebError::BadEntry(_))));
        let pax = TarBuilder::default().pax(&[("path", "new/name"), ("mtime", "1.5")]).file("old", b"123").build();
        assert_eq!(walk(&pax).unwrap()[0].0, "new/name");
    }

    #[test]
    fn a_size_that_cannot_be_is_an_error() {
        for size in [1 << 20, 1 << 40, u64::MAX / 2, u64::MAX - 511, u64::MAX] {
            for tar in [
                TarBuilder::default().claiming(size).file("x", b"small").build(),
                TarBuilder::default().claiming(size).long_name("x").file("y", b"").build(),
                TarBuilder::default().claiming(size).pax(&[("path", "x")]).file("y", b"").build(),
                TarBuilder::default().claiming(size).directory("d/").build(),
            ] {
                walk(&tar).expect_err("it claims too much");
            }
        }
    }

    #[test]
    fn contents_that_end_early_are_an_error() {
        let tar = TarBuilder::default().file("x", &[b'x'; 1000]).build();
        for cut in [512 + 1, 512 + 999] {
            assert!(matches!(walk(&tar[..cut]), Err(DebError::Read(_))), "cut at {cut}");
        }
    }
}
