//! Configuring and compiling the trimmed kernel.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{TrimmedKernelOptions, configuration, source, tools};
use crate::apt::Apt;
use crate::digest::Sha256;
use crate::error::{ImageError, Intent, IoContext};
use crate::exec::Run;
use crate::kernel::entry::Kernel;
use crate::kernel::import::{Identity, KernelFiles, ReadFile, import};
use crate::kernel::{Freshness, KernelKind, kconfig, lock_name};
use crate::lock::BuildLock;
use crate::progress::{Progress, Step};
use crate::staging;
use crate::store::ImageStore;

/// The trimmed kernel of these options, built now if need be.
pub(super) fn ensure(options: &TrimmedKernelOptions) -> Result<Kernel, ImageError> {
    let store = &options.store;
    let configuration = configuration(&options.config_fragment);
    let there = |fits: &dyn Fn(&str) -> bool| -> Result<Option<Kernel>, ImageError> {
        let kernels = Kernel::usable(&store.data_dir, KernelKind::Trimmed)?;
        Ok(kernels.into_iter().find(|kernel| fits(kernel.source()) && kernel.verify().is_ok()))
    };
    if options.freshness == Freshness::Cached
        && let Some(kernel) = there(&|source| source.ends_with(&configuration))?
    {
        return Ok(kernel);
    }
    let patience = store.deadlines.lock.max(store.deadlines.compile);
    let lock = BuildLock::acquire_within(store, &lock_name(KernelKind::Trimmed), "the trimmed kernel", patience)?;
    if options.freshness == Freshness::Cached
        && let Some(kernel) = there(&|source| source.ends_with(&configuration))?
    {
        return Ok(kernel);
    }
    staging::sweep(&store.data_dir);
    tools::check(store)?;
    let mut apt = Apt::new(store, SOURCE_PACKAGE, ALTERNATIVE)?;
    if options.freshness == Freshness::Newest {
        apt.update()?;
    }
    let package = apt.with_fresh_lists_if_need_be(|apt| apt.package(SOURCE_PACKAGE))?;
    let source = format!("{package}{configuration}");
    if let Some(kernel) = there(&|known| known == source)? {
        return Ok(kernel);
    }
    let inputs = format!("{RECIPE}\n{}\n{}", package.sha256, options.config_fragment);
    let identity = Identity { kind: KernelKind::Trimmed, source, inputs: Sha256::of(inputs.as_bytes()) };

    let build = Build { options, dir: build_dir(store, &identity)?, lock: &lock };
    if !build.is_unpacked() {
        build.check_space()?;
    }
    let deb = apt.with_fresh_lists_if_need_be(|apt| apt.download(&package))?;
    drop(apt);
    let tree = build.unpack(&deb, &package.to_string())?;
    let files = store.progress.step(Step::ConfiguringKernel, package.to_string(), || build.configure(&tree))?;
    let detail = format!("{package}, {} jobs; log in {}", options.jobs, build.log_path().display());
    store.progress.step(Step::CompilingKernel, detail, || build.compile(&tree, &files))?;
    let kernel = import(store, identity, &files)?;
    staging::discard(&store.data_dir, &build.dir)?;
    Ok(kernel)
}

/// The directory to build in. Those of other builds that were given up are removed: each has gigabytes.
fn build_dir(store: &ImageStore, identity: &Identity) -> Result<PathBuf, ImageError> {
    let parent = store.data_dir.build();
    fs::create_dir_all(&parent).at(Intent::Create, &parent)?;
    let name = format!("trimmed-{}", identity.inputs.short(16));
    for (other, path) in crate::entries::list(&parent)? {
        if other.starts_with("trimmed-") && other != name {
            staging::discard(&store.data_dir, &path)?;
        }
    }
    Ok(parent.join(name))
}

/// One build, in its directory.
struct Build<'a> {
    options: &'a TrimmedKernelOptions,
    dir: PathBuf,
    lock: &'a BuildLock,
}

