//! A real VM for a test: its own state directory, a slot to run in, and a leak check when it is closed.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tempfile::TempDir;
use uvm::image::{BootFiles, BootFilesOptions};
use uvm::qemu::{QemuHost, QemuOptions};
use uvm::{LcowOptions, MemoryMib, UtilityVm, UvmId};

use crate::TestResult;
use crate::leak::LeakCheck;
use crate::slot::Slot;
use crate::watchdog::Watchdog;

/// A running VM. [`close`](Self::close) it: only then is it checked for leaks.
#[must_use = "close it, or nothing is checked"]
pub struct TestVm {
    // Dropped first: it has a handle of the VM.
    watchdog: Watchdog,
    vm: UtilityVm,
    leaks: LeakCheck,
    slot: Slot,
    state: TempDir,
}

impl TestVm {
    /// A VM called `name`, with 512 MiB and one processor.
    pub fn builder(name: &str) -> TestVmBuilder {
        TestVmBuilder { name: name.to_owned(), change: Box::new(|_, _| ()) }
    }

    /// Closes the VM and passes if nothing of it is left. Handles of it, those in processes included, must be dropped before:
    /// its thread ends with the last.
    ///
    /// # Errors
    /// It cannot be closed, or something is left.
    pub async fn close(self) -> TestResult {
        self.vm.close().await?;
        self.ended()
    }

    /// Passes if nothing is left of a VM that was closed.
    ///
    /// # Errors
    /// What is left.
    pub fn ended(self) -> TestResult {
        let Self { watchdog, vm, leaks, slot, state } = self;
        drop((watchdog, vm));
        leaks.pass()?;
        drop((slot, state));
        Ok(())
    }

    /// The VM, which nobody watches any more, and what checks it for leaks once the last handle of it is gone.
    pub fn split(self) -> (UtilityVm, Remains) {
        let Self { watchdog, vm, leaks, slot, state } = self;
        drop(watchdog);
        (vm, Remains { leaks, _slot: slot, _state: state })
    }

    /// Where its state directory is.
    pub fn state_root(&self) -> &Path {
        self.state.path()
    }
}

/// What is looked at when a VM is gone.
#[must_use = "look at it, or nothing is checked"]
pub struct Remains {
    leaks: LeakCheck,
    _slot: Slot,
    _state: TempDir,
}

impl Remains {
    /// Passes once nothing is left. A VM whose last handle was dropped ends in the background: it is given half a minute.
    ///
    /// # Errors
    /// What is left then.
    pub async fn gone(self) -> TestResult {
        for _ in 0..GONE_LOOKS {
            if self.leaks.host_leftovers().is_empty() {
                break;
            }
            tokio::time::sleep(GONE_PAUSE).await;
        }
        Ok(self.leaks.pass()?)
    }
}

/// How often, and how far apart, the host is looked at before something is taken for left.
const GONE_LOOKS: u32 = 300;
const GONE_PAUSE: Duration = Duration::from_millis(100);

impl Deref for TestVm {
    type Target = UtilityVm;

    fn deref(&self) -> &UtilityVm {
        &self.vm
    }
}

/// How a test's VM is made.
pub struct TestVmBuilder {
    name: String,
    change: Change,
}

type Change = Box<dyn FnOnce(&mut LcowOptions, &mut QemuOptions) + Send>;

impl TestVmBuilder {
    /// With these options changed.
    #[must_use]
    pub fn with(self, change: impl FnOnce(&mut LcowOptions) + Send + 'static) -> Self {
        self.with_both(|options, _| change(options))
    }

    /// With options of the VM and of the host changed.
    #[must_use]
    pub fn with_both(self, change: impl FnOnce(&mut LcowOptions, &mut QemuOptions) + Send + 'static) -> Self {
        let before = self.change;
        let change = Box::new(|options: &mut LcowOptions, host: &mut QemuOptions| {
            before(options, host);
            change(options, host);
        });
        Self { change, ..self }
    }

    /// Creates it, powered off.
    ///
    /// # Errors
    /// It cannot be created.
    pub async fn create(self) -> TestResult<TestVm> {
        let slot = Slot::take_async(1).await?;
        let files = boot_files()?;
        let state = tempfile::Builder::new().prefix("uvm-test-").tempdir()?;
        let id = unique(&self.name)?;
        let leaks = LeakCheck::begin(id.as_str(), state.path());
        let mut options = LcowOptions::default()
            .with_id(id)
            .with_memory(MemoryMib::new(512)?)
            .with_processors(1)
            .with_boot_files(files);
        let mut host = QemuOptions::default();
        host.state_root = Some(state.path().to_owned());
        (self.change)(&mut options, &mut host);
        let host = QemuHost::new(&host)?;
        let vm = match UtilityVm::create_lcow_on(Arc::new(host), &options).await {
            Ok(vm) => vm,
            Err(e) => {
                leaks.pass()?;
                return Err(e.into());
            }
        };
        let watchdog = Watchdog::watch(vm.clone())?;
        Ok(TestVm { watchdog, vm, leaks, slot, state })
    }

    /// Creates and starts it.
    ///
    /// # Errors
    /// It cannot be created or started.
    pub async fn boot(self) -> TestResult<TestVm> {
        let vm = self.create().await?;
        if let Err(e) = vm.start().await {
            vm.close().await?;
            return Err(e.into());
        }
        Ok(vm)
    }
}

/// An id that no other test has.
///
/// # Errors
/// `name` is no part of an id.
pub fn unique(name: &str) -> TestResult<UvmId> {
    static COUNTER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let count = COUNTER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    Ok(UvmId::new(format!("{name}-{}-{count}", std::process::id()))?)
}

/// The boot files of all tests: the distribution's kernel, this tree's agent. Made once.
///
/// # Errors
/// They cannot be made; the text says what to do.
pub fn boot_files() -> TestResult<PathBuf> {
    static FILES: OnceLock<Result<BootFiles, String>> = OnceLock::new();
    let files = FILES.get_or_init(|| {
        let ensure = || BootFiles::ensure(&BootFilesOptions::from_env()?);
        ensure().map_err(|e| format!("boot files for tests: {e} (`cargo xtask setup` makes all that tests need)"))
    });
    Ok(files.as_ref().map_err(Clone::clone)?.dir().to_owned())
}
