//! Directories whose files are never changed again, and how damage to them is noticed.
//!
//! A sealed directory holds files and one description (`manifest.json`, `kernel.json`, ...) that records the size and
//! SHA-256 of each of them, and of itself. Sealing a file syncs it, makes it read-only, and sets its modification
//! time to one second after the epoch, which no later write keeps.
//!
//! Checking every hash reads everything, tens of megabytes for boot files. So there are two depths:
//!
//! - Quick, on each use: every file is there, is a regular file, has its size and the sealed modification time.
//!   A file with another time was written to, or was copied here: only then is it hashed. This costs microseconds and
//!   misses what changes bytes behind the file system's back.
//! - Full, before anything is built from the files, and on request (`uvm image verify`, `uvm doctor`): every
//!   hash is compared.
//!
//! The description carries its own hash, so that it is always checked in full.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::digest::Sha256;
use crate::error::{ImageError, Intent, IoContext};

/// What is known of one sealed file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// Its size in bytes.
    pub size: u64,
    /// Its hash.
    pub sha256: Sha256,
}

/// Files by name. Names are relative, with `/` between parts.
pub type FileRecords = BTreeMap<String, FileRecord>;

/// How closely sealed files are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    Quick,
    Full,
}

/// What is wrong with a sealed directory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Damage {
    /// The description cannot be read: cut short, not JSON, unknown fields, or of another format version.
    Description {
        /// Its file name.
        file: String,
        /// What is wrong.
        why: String,
    },
    /// The description was changed: its own hash does not fit.
    Seal {
        /// Its file name.
        file: String,
    },
    /// A file is missing.
    Missing {
        /// Its name.
        file: String,
    },
    /// A file is no regular file, or cannot be read.
    Unreadable {
        /// Its name.
        file: String,
        /// Why.
        why: String,
    },
    /// A file has another size.
    Size {
        /// Its name.
        file: String,
        /// The size on record.
        expected: u64,
        /// The size it has.
        found: u64,
    },
    /// A file has other bytes.
    Hash {
        /// Its name.
        file: String,
        /// The hash on record.
        expected: Sha256,
        /// The hash it has.
        found: Sha256,
    },
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Description { file, why } => write!(f, "{file} cannot be used: {why}"),
            Self::Seal { file } => write!(f, "{file} was changed: its own hash does not fit"),
            Self::Missing { file } => write!(f, "{file} is missing"),
            Self::Unreadable { file, why } => write!(f, "{file} cannot be read: {why}"),
            Self::Size { file, expected, found } => write!(f, "{file} has {found} bytes instead of {expected}"),
            Self::Hash { file, expected, found } => write!(f, "{file} has SHA-256 {found} instead of {expected}"),
        }
    }
}

/// A type that describes a sealed directory.
pub(crate) trait Description: Serialize + DeserializeOwned {
    /// The description's file name.
    const FILE: &'static str;

    /// The version of this description's format; any other is not understood.
    const FORMAT: u32;

    /// The format version this value was written with.
    fn format(&self) -> u32;

    /// The files it describes.
    fn files(&self) -> &FileRecords;

    /// Where its own hash is kept; `None` if it was written by hand and carries none.
    fn seal(&mut self) -> &mut Option<Sha256>;
}

/// Writes a description into `dir`, whose files have been sealed by [`seal_file`].
pub(crate) fn write_description<D: Description>(dir: &Path, description: &mut D) -> Result<(), ImageError> {
    *description.seal() = None;
    let seal = own_hash(description);
    *description.seal() = Some(seal);
    let mut text = serde_json::to_string_pretty(description).expect("a description has string keys only");
    text.push('\n');
    let path = dir.join(D::FILE);
    create_new(&path)?.write_all(text.as_bytes()).at(Intent::Write, &path)?;
    seal_file(&path).map(drop)
}

/// Reads the description in `dir`. `None` if there is none; an error only if the system refuses to read it.
pub(crate) fn read_description<D: Description>(dir: &Path) -> Result<Option<Result<D, Damage>>, ImageError> {
    let path = dir.join(D::FILE);
    match File::open(&path) {
        Ok(file) => Ok(Some(parse_description(&file))),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(ImageError::io(Intent::Read, path, error)),
    }
}

