//! Writing cpio archives in the `newc` format, the one the kernel unpacks into its first root.
//!
//! The same tree always gives the same bytes: entries in the order of their names, numbered one after another, owned
//! by root, dated 0, with nothing of the machine that wrote them.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use super::tree::{Contents, Node, Tree};
use crate::digest::{self, Hashing, Sha256};

/// Why an archive could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CpioError {
    /// The archive's file could not be written.
    #[error("cannot write the archive")]
    Write(#[source] io::Error),
    /// A file that belongs into it could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's own words.
        source: io::Error,
    },
    /// A file was changed while it was being read.
    #[error("{path} changed while it was being read; try again")]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// A file is larger than the format can say.
    #[error("/{path} has {size} bytes; a file in an initramfs can have 4 GiB at most")]
    TooLarge {
        /// Its path in the guest.
        path: String,
        /// Its size.
        size: u64,
    },
    /// Two things were to be put at one path, or one beneath a file.
    #[error("/{path} is there twice, or lies beneath something that is no directory")]
    Conflict {
        /// The path in the guest.
        path: String,
    },
}

/// Writes `tree` as a cpio archive.
pub(crate) fn write(tree: &Tree, out: &mut impl Write) -> Result<(), CpioError> {
    let mut out = Padded { out, written: 0 };
    for (number, (path, node)) in tree.iter().enumerate() {
        let number = u32::try_from(number + 1).unwrap_or(u32::MAX);
        match node {
            Node::Directory { mode } => {
                out.header(number, path, Header { mode: S_IFDIR | mode, links: 2, ..Header::EMPTY })?;
            }
            Node::Symlink { target } => {
                let size = target.len() as u64;
                out.header(number, path, Header { mode: S_IFLNK | 0o777, size, ..Header::EMPTY })?;
                out.write(target.as_bytes())?;
            }
            Node::CharDevice { mode, major, minor } => {
                let device = (*major, *minor);
                out.header(number, path, Header { mode: S_IFCHR | mode, device, ..Header::EMPTY })?;
            }
            Node::File { mode, contents } => {
                let size = contents.size();
                out.header(number, path, Header { mode: S_IFREG | mode, size, ..Header::EMPTY })?;
                out.contents(contents)?;
            }
        }
        out.pad(4)?;
    }
    out.header(0, TRAILER, Header::EMPTY)?;
    out.pad(512)
}

/// The parts of an entry's header that differ.
#[derive(Clone, Copy)]
struct Header {
    mode: u32,
    links: u32,
    size: u64,
    device: (u32, u32),
}

impl Header {
    const EMPTY: Self = Self { mode: 0, links: 1, size: 0, device: (0, 0) };
}

/// Counts what it writes, for the padding.
struct Padded<'a, W> {
    out: &'a mut W,
    written: u64,
}

impl<W: Write> Padded<'_, W> {
    fn header(&mut self, inode: u32, path: &str, header: Header) -> Result<(), CpioError> {
        let size =
            u32::try_from(header.size).map_err(|_| CpioError::TooLarge { path: path.into(), size: header.size })?;
        let name_size = u32::try_from(path.len() + 1).unwrap_or(u32::MAX);
        let (major, minor) = header.device;
        // magic, then: ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        let fields = [inode, header.mode, 0, 0, header.links, 0, size, 0, 0, major, minor, name_size, 0];
        let mut text = String::from("070701");
        for field in fields {
            let _ = write!(text, "{field:08x}");
        }
        self.write(text.as_bytes())?;
        self.write(path.as_bytes())?;
        self.write(&[0])?;
        self.pad(4)
    }

    fn contents(&mut self, contents: &Contents) -> Result<(), CpioError> {
        match contents {
            Contents::Bytes(bytes) => self.write(bytes),
            Contents::File { path, size, sha256 } => {
                let read = |source| CpioError::Read { path: path.clone(), source };
                let file = File::open(path).map_err(read)?;
                let mut hashing = Hashing::new(CountedWrite { out: self, failed: None });
                // Not one byte more than the header says, whatever the file has become.
                let copied = digest::copy(file.take(*size), &mut hashing);
                let (found, counted) = hashing.finish_with_inner();
                match (copied, counted.failed) {
                    (_, Some(error)) => Err(error),
                    (Err(error), None) => Err(read(error)),
                    (Ok(copied), None) if copied == *size && found == *sha256 => Ok(()),
                    (Ok(_), None) => Err(CpioError::Changed { path: path.clone() }),
                }
            }
        }
    }

    fn pad(&mut self, to: u64) -> Result<(), CpioError> {
        const ZEROS: [u8; 512] = [0; 512];
        let missing = self.written.next_multiple_of(to) - self.written;
        self.write(&ZEROS[..usize::try_from(missing).unwrap_or_default()])
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), CpioError> {
        self.out.write_all(bytes).map_err(CpioError::Write)?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}

/// A writer that keeps its error apart from the reader's.
struct CountedWrite<'a, 'b, W> {
    out: &'a mut Padded<'b, W>,
    failed: Option<CpioError>,
}

impl<W: Write> Write for CountedWrite<'_, '_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.out.write(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(error) => {
                self.failed = Some(error);
                Err(io::ErrorKind::Other.into())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Contents {
    fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { size, .. } => *size,
        }
    }

    /// The hash of the contents.
    pub(crate) fn sha256(&self) -> Sha256 {
        match self {
            Self::Bytes(bytes) => Sha256::of(bytes),
            Self::File { sha256, .. } => *sha256,
        }
    }
}

