//! The host: which QEMU, which accelerator, where the state is kept.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use uvm_platform::{
    BoxFuture, Capabilities, CgroupSupport, CreatedVm, Feature, LocalFiles, Platform, PlatformError, PlatformFiles,
    PlatformNetwork, VmSpec, VmThread, WcowSpec,
};

use crate::accel::{self, AcceleratorChoice, Chosen};
use crate::cgroup::Hierarchies;
use crate::create;
use crate::layers;
use crate::state::{self, StateRoot};
use crate::vfio::Vfio;
use crate::virtio_fs::helper;
use crate::vm::{CANNOT_YET, not_here};

/// How to run QEMU. Plain data; change what you need after [`QemuOptions::default`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QemuOptions {
    /// The QEMU program. Default: `qemu-system-x86_64`, found on `PATH`.
    pub program: Option<PathBuf>,
    /// Default: KVM where it works, else TCG.
    pub accelerator: AcceleratorChoice,
    /// The directory for state directories. Default: [`StateRoot::default_path`].
    pub state_root: Option<PathBuf>,
    /// The program that serves virtio-fs shares, `uvm-fs`. Default: `$UVM_FS`, else beside the running program. Where it
    /// is missing, shares go by 9P, and [`Capabilities`] say why.
    pub share_helper: Option<PathBuf>,
    /// Where PCI devices of the host are found, and what QEMU drives them by: for tests, which have emulated ones.
    #[doc(hidden)]
    pub vfio: Vfio,
}

/// A Linux host that runs each VM as one QEMU process.
#[derive(Clone)]
pub struct QemuHost {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) program: PathBuf,
    /// What serves virtio-fs shares, or why nothing does.
    pub(crate) share_helper: Result<PathBuf, String>,
    pub(crate) accelerator: Chosen,
    pub(crate) state_root: StateRoot,
    pub(crate) hierarchies: Hierarchies,
    pub(crate) capabilities: Capabilities,
    pub(crate) vfio: Vfio,
    processors: u32,
    tidied: Once,
}