/// Reads a description from its open file.
pub(crate) fn parse_description<D: Description>(file: &File) -> Result<D, Damage> {
    let damage = |why: String| Damage::Description { file: D::FILE.into(), why };
    let mut text = Vec::new();
    file.take(MAX_DESCRIPTION).read_to_end(&mut text).map_err(|error| damage(error.to_string()))?;
    // The version first: another version may have other fields.
    let version: FormatOnly = serde_json::from_slice(&text).map_err(|error| damage(error.to_string()))?;
    if version.format != D::FORMAT {
        return Err(damage(format!("it has format {}, this program knows {}", version.format, D::FORMAT)));
    }
    let mut description: D = serde_json::from_slice(&text).map_err(|error| damage(error.to_string()))?;
    debug_assert_eq!(description.format(), D::FORMAT);
    if let Some(seal) = description.seal().take() {
        if own_hash(&description) != seal {
            return Err(Damage::Seal { file: D::FILE.into() });
        }
        *description.seal() = Some(seal);
    }
    match description.files().keys().find(|name| !is_plain_relative(name)) {
        Some(name) => Err(damage(format!("it names the file {name:?} outside of its directory"))),
        None => Ok(description),
    }
}

/// Compares the files in `dir` with their records. The first damage found is returned.
pub(crate) fn check_files(dir: &Path, files: &FileRecords, depth: Depth) -> Result<(), Damage> {
    files.iter().try_for_each(|(name, record)| check_file(&dir.join(name), name, record, depth))
}

/// Seals the finished file at `path` and returns its record.
pub(crate) fn seal_file(path: &Path) -> Result<FileRecord, ImageError> {
    let file = File::open(path).at(Intent::Read, path)?;
    let (sha256, size) = Sha256::of_reader(&file).at(Intent::Read, path)?;
    file.set_permissions(fs::Permissions::from_mode(SEALED_MODE)).at(Intent::Write, path)?;
    file.set_modified(sealed_mtime()).at(Intent::Write, path)?;
    file.sync_all().at(Intent::Write, path)?;
    Ok(FileRecord { size, sha256 })
}

/// Creates a file that must not be there yet.
pub(crate) fn create_new(path: &Path) -> Result<File, ImageError> {
    OpenOptions::new().write(true).create_new(true).mode(0o644).open(path).at(Intent::Create, path)
}

/// Gives `to` the sealed file `from`: the same file by a second name where the file system can, else a sealed copy.
pub(crate) fn link_or_copy(from: &Path, to: &Path) -> Result<(), ImageError> {
    if fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    let mut source = File::open(from).at(Intent::Read, from)?;
    let mut target = create_new(to)?;
    io::copy(&mut source, &mut target).at(Intent::Write, to)?;
    drop(target);
    seal_file(to).map(drop)
}

fn check_file(path: &Path, name: &str, record: &FileRecord, depth: Depth) -> Result<(), Damage> {
    let file = || name.to_owned();
    let unreadable = |error: io::Error| Damage::Unreadable { file: file(), why: error.to_string() };
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Damage::Missing { file: file() }),
        Err(error) => return Err(unreadable(error)),
    };
    if !metadata.is_file() {
        return Err(Damage::Unreadable { file: file(), why: "it is no regular file".into() });
    }
    if metadata.len() != record.size {
        return Err(Damage::Size { file: file(), expected: record.size, found: metadata.len() });
    }
    let untouched = metadata.mtime() == SEALED_MTIME && metadata.mtime_nsec() == 0;
    if untouched && depth == Depth::Quick {
        return Ok(());
    }
    let opened = File::open(path).map_err(unreadable)?;
    let (found, _) = Sha256::of_reader(&opened).map_err(unreadable)?;
    if found != record.sha256 {
        return Err(Damage::Hash { file: file(), expected: record.sha256, found });
    }
    if !untouched {
        // So that the next quick check is quick again. Not ours to change: then it stays slow, that is all.
        let _ = opened.set_modified(sealed_mtime());
    }
    Ok(())
}

/// The hash of a description whose seal is unset.
fn own_hash<D: Description>(description: &D) -> Sha256 {
    Sha256::of(&serde_json::to_vec(description).expect("a description has string keys only"))
}

/// Whether `name` stays in the directory it is joined to.
fn is_plain_relative(name: &str) -> bool {
    !name.is_empty() && !name.contains('\0') && name.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

fn sealed_mtime() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(SEALED_MTIME.unsigned_abs())
}

#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

/// The modification time of a sealed file, in seconds since the epoch.
const SEALED_MTIME: i64 = 1;

/// Mode of a sealed file. Everyone may read it: QEMU opens it as an unprivileged user, through a descriptor.
const SEALED_MODE: u32 = 0o444;

