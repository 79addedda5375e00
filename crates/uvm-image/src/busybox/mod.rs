//! The guest's tools: one static busybox with its many names.

mod applets;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::apt::Apt;
use crate::deb::{EntryKind, Visit, walk_deb};
use crate::digest::Sha256;
use crate::error::{ImageError, Intent, IoContext};
use crate::lock::BuildLock;
use crate::program::Program;
use crate::progress::Step;
use crate::sealed::{self, Depth, Description, FileRecord, FileRecords};
use crate::staging::{self, Staging};
use crate::store::ImageStore;

/// Which busybox goes into the initramfs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum BusyboxSource {
    /// The newest one unpacked already, else that of the distribution's package `busybox-static`, which is downloaded
    /// and unpacked, not installed.
    #[default]
    Distribution,
    /// This static executable.
    Path(PathBuf),
    /// None: the guest has the agent and nothing else.
    None,
}

/// A busybox in the data directory.
#[derive(Clone, Debug)]
pub(crate) struct Busybox {
    /// Name and version, for people.
    pub(crate) source: String,
    pub(crate) path: PathBuf,
    pub(crate) size: u64,
    pub(crate) sha256: Sha256,
    /// Its names in the guest, without leading slashes, sorted.
    pub(crate) links: Vec<String>,
}

impl Busybox {
    /// Finds it, or gets it.
    pub(crate) fn ensure(store: &ImageStore, source: &BusyboxSource) -> Result<Option<Self>, ImageError> {
        match source {
            BusyboxSource::None => Ok(None),
            BusyboxSource::Path(path) => Self::import(store, path).map(Some),
            BusyboxSource::Distribution => Self::of_distribution(store).map(Some),
        }
    }

    /// Compares its hash with the recorded one.
    pub(crate) fn verify(&self) -> Result<(), ImageError> {
        let files = FileRecords::from([(BINARY.to_owned(), FileRecord { size: self.size, sha256: self.sha256 })]);
        sealed::check_files(self.dir(), &files, Depth::Full)
            .map_err(|damage| ImageError::damaged(self.dir(), damage, "it is made anew when it is needed"))
    }

    /// Removes it if it is damaged, so that the next [`ensure`](Self::ensure) gets it anew.
    pub(crate) fn repair(&self, store: &ImageStore) -> Result<(), ImageError> {
        let _lock = BuildLock::acquire(store, LOCK, "the guest's busybox")?;
        match self.verify() {
            Ok(()) => Ok(()),
            Err(damaged) => {
                store.progress.note(damaged.to_string());
                staging::discard(&store.data_dir, self.dir())
            }
        }
    }