const TRAILER: &str = "TRAILER!!!";
const S_IFCHR: u32 = 0o020_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;

#[cfg(test)]
mod tests {
    use super::*;

    /// An entry as read back: path, mode, size of contents, contents, device.
    type Entry = (String, u32, Vec<u8>, (u32, u32));

    /// Reads what [`write`] wrote, checking every field that must be fixed.
    fn read(mut bytes: &[u8]) -> Vec<Entry> {
        assert_eq!(bytes.len() % 512, 0);
        let total = bytes.len();
        let mut entries = Vec::new();
        loop {
            let (header, rest) = bytes.split_at(110);
            assert_eq!(&header[..6], b"070701");
            let field = |n: usize| {
                u32::from_str_radix(std::str::from_utf8(&header[6 + 8 * n..14 + 8 * n]).unwrap(), 16).unwrap()
            };
            assert_eq!(
                [field(2), field(3), field(5), field(7), field(8), field(12)],
                [0; 6],
                "nothing of this machine"
            );
            let (name, rest) = rest.split_at(field(11) as usize);
            let name = String::from_utf8(name.strip_suffix(&[0]).unwrap().to_vec()).unwrap();
            let skip = |rest: &[u8], total: usize| (total - rest.len()).next_multiple_of(4) - (total - rest.len());
            let rest = &rest[skip(rest, total)..];
            if name == TRAILER {
                assert!(rest.iter().all(|byte| *byte == 0));
                return entries;
            }
            assert_eq!(field(0) as usize, entries.len() + 1);
            let (contents, rest) = rest.split_at(field(6) as usize);
            entries.push((name, field(1), contents.to_vec(), (field(9), field(10))));
            bytes = &rest[skip(rest, total)..];
        }
    }

    fn bytes_of(tree: &Tree) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(tree, &mut bytes).unwrap();
        bytes
    }

    fn sample() -> Tree {
        let mut tree = Tree::default();
        tree.file("init", 0o755, Contents::Bytes(b"#!".to_vec())).unwrap();
        tree.symlink("bin/gcs", "../init").unwrap();
        tree.device("dev/console", 0o600, 5, 1).unwrap();
        tree.directory("tmp", 0o1777).unwrap();
        tree
    }

    #[test]
    fn every_kind_of_entry_reads_back() {
        assert_eq!(
            read(&bytes_of(&sample())),
            [
                ("bin".into(), 0o040_755, vec![], (0, 0)),
                ("bin/gcs".into(), 0o120_777, b"../init".to_vec(), (0, 0)),
                ("dev".into(), 0o040_755, vec![], (0, 0)),
                ("dev/console".into(), 0o020_600, vec![], (5, 1)),
                ("init".into(), 0o100_755, b"#!".to_vec(), (0, 0)),
                ("tmp".into(), 0o041_777, vec![], (0, 0)),
            ]
        );
    }

    #[test]
    fn the_bytes_are_those_of_the_format() {
        let mut tree = Tree::default();
        tree.file("a", 0o644, Contents::Bytes(b"hello".to_vec())).unwrap();
        let golden = "07070100000001000081a4000000000000000000000001000000000000000500000000000000000000000000000000\
                      0000000200000000a\0hello\0\0\0\
                      0707010000000000000000000000000000000000000001000000000000000000000000000000000000000000000000\
                      0000000b00000000TRAILER!!!\0\0\0\0";
        let bytes = bytes_of(&tree);
        let shown = golden.as_bytes();
        assert_eq!(String::from_utf8_lossy(&bytes[..shown.len()]), golden);
        assert!(bytes[shown.len()..].iter().all(|byte| *byte == 0));
        assert_eq!(bytes.len(), 512);
    }

    #[test]
    fn a_file_that_changes_meanwhile_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        for (now, changed) in [("contents", false), ("Contents", true), ("content", true), ("contents+", false)] {
            std::fs::write(&path, now).unwrap();
            let mut tree = Tree::default();
            let contents = Contents::File { path: path.clone(), size: 8, sha256: Sha256::of(b"contents") };
            tree.file("f", 0o644, contents).unwrap();
            let result = write(&tree, &mut Vec::new());
            assert_eq!(matches!(result, Err(CpioError::Changed { .. })), changed, "{now}: {result:?}");
        }
        std::fs::remove_file(&path).unwrap();
        let mut tree = Tree::default();
        tree.file("f", 0o644, Contents::File { path, size: 8, sha256: Sha256::of(b"contents") }).unwrap();
        assert!(matches!(write(&tree, &mut Vec::new()), Err(CpioError::Read { .. })));
    }

    #[test]
    fn a_file_too_large_for_the_format_is_refused() {
        let mut tree = Tree::default();
        let contents = Contents::File { path: "/x".into(), size: 1 << 32, sha256: Sha256::of(b"") };
        tree.file("x", 0o644, contents).unwrap();
        assert!(matches!(write(&tree, &mut Vec::new()), Err(CpioError::TooLarge { size: 0x1_0000_0000, .. })));
    }

    #[test]
    fn a_full_disk_is_the_writers_fault_not_the_readers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, [1; 1000]).unwrap();
        let mut tree = Tree::default();
        tree.file("f", 0o644, Contents::File { path, size: 1000, sha256: Sha256::of(&[1; 1000]) }).unwrap();
        let mut small = [0; 600];
        assert!(matches!(write(&tree, &mut &mut small[..]), Err(CpioError::Write(_))));
    }
}