/// A description never comes near this size.
const MAX_DESCRIPTION: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        format: u32,
        note: String,
        files: FileRecords,
        #[serde(skip_serializing_if = "Option::is_none")]
        seal: Option<Sha256>,
    }

    impl Description for Sample {
        const FILE: &'static str = "sample.json";
        const FORMAT: u32 = 3;

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

    fn sealed() -> (tempfile::TempDir, Sample) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("data"), "some bytes").unwrap();
        let record = seal_file(&dir.path().join("data")).unwrap();
        let files = FileRecords::from([("data".to_owned(), record)]);
        let mut sample = Sample { format: 3, note: "n".into(), files, seal: None };
        write_description(dir.path(), &mut sample).unwrap();
        (dir, sample)
    }

    fn reread(dir: &Path) -> Result<Sample, Damage> {
        read_description(dir).unwrap().unwrap()
    }

    /// Replaces a sealed file's bytes, leaving size and times as they were if `quietly`.
    fn tamper(path: &Path, bytes: &[u8], quietly: bool) {
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(path, bytes).unwrap();
        if quietly {
            OpenOptions::new().write(true).open(path).unwrap().set_modified(sealed_mtime()).unwrap();
        }
    }

    #[test]
    fn what_was_sealed_checks_out_and_reads_back() {
        let (dir, sample) = sealed();
        assert_eq!(reread(dir.path()).unwrap(), sample);
        for depth in [Depth::Quick, Depth::Full] {
            check_files(dir.path(), &sample.files, depth).unwrap();
        }
        let mode = fs::metadata(dir.path().join("data")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o444);
    }

    #[test]
    fn a_write_is_noticed_at_once_and_silent_rot_by_the_full_check() {
        let (dir, sample) = sealed();
        let data = dir.path().join("data");
        tamper(&data, b"SOME bytes", true);
        check_files(dir.path(), &sample.files, Depth::Quick).expect("quick checks do not read");
        let full = check_files(dir.path(), &sample.files, Depth::Full).unwrap_err();
        assert!(matches!(full, Damage::Hash { .. }), "{full}");
        tamper(&data, b"SOME bytes", false);
        assert_eq!(check_files(dir.path(), &sample.files, Depth::Quick), Err(full));
        tamper(&data, b"SOME byte", true);
        let size = Damage::Size { file: "data".into(), expected: 10, found: 9 };
        assert_eq!(check_files(dir.path(), &sample.files, Depth::Quick), Err(size));
        fs::remove_file(&data).unwrap();
        let missing = Damage::Missing { file: "data".into() };
        assert_eq!(check_files(dir.path(), &sample.files, Depth::Quick), Err(missing));
        fs::create_dir(&data).unwrap();
        assert!(matches!(check_files(dir.path(), &sample.files, Depth::Quick), Err(Damage::Unreadable { .. })));
    }

    #[test]
    fn a_copied_file_is_hashed_once() {
        let (dir, sample) = sealed();
        tamper(&dir.path().join("data"), b"some bytes", false);
        check_files(dir.path(), &sample.files, Depth::Quick).unwrap();
        assert_eq!(fs::metadata(dir.path().join("data")).unwrap().mtime(), SEALED_MTIME);
    }

    #[test]
    fn every_byte_of_a_description_counts() {
        let (dir, sample) = sealed();
        let path = dir.path().join(Sample::FILE);
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut cut = good.clone();
            cut.truncate(at);
            tamper(&path, &cut, true);
            // Only the final newline is no loss.
            assert_eq!(reread(dir.path()).ok(), (at + 1 == good.len()).then(|| sample.clone()), "cut at {at}");
            let mut flipped = good.clone();
            flipped[at] ^= 1;
            tamper(&path, &flipped, true);
            if let Ok(same) = reread(dir.path()) {
                assert_eq!(same, sample, "flipped at {at}");
            }
        }
    }

    #[test]
    fn descriptions_of_other_versions_and_hostile_names_are_refused() {
        let (dir, sample) = sealed();
        let path = dir.path().join(Sample::FILE);
        tamper(&path, br#"{"format":4,"else":1}"#, true);
        assert!(reread(dir.path()).unwrap_err().to_string().contains("format 4, this program knows 3"));
        for name in ["../x", "/etc/passwd", "a//b", "", ".", "a/../../b"] {
            let mut hostile = Sample { seal: None, ..sample.clone() };
            hostile.files = FileRecords::from([(name.to_owned(), FileRecord { size: 0, sha256: Sha256::of(b"") })]);
            tamper(&path, &serde_json::to_vec(&hostile).unwrap(), true);
            assert!(reread(dir.path()).unwrap_err().to_string().contains("outside"), "{name}");
        }
        assert_eq!(read_description::<Sample>(&dir.path().join("none")).unwrap(), None);
    }
}