impl Build<'_> {
    fn store(&self) -> &ImageStore {
        &self.options.store
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("build.log")
    }

    fn is_unpacked(&self) -> bool {
        self.dir.join(UNPACKED).exists()
    }

    /// Fails before anything is written if the build cannot fit.
    fn check_space(&self) -> Result<(), ImageError> {
        let path = self.store().data_dir.build();
        let space = rustix::fs::statvfs(&path).at(Intent::Read, &path)?;
        let free_mib = (space.f_bavail * space.f_frsize) >> 20;
        if free_mib >= NEEDED_MIB {
            return Ok(());
        }
        Err(ImageError::SpaceNeeded { what: "the kernel build", path, needed_mib: NEEDED_MIB, free_mib })
    }

    /// Unpacks the source, unless an earlier build did.
    fn unpack(&self, deb: &Path, package: &str) -> Result<PathBuf, ImageError> {
        let unpacked = self.dir.join(UNPACKED);
        if self.is_unpacked()
            && let Some(tree) = source::top_level(&self.dir.join("source"))?
        {
            self.store().progress.note(format!("going on with the build in {}", self.dir.display()));
            return Ok(tree);
        }
        fs::create_dir_all(&self.dir).at(Intent::Create, &self.dir)?;
        let unpack = || source::unpack(self.store(), deb, &self.dir);
        let tree = self.store().progress.step(Step::Unpacking, package, unpack)?;
        fs::write(&unpacked, package).at(Intent::Write, &unpacked)?;
        Ok(tree)
    }

    /// Makes the configuration and checks that all of the fragment is in it.
    fn configure(&self, tree: &Path) -> Result<BuiltFiles, ImageError> {
        let fragment = self.dir.join("fragment.config");
        fs::write(&fragment, &self.options.config_fragment).at(Intent::Write, &fragment)?;
        let deadline = self.store().deadlines.configure;
        self.make(Step::ConfiguringKernel, tree, &["tinyconfig"], deadline)?;
        let merge = tree.join("scripts/kconfig/merge_config.sh");
        let run = Run::new(self.store(), &merge, deadline).args(["-m", ".config"]).arg(&fragment);
        self.logged(Step::ConfiguringKernel, run, tree)?;
        self.make(Step::ConfiguringKernel, tree, &["olddefconfig"], deadline)?;
        let config = tree.join(".config");
        let text = fs::read_to_string(&config).at(Intent::Read, &config)?;
        let symbols = kconfig::differences(&kconfig::parse(&self.options.config_fragment), &kconfig::parse(&text));
        if symbols.is_empty() {
            Ok(BuiltFiles { image: self.dir.join("vmlinux"), config })
        } else {
            Err(ImageError::ConfigNotKept { symbols, config })
        }
    }

    /// Compiles, and strips the result of what only a debugger needs.
    fn compile(&self, tree: &Path, files: &BuiltFiles) -> Result<(), ImageError> {
        let (step, jobs) = (Step::CompilingKernel, format!("-j{}", self.options.jobs));
        self.make(step, tree, &[&jobs, "vmlinux"], self.store().deadlines.compile)?;
        let strip = self.store().program("strip").unwrap_or_else(|| "strip".into());
        let run = Run::new(self.store(), &strip, self.store().deadlines.configure).arg("--strip-all").arg("-o");
        self.logged(step, run.arg(&files.image).arg(tree.join("vmlinux")), tree)
    }

    fn make(&self, step: Step, tree: &Path, arguments: &[&str], deadline: Duration) -> Result<(), ImageError> {
        let make = self.store().program("make").unwrap_or_else(|| "make".into());
        self.logged(step, Run::new(self.store(), &make, deadline).args(arguments), tree)
    }

    /// Runs one command of the build. Its output goes to the log; it holds our lock, should it outlive us.
    fn logged(&self, step: Step, run: Run<'_>, tree: &Path) -> Result<(), ImageError> {
        let log = self.log_path();
        let file = OpenOptions::new().create(true).append(true).read(true).open(&log).at(Intent::Create, &log)?;
        let lock = self.lock.for_child().at(Intent::Lock, &log)?;
        let run = run.clean_env().current_dir(tree).stdin(lock);
        // Nothing of this machine goes into the kernel.
        let run = run
            .env("KBUILD_BUILD_USER", "uvm")
            .env("KBUILD_BUILD_HOST", "uvm")
            .env("KBUILD_BUILD_TIMESTAMP", TIMESTAMP);
        let mut lines = LogLines {
            step,
            path: &log,
            read: file.metadata().at(Intent::Read, &log)?.len(),
            lines: 0,
            told: Instant::now(),
        };
        run.logged(&file, || lines.tell(self.store())).map_err(|error| match error {
            failed @ (ImageError::CommandFailed { .. } | ImageError::CommandTimeout { .. }) => {
                ImageError::KernelBuild { log: log.clone(), source: Box::new(failed) }
            }
            other => other,
        })
    }
}

/// Counts the lines that a build logs, as a measure of how far it is.
struct LogLines<'a> {
    step: Step,
    path: &'a Path,
    read: u64,
    lines: u64,
    told: Instant,
}

impl LogLines<'_> {
    fn tell(&mut self, store: &ImageStore) {
        use std::io::{Seek, SeekFrom};
        if self.told.elapsed() < Duration::from_secs(1) {
            return;
        }
        self.told = Instant::now();
        let mut new = Vec::new();
        let read = File::open(self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.read))?;
            file.take(1 << 20).read_to_end(&mut new)
        });
        if read.is_ok() {
            self.read += new.len() as u64;
            self.lines += new.split(|byte| *byte == b'\n').count() as u64 - 1;
            store.progress.send(Progress::Advanced { step: self.step, done: self.lines, total: None });
        }
    }
}

/// What a build leaves.
struct BuiltFiles {
    image: PathBuf,
    config: PathBuf,
}

impl KernelFiles for BuiltFiles {
    fn path(&self) -> &Path {
        &self.image
    }

    fn walk(&self, visit: &mut dyn FnMut(&str, &mut ReadFile<'_>) -> Result<(), ImageError>) -> Result<(), ImageError> {
        for (name, path) in [("boot/vmlinuz", &self.image), ("boot/config", &self.config)] {
            visit(name, &mut |_| fs::read(path).at(Intent::Read, path))?;
        }
        Ok(())
    }
}

const SOURCE_PACKAGE: &str = "linux-source-6.12";
const ALTERNATIVE: &str = "a kernel by path (`--kernel PATH`), or take the distribution's";
/// The source has 1.7 GiB, the package 0.15; the rest is for objects.
const NEEDED_MIB: u64 = 3 << 10;
/// Marks a completely unpacked source.
const UNPACKED: &str = "unpacked";
/// The build date in the kernel: the same for everyone, so that the same source gives the same kernel.
const TIMESTAMP: &str = "1970-01-01 00:00:00 UTC";
/// Counts changes to the steps above.
const RECIPE: &str = "1";