    fn dir(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    fn of_distribution(store: &ImageStore) -> Result<Self, ImageError> {
        if let Some(found) = newest_of_distribution(store)? {
            return Ok(found);
        }
        let _lock = BuildLock::acquire(store, LOCK, "the guest's busybox")?;
        if let Some(found) = newest_of_distribution(store)? {
            return Ok(found);
        }
        staging::sweep(&store.data_dir);
        let mut apt = Apt::new(store, PACKAGE, ALTERNATIVE)?;
        let (package, deb) = apt.with_fresh_lists_if_need_be(|apt| {
            let package = apt.package(PACKAGE)?;
            let deb = apt.download(&package)?;
            Ok((package, deb))
        })?;
        drop(apt);
        let staging = Staging::new(&store.data_dir, "busybox")?;
        let binary = staging.path().join(BINARY);
        store.progress.step(Step::Unpacking, package.to_string(), || unpack(&deb, &binary))?;
        let name = format!("{PREFIX}{}-{}", file_name_safe(&package.version), package.sha256.short(8));
        publish(store, staging, &name, package.to_string())
    }

    /// Takes a copy of a given binary, so that its names are looked up once.
    fn import(store: &ImageStore, path: &Path) -> Result<Self, ImageError> {
        let program = Program::read(path, "busybox")?;
        let name = format!("given-{}", program.sha256.short(16));
        let dir = store.data_dir.busybox().join(&name);
        if let Some(found) = open(&dir)? {
            return Ok(found);
        }
        let _lock = BuildLock::acquire(store, LOCK, "the guest's busybox")?;
        staging::sweep(&store.data_dir);
        let staging = Staging::new(&store.data_dir, "busybox")?;
        let binary = staging.path().join(BINARY);
        sealed::create_new(&binary)?.write_all(&program.bytes).at(Intent::Write, &binary)?;
        publish(store, staging, &name, path.display().to_string())
    }
}

/// The newest intact one that came from a package.
fn newest_of_distribution(store: &ImageStore) -> Result<Option<Busybox>, ImageError> {
    let dir = store.data_dir.busybox();
    let mut names: Vec<_> = match fs::read_dir(&dir) {
        Ok(entries) => entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ImageError::io(Intent::Read, dir, error)),
    };
    names.retain(|name| name.starts_with(PREFIX));
    names.sort_by(|a, b| crate::version::compare(b, a));
    for name in names {
        if let Some(found) = open(&dir.join(name))? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The busybox in `dir`, if it is intact.
fn open(dir: &Path) -> Result<Option<Busybox>, ImageError> {
    let Some(Ok(description)) = sealed::read_description::<BusyboxDescription>(dir)? else { return Ok(None) };
    let Some(record) = description.files.get(BINARY).cloned() else { return Ok(None) };
    if let Err(damage) = sealed::check_files(dir, &description.files, Depth::Quick) {
        tracing::warn!(dir = %dir.display(), %damage, "damaged; it will be made anew");
        return Ok(None);
    }
    let BusyboxDescription { source, links, .. } = description;
    Ok(Some(Busybox { source, path: dir.join(BINARY), size: record.size, sha256: record.sha256, links }))
}

/// Seals the binary in `staging` and moves it into place.
fn publish(store: &ImageStore, staging: Staging, name: &str, source: String) -> Result<Busybox, ImageError> {
    let binary = staging.path().join(BINARY);
    let program = Program::read(&binary, "busybox")?;
    let files = FileRecords::from([(BINARY.to_owned(), sealed::seal_file(&binary)?)]);
    let mut description = BusyboxDescription { format: 1, source, links: links(&program.bytes), files, seal: None };
    sealed::write_description(staging.path(), &mut description)?;
    let dir = store.data_dir.busybox().join(name);
    staging.publish(&store.data_dir, &dir)?;
    let damage = sealed::Damage::Missing { file: BINARY.into() };
    open(&dir)?.ok_or_else(|| ImageError::damaged(dir, damage, "try again"))
}

/// Takes the binary out of the package.
fn unpack(deb: &Path, binary: &Path) -> Result<(), ImageError> {
    let file = fs::File::open(deb).at(Intent::Read, deb)?;
    let mut found = false;
    let walked = walk_deb(file, MAX_UNPACKED, |mut entry| {
        let wanted = ["bin/busybox", "usr/bin/busybox"].iter().any(|path| entry.path.as_path() == Path::new(path));
        if entry.kind != EntryKind::File || !wanted {
            return Ok(Visit::Continue);
        }
        let mut out = sealed::create_new(binary)?;
        entry.copy_to(&mut out, binary)?;
        found = true;
        Ok::<_, crate::deb::WalkError>(Visit::Stop)
    });
    walked.map_err(|error| error.of_package(deb))?;
    if found { Ok(()) } else { Err(ImageError::PackageLacks { path: deb.to_owned(), what: "busybox".into() }) }
}

/// The names this binary knows: those of our list that stand in it as texts of their own.
fn links(binary: &[u8]) -> Vec<String> {
    let texts: std::collections::HashSet<&[u8]> = binary.split(|byte| *byte == 0).collect();
    let mut links = Vec::new();
    for (dir, names) in applets::APPLETS {
        for name in names.split_ascii_whitespace().filter(|name| texts.contains(name.as_bytes())) {
            links.push(format!("{dir}/{name}"));
        }
    }
    links.sort();
    links
}

/// A version as part of a file name.
fn file_name_safe(version: &str) -> String {
    version.replace(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '~' | '-')), "_")
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BusyboxDescription {
    format: u32,
    source: String,
    links: Vec<String>,
    files: FileRecords,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seal: Option<Sha256>,
}

impl Description for BusyboxDescription {
    const FILE: &'static str = "busybox.json";
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

const PACKAGE: &str = "busybox-static";
const PREFIX: &str = "busybox-static-";
const ALTERNATIVE: &str = "a static busybox by path, or do without (`--busybox PATH`, `--busybox none`)";
const BINARY: &str = "busybox";
const LOCK: &str = "busybox";
const MAX_UNPACKED: u64 = 256 << 20;
