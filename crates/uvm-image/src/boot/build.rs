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
use crate::kernel::{self, Kernel};
use crate::lock::BuildLock;
use crate::manifest::{AgentKind, AgentRecord, KernelRecord, Manifest};
use crate::progress::Step;
use crate::sealed::{self, FileRecords};
use crate::staging::{self, Staging};
use crate::store::ImageStore;

pub(super) fn ensure(options: &BootFilesOptions) -> Result<BootFiles, ImageError> {
    let store = &options.store;
    let agent = Agent::find(&options.agent, &store.data_dir)?;
    let mut repairs = 0;
    loop {
        store.cancel.check()?;
        let kernel = kernel::ensure(store, &options.kernel, options.freshness)?;
        let busybox = Busybox::ensure(store, &options.busybox)?;
        let plan = Plan::new(options, &agent, &kernel, busybox.as_ref())?;
        if let Some(found) = plan.find(store)? {
            return Ok(found);
        }
        let lock = BuildLock::acquire(store, &format!("boot-{}", plan.key), &format!("boot files {}", plan.key))?;
        if let Some(found) = plan.find(store)? {
            return Ok(found); // made by whoever held the lock
        }
        staging::sweep(&store.data_dir);
        let Err(damaged) = plan.verify_sources(store) else { return plan.build(store) };
        drop(lock);
        if repairs == MAX_REPAIRS {
            return Err(damaged);
        }
        repairs += 1;
        // What comes out may be another kernel or busybox than before, and so other boot files: once more from the
        // start.
        kernel::repair(store, &options.kernel, &kernel)?;
        if let Some(busybox) = &busybox {
            busybox.repair(store)?;
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

    /// Are they still what they were? Before anything is built from files, all of their bytes are compared.
    fn verify_sources(&self, store: &ImageStore) -> Result<(), ImageError> {
        store.progress.step(Step::Verifying, format!("kernel {}", self.kernel.name()), || {
            self.kernel.verify()?;
            self.busybox.map_or(Ok(()), Busybox::verify)
        })
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
        let in_use = super::lock_shared(&staging.path().join(Manifest::FILE), super::ALONE_DEADLINE)?;
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
/// Files that are damaged again and again are on a disk that fails.
const MAX_REPAIRS: u32 = 2;
/// 128 bits.
const KEY_DIGITS: usize = 32;
