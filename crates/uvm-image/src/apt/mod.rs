//! Packages from the machine's own apt: its sources, mirrors, proxies and keys are the user's.
//!
//! Nothing is installed and no root is needed. Package lists are the machine's where they have what is wanted. Where
//! they do not (a container image without lists, or lists that have grown so old that a file is gone from the
//! mirror), fresh ones are fetched into our own data directory, from the machine's own sources.

mod record;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) use record::{Dependency, Package};

use crate::digest::Sha256;
use crate::error::{ImageError, Intent, IoContext};
use crate::exec::{CommandOutput, Run};
use crate::lock::BuildLock;
use crate::progress::{Progress, Step};
use crate::sealed;
use crate::staging::Staging;
use crate::store::ImageStore;

/// The machine's apt, for one user at a time.
pub(crate) struct Apt<'a> {
    store: &'a ImageStore,
    /// `apt-get`.
    getter: PathBuf,
    /// `apt-cache`.
    index: PathBuf,
    lists: Lists,
    /// What the user can do instead, for messages.
    alternative: &'static str,
    _lock: BuildLock,
}

/// Which package lists are asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lists {
    /// The machine's.
    System,
    /// Ours.
    Private,
}

impl<'a> Apt<'a> {
    /// Finds apt; `package` is what it is wanted for.
    pub(crate) fn new(store: &'a ImageStore, package: &str, alternative: &'static str) -> Result<Self, ImageError> {
        let program = |tool: &'static str| {
            store.program(tool).ok_or_else(|| ImageError::NoApt {
                package: package.to_owned(),
                tool,
                searched: store.search_path.to_string_lossy().into_owned(),
                alternative,
            })
        };
        let (getter, index) = (program("apt-get")?, program("apt-cache")?);
        let lock = BuildLock::acquire(store, APT_LOCK, "packages")?;
        Ok(Self { store, getter, index, lists: Lists::System, alternative, _lock: lock })
    }

    /// Does `work` with the machine's package lists; if a package is not there, with the ones we fetched earlier; and
    /// if it is not there either, with fresh ones.
    pub(crate) fn with_fresh_lists_if_need_be<T>(
        &mut self,
        mut work: impl FnMut(&mut Self) -> Result<T, ImageError>,
    ) -> Result<T, ImageError> {
        let stale =
            |error: &ImageError| matches!(error, ImageError::NoPackage { .. } | ImageError::CommandFailed { .. });
        if self.lists == Lists::System {
            match work(self) {
                Err(error) if stale(&error) => tracing::debug!(%error, "not in the machine's package lists"),
                other => return other,
            }
            if self.store.data_dir.apt().join(FETCHED).exists() {
                self.lists = Lists::Private;
                match work(self) {
                    Err(error) if stale(&error) => tracing::debug!(%error, "not in the lists fetched earlier"),
                    other => return other,
                }
            }
            self.update()?;
        }
        work(self)
    }

    /// Fetches fresh package lists into the data directory and uses them from now on.
    pub(crate) fn update(&mut self) -> Result<(), ImageError> {
        for dir in ["lists/partial", "cache/archives/partial"] {
            let dir = self.store.data_dir.apt().join(dir);
            fs::create_dir_all(&dir).at(Intent::Create, &dir)?;
        }
        self.lists = Lists::Private;
        let detail = format!("in {}", self.store.data_dir.apt().display());
        let run = self.run(&self.getter, self.store.deadlines.lists);
        // Without it, apt takes a mirror that cannot be reached for a success.
        let run = run.args(["-q", "-o", "APT::Update::Error-Mode=any", "update"]);
        self.store.progress.step(Step::UpdatingPackageLists, detail, || run.capture(|| ()))?;
        let fetched = self.store.data_dir.apt().join(FETCHED);
        fs::write(&fetched, "").at(Intent::Write, &fetched)
    }

    /// The newest version of the package `name` (the one apt would install); `None` if the lists do not have it.
    pub(crate) fn find(&self, name: &str) -> Result<Result<Package, CommandOutput>, ImageError> {
        self.show(name, name)
    }

    /// The newest version of the package `name`.
    pub(crate) fn package(&self, name: &str) -> Result<Package, ImageError> {
        self.find(name)?.map_err(|output| self.no_package(name, output))
    }

    /// The package that `dependency` names, in just the version it asks for.
    pub(crate) fn dependency(&self, dependency: &Dependency) -> Result<Package, ImageError> {
        let Dependency { name, exactly } = dependency;
        let wanted = exactly.as_ref().map_or_else(|| name.clone(), |version| format!("{name}={version}"));
        self.show(name, &wanted)?.map_err(|output| self.no_package(&wanted, output))
    }

    /// The file of `package`, which was downloaded just now or earlier. Its hash is that of the signed index.
    pub(crate) fn download(&self, package: &Package) -> Result<PathBuf, ImageError> {
        let path = self.store.data_dir.downloads().join(package.file_name());
        match Sha256::of_file(&path) {
            Ok((sha256, _)) if sha256 == package.sha256 => return Ok(path),
            Ok(_) => {
                self.store.progress.note(format!("{} is damaged and is downloaded again", path.display()));
                fs::remove_file(&path).at(Intent::Remove, &path)?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(ImageError::io(Intent::Read, path, error)),
        }
        let downloads = self.store.data_dir.downloads();
        fs::create_dir_all(&downloads).at(Intent::Create, &downloads)?;
        let staging = Staging::new(&self.store.data_dir, "download")?;
        let detail = format!("{package} ({})", mib(package.size));
        let downloaded = self.store.progress.step(Step::Downloading, detail, || self.fetch(package, staging.path()))?;
        let (found, _) = Sha256::of_file(&downloaded).at(Intent::Read, &downloaded)?;
        if found != package.sha256 {
            return Err(ImageError::PackageMismatch { path: downloaded, expected: package.sha256, found });
        }
        sealed::seal_file(&downloaded)?;
        fs::rename(&downloaded, &path).at(Intent::Rename, &path)?;
        crate::staging::sync_directory(&downloads)?;
        Ok(path)
    }

    /// Lets apt download `package` into the empty directory `dir`.
    fn fetch(&self, package: &Package, dir: &Path) -> Result<PathBuf, ImageError> {
        let run = self.run(&self.getter, self.store.deadlines.download).current_dir(dir);
        let run = run.args(["-q", "download"]).arg(format!("{}={}", package.name, package.version));
        let mut reported = 0;
        run.capture(|| {
            let done = files(dir).iter().filter_map(|path| path.metadata().ok()).map(|metadata| metadata.len()).sum();
            if done != reported {
                reported = done;
                let total = Some(package.size);
                self.store.progress.send(Progress::Advanced { step: Step::Downloading, done, total });
            }
        })?;
        let is_deb = |path: &PathBuf| path.extension().is_some_and(|suffix| suffix == "deb");
        files(dir).into_iter().find(is_deb).ok_or_else(|| ImageError::PackageLacks {
            path: dir.to_owned(),
            what: format!("file of {package} after `apt-get download`"),
        })
    }

    /// apt's record of `wanted`, a name or `name=version`; or what apt says instead.
    fn show(&self, name: &str, wanted: &str) -> Result<Result<Package, CommandOutput>, ImageError> {
        let run = self.run(&self.index, self.store.deadlines.query);
        let text = match run.args(["--no-all-versions", "show"]).arg(wanted).capture(|| ()) {
            Ok(text) => text,
            // apt's way of saying no, though not only that.
            Err(ImageError::CommandFailed { status, output, .. }) if status.code() == Some(100) => {
                return Ok(Err(output));
            }
            Err(error) => return Err(error),
        };
        match Package::parse(&String::from_utf8_lossy(&text)) {
            Some(Ok(package)) => Ok(Ok(package)),
            Some(Err(why)) => Err(ImageError::BadPackageRecord { package: name.to_owned(), why }),
            None => Ok(Err(CommandOutput::default())),
        }
    }

    fn run(&self, program: &Path, deadline: Duration) -> Run<'a> {
        let run = Run::new(self.store, program, deadline).env("DEBIAN_FRONTEND", "noninteractive");
        if self.lists == Lists::System {
            return run;
        }
        let option = |name: &str, dir: &str| format!("{name}={}", self.store.data_dir.apt().join(dir).display());
        let places = [option("Dir::State::lists", "lists"), option("Dir::Cache", "cache")];
        // The lock in `self` replaces apt's, which would need the machine's own lists.
        places.into_iter().chain(["Debug::NoLocking=true".to_owned()]).fold(run, |run, place| run.arg("-o").arg(place))
    }

    fn no_package(&self, package: &str, output: CommandOutput) -> ImageError {
        ImageError::NoPackage { package: package.to_owned(), output, alternative: self.alternative }
    }
}

/// Who uses packages or package lists holds the lock of this name.
pub(crate) const APT_LOCK: &str = "apt";
/// Marks that our own package lists are complete.
const FETCHED: &str = "fetched";

fn files(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect()
}

/// A size for people.
fn mib(bytes: u64) -> String {
    format!("{}.{} MiB", bytes >> 20, ((bytes & 0xf_ffff) * 10) >> 20)
}