impl QemuHost {
    /// Looks at the host. Blocking: milliseconds, or 2 s where `/dev/kvm` hangs.
    ///
    /// # Errors
    /// There is no QEMU, KVM was asked for and cannot be had, or the state directory cannot be used.
    pub fn new(options: &QemuOptions) -> Result<Self, PlatformError> {
        let program = find_program(options.program.as_deref())?;
        let accelerator = accel::choose(options.accelerator)?;
        let root = options.state_root.clone().unwrap_or_else(StateRoot::default_path);
        let state_root = StateRoot::open(&root).map_err(|e| PlatformError::BadInput {
            what: "state directory",
            value: root.display().to_string(),
            why: e.to_string(),
        })?;
        let hierarchies = Hierarchies::of_this_process();
        let share_helper = helper::find(options.share_helper.as_deref());
        let mut capabilities = capabilities(&hierarchies, &options.vfio);
        if let Err(why) = &share_helper {
            capabilities = capabilities.without(Feature::VirtioFsShares, why);
        }
        let processors = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
        tracing::debug!(program = %program.display(), accelerator = accelerator.why, "QEMU host");
        let shared = Shared {
            program,
            share_helper,
            accelerator,
            state_root,
            hierarchies,
            capabilities,
            vfio: options.vfio.clone(),
            processors,
            tidied: Once::new(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The accelerator VMs will use, and why.
    pub fn accelerator(&self) -> &Chosen {
        &self.shared.accelerator
    }

    /// The QEMU program.
    pub fn program(&self) -> &Path {
        &self.shared.program
    }

    /// Where state directories are kept.
    pub fn state_root(&self) -> &StateRoot {
        &self.shared.state_root
    }
}

impl Platform for QemuHost {
    fn capabilities(&self) -> &Capabilities {
        &self.shared.capabilities
    }

    fn host_processors(&self) -> u32 {
        self.shared.processors
    }

    fn files(&self) -> &dyn PlatformFiles {
        &LocalFiles
    }

    fn network(&self) -> Result<&dyn PlatformNetwork, PlatformError> {
        Err(not_here(Feature::NetworkAdapters, CANNOT_YET))
    }

    fn new_guid(&self) -> Option<Result<String, PlatformError>> {
        None
    }

    fn create<'a>(&'a self, spec: &'a VmSpec) -> BoxFuture<'a, Result<CreatedVm, PlatformError>> {
        Box::pin(async move {
            let thread = VmThread::start(spec.id.as_str())
                .map_err(|e| PlatformError::host(format!("start the thread of VM {}", spec.id), e))?;
            let thread = Arc::new(thread);
            let created = create::create(Arc::clone(&self.shared), spec.clone(), Arc::clone(&thread));
            // A caller that gives up does not stop it: the VM comes to exist, nobody takes it, and so it is undone.
            match thread.run(created).await {
                Some(result) => result,
                None => Err(PlatformError::host(format!("create VM {}", spec.id), "an internal error (panic)")),
            }
        })
    }

    fn create_wcow<'a>(&'a self, _spec: &'a WcowSpec) -> BoxFuture<'a, Result<CreatedVm, PlatformError>> {
        let (feature, why) = (Feature::WindowsGuests, WINDOWS_GUESTS.to_owned());
        Box::pin(async move { Err(PlatformError::Unsupported { feature, platform: "qemu", why }) })
    }
}

impl Shared {
    /// Removes what earlier owners left, once for this host. What goes wrong there must not keep a VM from starting.
    pub(crate) fn tidy_once(&self) {
        self.tidied.call_once(|| match state::gc(&self.state_root, false) {
            Ok(reclaimed) => {
                for vm in reclaimed {
                    match vm.error {
                        None => tracing::info!(vm = vm.id, "removed what a VM without an owner left"),
                        Some(error) => {
                            tracing::warn!(vm = vm.id, error, "cannot remove what a VM without an owner left");
                        }
                    }
                }
            }
            Err(e) => tracing::warn!(error = %e, "cannot look for what earlier VMs left"),
        });
    }
}

fn find_program(given: Option<&Path>) -> Result<PathBuf, PlatformError> {
    let executable = |path: &Path| {
        let meta = path.metadata()?;
        if meta.is_file() && meta.permissions().mode() & 0o111 != 0 {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::PermissionDenied, "not an executable file"))
    };
    let bad = |value: &Path, why: String| PlatformError::BadInput {
        what: "QEMU program",
        value: value.display().to_string(),
        why,
    };
    if let Some(path) = given {
        executable(path).map_err(|e| bad(path, e.to_string()))?;
        return Ok(path.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(PROGRAM)).find(|path| executable(path).is_ok());
    found.ok_or_else(|| bad(Path::new(PROGRAM), format!("it is not on PATH; install it ({INSTALL}) or name one")))
}

const PROGRAM: &str = "qemu-system-x86_64";
const INSTALL: &str = "on Debian and Ubuntu: apt-get install --no-install-recommends qemu-system-x86";

/// Changes of running VMs that are still to come.
const NOT_YET: [Feature; 3] = [Feature::NetworkAdapters, Feature::MemoryResize, Feature::ProcessorLimitChange];

const WINDOWS_GUESTS: &str = "they need the Host Compute Service";

fn capabilities(hierarchies: &Hierarchies, vfio: &Vfio) -> Capabilities {
    let hcs_only = "only the Host Compute Service has it";
    let mut all = Capabilities::all("qemu")
        .without(Feature::WindowsGuests, WINDOWS_GUESTS)
        .without(Feature::VsmbShares, "Windows guests have them")
        .without(Feature::GraphicsConsole, "QEMU runs without a display; use the serial console")
        .without(Feature::StorageQos, "the limits of disks cannot be set yet")
        .without(Feature::UefiBoot, "QEMU boots the kernel directly")
        .without(Feature::ColdDiscardHint, hcs_only)
        .without(Feature::CpuGroups, hcs_only)
        .without(Feature::MmioGaps, hcs_only)
        .without(Feature::AdditionalDocument, hcs_only)
        .without(Feature::HostOwnedGuestConnection, hcs_only);
    for feature in NOT_YET {
        all = all.without(feature, CANNOT_YET);
    }
    if let Some(why) = vfio.obstacle() {
        all = all.without(Feature::PciDevices, why);
    }
    if let Some(why) = hierarchies.kill_obstacle() {
        all = all.without(Feature::KillAsOne, why);
    }
    all.cgroups = hierarchies.support();
    all.vpmem = Some(layers::LIMITS);
    if let Some(CgroupSupport::Missing(why)) = all.cgroups.get("cpu").cloned() {
        all = all.without(Feature::ProcessorLimit, why.clone()).without(Feature::ProcessorWeight, why);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_qemu_names_the_package() {
        let error = find_program(Some(Path::new("/nonexistent/qemu"))).expect_err("no such program").to_string();
        assert!(error.contains("/nonexistent/qemu") && error.contains("No such file"), "{error}");
        let error = find_program(Some(Path::new("/etc/passwd"))).expect_err("no program").to_string();
        assert!(error.contains("not an executable file"), "{error}");
    }

    #[test]
    fn a_state_directory_that_cannot_be_had_is_named() {
        let mut options = QemuOptions { program: Some("/bin/sh".into()), ..QemuOptions::default() };
        options.accelerator = AcceleratorChoice::Tcg;
        options.state_root = Some("/proc/nonexistent".into());
        let error = QemuHost::new(&options).map(drop).expect_err("nothing can be made there").to_string();
        assert!(error.contains("state directory") && error.contains("/proc/nonexistent"), "{error}");
    }

    #[test]
    fn what_qemu_lacks_is_said_with_a_reason() {
        let capabilities = capabilities(&Hierarchies::default(), &Vfio::default());
        for feature in [Feature::WindowsGuests, Feature::KillAsOne, Feature::ProcessorLimit] {
            assert!(capabilities.require(feature).is_err(), "{feature}");
        }
        assert!(capabilities.has(Feature::PauseResume));
        let layers = capabilities.vpmem.expect("limits");
        assert_eq!((layers.devices, layers.multiple_of), (128, 2 << 20));
    }
}
