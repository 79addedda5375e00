//! The host of this machine: the only place that asks what system this is.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::oneshot;
use uvm_platform::{Platform, PlatformError};

use crate::error::UvmError;
use crate::options::BootInfo;

/// A cause of any kind.
type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A directory of boot files that stays as it is while this lives.
pub(crate) struct BootDirectory {
    pub(crate) path: PathBuf,
    pub(crate) info: BootInfo,
    /// Keeps others from removing the files.
    pub(crate) hold: Option<Hold>,
}

/// Something that has to live as long as a VM.
pub(crate) type Hold = Box<dyn std::any::Any + Send + Sync>;

/// Runs `work`, which may block, on a thread of its own: this library needs no particular runtime.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, PlatformError> {
    let (reply, answer) = oneshot::channel();
    let work = move || {
        // A caller that gave up does not want the answer.
        let _ = reply.send(work());
    };
    let spawned = std::thread::Builder::new().name("uvm-blocking".into()).spawn(work);
    spawned.map_err(|e| PlatformError::host("start a thread", e))?;
    answer.await.map_err(|_| PlatformError::host("look at the host", "an internal error (panic)"))
}

/// What was left of one VM whose owner is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reclaimed {
    /// The VM's id.
    pub id: String,
    /// What was written down of it, in words.
    pub objects: Vec<String>,
    /// Why something could not be removed; the next call tries again.
    pub error: Option<String>,
}

/// Whether [`gc`] removes what it finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gc {
    /// It does.
    Remove,
    /// It only tells.
    DryRun,
}

/// Removes what VMs left on this host whose owner was killed, in the default state directory. Every creation of a VM does so,
/// too. Nothing is ever left where the host's system itself ends a VM with its owner (Windows).
///
/// Cancel-safe: it goes on in the background.
///
/// # Errors
/// [`UvmError::Host`]: the state directory cannot be used. What goes wrong with one VM is told in its
/// [`Reclaimed::error`].
pub async fn gc(mode: Gc) -> Result<Vec<Reclaimed>, UvmError> {
    blocking(move || system::gc(mode)).await.and_then(|reclaimed| reclaimed).map_err(UvmError::Host)
}

#[cfg(target_os = "linux")]
mod system {
    use uvm_image::{BootFiles, BootFilesOptions, GivenBootFiles, Manifest};
    use uvm_platform::spec::GuestAgent;

    use super::{Arc, BootDirectory, BootInfo, Cause, Gc, Path, Platform, PlatformError, Reclaimed};

    pub use uvm_image as image;
    pub use uvm_qemu as qemu;

    pub(crate) fn default_host() -> Result<Arc<dyn Platform>, PlatformError> {
        let host = uvm_qemu::QemuHost::new(&uvm_qemu::QemuOptions::default())?;
        Ok(Arc::new(host))
    }

    pub(super) fn gc(mode: Gc) -> Result<Vec<Reclaimed>, PlatformError> {
        let path = uvm_qemu::StateRoot::default_path();
        let failed = |e| PlatformError::host(format!("use the state directory {}", path.display()), e);
        let root = uvm_qemu::StateRoot::open(&path).map_err(failed)?;
        let reclaimed = uvm_qemu::gc(&root, mode == Gc::DryRun).map_err(failed)?;
        let public = |vm: uvm_qemu::Reclaimed| Reclaimed { id: vm.id, objects: vm.objects, error: vm.error };
        Ok(reclaimed.into_iter().map(public).collect())
    }

    /// The boot files in `directory`, or the default ones, which are made if they are missing.
    pub(crate) fn boot_directory(directory: Option<&Path>) -> Result<BootDirectory, Cause> {
        let files = match directory {
            None => BootFiles::ensure(&BootFilesOptions::from_env()?)?,
            Some(path) if path.join(Manifest::FILE).exists() => match GivenBootFiles::open(path)? {
                Some(given) => {
                    let info = BootInfo { agent: GuestAgent::Original, kernel_hz: given.kernel_hz };
                    return Ok(BootDirectory { path: path.to_owned(), info, hold: None });
                }
                None => BootFiles::open(path)?,
            },
            // Files without a description: they are taken for this project's.
            Some(path) => {
                return Ok(BootDirectory { path: path.to_owned(), info: BootInfo::default(), hold: None });
            }
        };
        let info = BootInfo { agent: GuestAgent::Ours, kernel_hz: files.manifest().kernel.hz };
        Ok(BootDirectory { path: files.dir().to_owned(), info, hold: Some(Box::new(files)) })
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use super::{Arc, BootDirectory, BootInfo, Cause, Gc, Path, Platform, PlatformError, Reclaimed};

    #[expect(clippy::unnecessary_wraps, reason = "on other systems it can fail")]
    pub(super) fn gc(_mode: Gc) -> Result<Vec<Reclaimed>, PlatformError> {
        Ok(Vec::new())
    }

    #[cfg(windows)]
    pub(crate) fn default_host() -> Result<Arc<dyn Platform>, PlatformError> {
        let core = uvm_hcs::ComputeCore::new();
        let host = Arc::new(core.map_err(|e| PlatformError::host("load the Host Compute Service", e))?);
        // This thread may block, and has no runtime of its own.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime = runtime.map_err(|e| PlatformError::host("make a runtime", e))?;
        Ok(Arc::new(runtime.block_on(uvm_hcs::HcsPlatform::connect(host))?))
    }

    #[cfg(not(windows))]
    pub(crate) fn default_host() -> Result<Arc<dyn Platform>, PlatformError> {
        Err(PlatformError::host("find a host", "there is none for this system yet"))
    }

    pub(crate) fn boot_directory(directory: Option<&Path>) -> Result<BootDirectory, Cause> {
        match directory {
            Some(path) => Ok(BootDirectory { path: path.to_owned(), info: BootInfo::default(), hold: None }),
            None => Err("this host has no default boot files: name a directory".into()),
        }
    }
}

pub(crate) use system::{boot_directory, default_host};
#[cfg(target_os = "linux")]
pub use system::{image, qemu};
