//! Debian packages, unpacked without dpkg and without being trusted.

mod ar;
mod extract;
mod tarball;

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use crate::compression::{Compression, Limited};
use crate::error::{ImageError, Intent, IoContext};

pub(crate) use extract::Extractor;
pub use tarball::{ArchivePath, EntryKind, TarEntry, Visit, walk_tar};

/// Why a package cannot be unpacked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DebError {
    /// It is no `ar` archive.
    #[error("it is no Debian package: the archive's magic number is missing")]
    NoArchive,
    /// The header of an archive member is damaged.
    #[error("the header of an archive member is damaged")]
    BadMember,
    /// It has another format version than 2, or none.
    #[error("it is no Debian package of format 2")]
    WrongFormat,
    /// There are no files in it.
    #[error("the package holds no data.tar")]
    NoData,
    /// The files in it are compressed in a way not supported.
    #[error("the package's {member} is compressed in a way not supported (only gz, xz and zst are)")]
    UnsupportedCompression {
        /// The archive member.
        member: String,
    },
    /// A path leads out of the archive.
    #[error("the archive holds the path {path:?}, which leads out of it")]
    UnsafePath {
        /// The path.
        path: String,
    },
    /// An entry is damaged or of a kind that no package has.
    #[error("the archive holds {0}")]
    BadEntry(&'static str),
    /// There are too many entries.
    #[error("the archive holds more than {limit} entries")]
    TooManyEntries {
        /// The most allowed.
        limit: usize,
    },
    /// It could not be read: cut short, damaged compression, or larger than allowed.
    #[error("cannot read the archive")]
    Read(#[from] io::Error),
}

/// What can end a walk through a package: the package, or what the visitor does with it.
#[derive(Debug)]
pub(crate) enum WalkError {
    Package(DebError),
    Visitor(ImageError),
}

impl WalkError {
    /// The whole error, now that the package's path is known.
    pub(crate) fn of_package(self, path: &Path) -> ImageError {
        match self {
            Self::Package(source) => ImageError::BadPackage { path: path.to_owned(), source },
            Self::Visitor(error) => error,
        }
    }
}

impl From<DebError> for WalkError {
    fn from(error: DebError) -> Self {
        Self::Package(error)
    }
}

impl From<ImageError> for WalkError {
    fn from(error: ImageError) -> Self {
        Self::Visitor(error)
    }
}

impl TarEntry<'_> {
    /// Copies the entry's contents into `file`, which is at `path`. What cannot be read is the package's fault, what
    /// cannot be written is not.
    pub(crate) fn copy_to(&mut self, file: &mut File, path: &Path) -> Result<(), WalkError> {
        let mut buffer = vec![0; 128 * 1024];
        loop {
            match self.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    file.write_all(&buffer[..count]).at(Intent::Write, path)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(DebError::Read(error).into()),
            }
        }
    }

    /// The entry's contents, in memory; more than `limit` bytes are refused.
    pub(crate) fn read_all(&mut self, limit: u64) -> Result<Vec<u8>, WalkError> {
        if self.size > limit {
            return Err(DebError::BadEntry("a file larger than any of its kind").into());
        }
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes).map_err(DebError::Read)?;
        Ok(bytes)
    }
}

/// Calls `visit` for each file in the Debian package that `reader` yields. Unpacked, it may have `limit` bytes.
pub fn walk_deb<E: From<DebError>>(
    reader: impl Read,
    limit: u64,
    visit: impl FnMut(TarEntry<'_>) -> Result<Visit, E>,
) -> Result<(), E> {
    walk_tar(open_data(reader, limit)?, visit)
}

/// The package's `data.tar`, uncompressed.
fn open_data<'a>(reader: impl Read + 'a, limit: u64) -> Result<Limited<Box<dyn Read + 'a>>, DebError> {
    let mut archive = ar::ArReader::new(reader)?;
    let mut first = true;
    while let Some(member) = archive.next_member()? {
        if first && member.name != "debian-binary" {
            return Err(DebError::WrongFormat);
        }
        first = false;
        let Some(suffix) = member.name.strip_prefix("data.tar") else {
            archive.skip(&member)?;
            continue;
        };
        if !matches!(suffix, "" | ".gz" | ".xz" | ".zst") {
            return Err(DebError::UnsupportedCompression { member: member.name });
        }
        let compression = Compression::of_name(&member.name);
        return Ok(compression.reader(archive.contents(&member), limit)?);
    }
    Err(if first { DebError::WrongFormat } else { DebError::NoData })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TarBuilder, ar, deb};

    fn names(bytes: &[u8], limit: u64) -> Result<Vec<String>, DebError> {
        let mut names = Vec::new();
        walk_deb(bytes, limit, |entry| {
            names.push(entry.path.as_path().display().to_string());
            Ok::<_, DebError>(Visit::Continue)
        })?;
        Ok(names)
    }

    #[test]
    fn packages_are_read_whatever_their_compression() {
        let tar = TarBuilder::default().file("./a", b"1").file("./b", b"2").build();
        for suffix in ["", ".gz", ".xz", ".zst"] {
            assert_eq!(names(&deb(&tar, suffix), 1 << 20).unwrap(), ["a", "b"], "{suffix}");
        }
    }

    #[test]
    fn what_is_no_package_is_refused() {
        assert!(matches!(names(b"", 9), Err(DebError::NoArchive)));
        assert!(matches!(names(b"!<arch>\n", 9), Err(DebError::WrongFormat)));
        assert!(matches!(names(&ar(&[("data.tar", b"")]), 9), Err(DebError::WrongFormat)));
        assert!(matches!(names(&ar(&[("debian-binary", b"2.0\n"), ("x", b"")]), 9), Err(DebError::NoData)));
        let lzma = names(&ar(&[("debian-binary", b"2.0\n"), ("data.tar.lzma", b"")]), 9);
        assert!(matches!(lzma, Err(DebError::UnsupportedCompression { member }) if member == "data.tar.lzma"));
    }

    #[test]
    fn a_bomb_ends_at_the_limit() {
        let tar = TarBuilder::default().file("zeros", &vec![0; 3 << 20]).build();
        let bomb = deb(&tar, ".xz");
        assert!(bomb.len() < 20_000, "it is a bomb: {}", bomb.len());
        let error = names(&bomb, 1 << 20).unwrap_err();
        assert!(matches!(error, DebError::Read(_)), "{error}");
    }

    #[test]
    fn members_that_claim_more_than_there_is_are_an_error() {
        for (number, member) in ["debian-binary", "control.tar", "data.tar"].into_iter().enumerate() {
            let mut bytes = ar(&[("debian-binary", b"2.0\n"), ("control.tar", b"x"), ("data.tar", &[0; 1024])]);
            let header = bytes.windows(member.len()).position(|window| window == member.as_bytes()).unwrap();
            bytes[header + 48..header + 58].copy_from_slice(b"9999999999");
            let result = names(&bytes, 1 << 20);
            // An archive that begins with its end needs no more bytes.
            assert_eq!(result.is_ok(), number == 2, "{member}: {result:?}");
        }
    }

    #[test]
    fn cut_anywhere_it_is_an_error() {
        let bytes = deb(&TarBuilder::default().file("./a", &[b'x'; 700]).build(), ".xz");
        for cut in 0..bytes.len() - 1 {
            names(&bytes[..cut], 1 << 20).expect_err("cut short");
        }
    }
}
