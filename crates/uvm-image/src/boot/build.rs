//! Finding or making boot files.

use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use super::{BootFiles, BootFilesOptions};
use crate::agent::Agent;
use crate::busybox::Busybox;
use crate::digest::Sha256;
use crate::error::{ImageError, Intent, IoContext};
use crate::initramfs::{self, CpioError, GuestRoot, Tree};
use crate::kernel::{self, Freshness, Kernel, KernelKind};
use crate::lock::BuildLock;
use crate::manifest::{AgentKind, AgentRecord, KernelRecord, Manifest};
use crate::progress::Step;
use crate::sealed::{self, FileRecords};
use crate::staging::{self, Staging};
use crate::store::ImageStore;

pub(super) fn ensure(options: &BootFilesOptions) -> Result<BootFiles, ImageError> {
    let store = &options.store;
    store.cancel.check()?;
    let agent = Agent::find(&options.agent, &store.data_dir)?;
    let kernel = kernel::ensure(store, &options.kernel, options.freshness)?;
    let busybox = Busybox::ensure(store, &options.busybox)?;
    let plan = Plan::new(options, &agent, &kernel, busybox.as_ref())?;
    if let Some(found) = plan.find(store)? {
        return Ok(found);
    }
    let _lock = BuildLock::acquire(store, &format!("boot-{}", plan.key), &format!("boot files {}", plan.key))?;
    if let Some(found) = plan.find(store)? {
        return Ok(found); // made by whoever held the lock
    }
    staging::sweep(&store.data_dir);
    // Before anything is built from them: are they still what they were?
    let kernel = verified_kernel(options, kernel)?;
    let busybox = match busybox {
        Some(busybox) => busybox.verified(store, &options.busybox)?,
        None => None,
    };
    let plan = Plan::new(options, &agent, &kernel, busybox.as_ref())?;
    plan.build(store)
}

/// The kernel after a full check; made anew if it is damaged and can be.
fn verified_kernel(options: &BootFilesOptions, kernel: Kernel) -> Result<Kernel, ImageError> {
    let store = &options.store;
    let checked = store.progress.step(Step::Verifying, format!("kernel {}", kernel.name()), || kernel.verify());
    match checked {
        Ok(()) => Ok(kernel),
        // Minutes of compiling, or files that may be gone: not by the way.
        Err(damaged) if kernel.kind() == KernelKind::Trimmed => Err(damaged),
        Err(damaged) => {
            store.progress.note(format!("{damaged}; it is made anew"));
            staging::discard(&store.data_dir, kernel.dir())?;
            let kernel = kernel::ensure(store, &options.kernel, Freshness::Cached)?;
            kernel.verify()?;
            Ok(kernel)
        }
    }
}

/// Boot files that may or may not be there yet.
struct Plan<'a> {
    key: String,
    tree: Tree,
    agent: &'a Agent,
    kernel: &'a Kernel,
    busybox: Option<&'a Busybox>,
}

impl<'a> Plan<'a> {
    fn new(
        options: &BootFilesOptions,
        agent: &'a Agent,
        kernel: &'a Kernel,
        busybox: Option<&'a Busybox>,
    ) -> Result<Self, ImageError> {
        let tree = GuestRoot { agent, busybox, kernel, extra_files: &options.extra_files }.tree()?;
        let image = kernel.image_sha256().map(|sha256| sha256.to_string()).unwrap_or_default();
        let kernel_facts = format!("{} {} {:?} {:?}", kernel.name(), kernel.release(), kernel.image(), kernel.hz());
        let facts = format!("{} {WRITER_VERSION}\n{kernel_facts}\n{image}\n{}", Manifest::FORMAT, tree.digest());
        Ok(Self { key: Sha256::of(facts.as_bytes()).short(KEY_DIGITS), tree, agent, kernel, busybox })
    }

    fn dir(&self, store: &ImageStore) -> std::path::PathBuf {
        store.data_dir.boot().join(&self.key)
    }

    /// The files, if they are there and intact.
    fn find(&self, store: &ImageStore) -> Result<Option<BootFiles>, ImageError> {
        match BootFiles::open(self.dir(store)) {
            Ok(found) => Ok(Some(found)),
            Err(ImageError::NotBootFiles { .. }) => Ok(None),
            Err(ImageError::Damaged { dir, damage, .. }) => {
                store.progress.note(format!("{} is damaged ({damage}) and is made anew", dir.display()));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn build(&self, store: &ImageStore) -> Result<BootFiles, ImageError> {
        store.cancel.check()?;
        let staging = Staging::new(&store.data_dir, "boot")?;
        let image = self.kernel.image();
        let kernel = staging.path().join(image.file_name());
        sealed::link_or_copy(&self.kernel.image_path(), &kernel)?;
        let initrd = staging.path().join(Manifest::INITRD);
        store.progress.step(Step::BuildingInitramfs, self.key.clone(), || write_initramfs(&self.tree, &initrd))?;

        let mut files = FileRecords::new();
        for (name, path) in [(image.file_name(), &kernel), (Manifest::INITRD, &initrd)] {
            files.insert(name.to_owned(), sealed::seal_file(path)?);
        }
        let mut manifest = Manifest {
            format: Manifest::FORMAT,
            agent: AgentRecord {
                kind: AgentKind::Ours,
                version: self.agent.version.clone(),
                sha256: self.agent.program.sha256,
            },
            kernel: KernelRecord {
                name: self.kernel.name().to_owned(),
                release: self.kernel.release().to_owned(),
                image,
                hz: self.kernel.hz(),
            },
            busybox: self.busybox.map(|busybox| busybox.source.clone()),
            modules: self.kernel.modules(),
            files,
            seal: None,
        };
        sealed::write_description(staging.path(), &mut manifest)?;
        store.cancel.check()?;
        // In use before anyone else can see them, so that nobody removes them first.
        let in_use = super::lock_shared(&staging.path().join(Manifest::FILE))?;
        let dir = self.dir(store);
        staging.publish(&store.data_dir, &dir)?;
        Ok(BootFiles { dir, manifest, _in_use: Arc::new(in_use) })
    }
}

fn write_initramfs(tree: &Tree, path: &Path) -> Result<(), ImageError> {
    let mut out = BufWriter::with_capacity(256 << 10, sealed::create_new(path)?);
    initramfs::write(tree, &mut out).map_err(|source| match source {
        CpioError::Write(error) => ImageError::io(Intent::Write, path, error),
        source => ImageError::Initramfs { path: path.to_owned(), source },
    })?;
    out.flush().at(Intent::Write, path)
}

/// Counts changes to the bytes written for the same tree.
const WRITER_VERSION: u32 = 1;
/// 128 bits.
const KEY_DIGITS: usize = 32;
