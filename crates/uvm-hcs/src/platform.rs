//! The Host Compute Service as a host of utility VMs.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use uvm_platform::{
    BoxFuture, Capabilities, CreatedVm, Deadlines, Feature, Platform, PlatformError, PlatformFiles, PlatformNetwork,
    PlatformVm, UvmId, VmEvents, VmSpec, WcowSpec,
};

use crate::PLATFORM;
use crate::create::{Created, Creation, logical_processors};
use crate::document::modify::{FROM_THE_IMAGE, NO_RESIZE, VIRTIO_FS};
use crate::files::HcsFiles;
use crate::home::Home;
use crate::host::HcsHost;
use crate::network::HcsNetwork;
use crate::vm::HcsVm;
use crate::win_path::WinPath;
use crate::windows_build::WindowsBuild;

/// The Host Compute Service of this machine, or one that a test plays.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// use std::sync::Arc;
///
/// use uvm_hcs::HcsPlatform;
/// use uvm_hcs::recording::RecordingHcs;
/// use uvm_platform::Platform;
///
/// // On Windows: `ComputeCore::new()`.
/// let host = RecordingHcs::new().with_logical_processors(4);
/// let platform = HcsPlatform::connect(Arc::new(host)).await?;
/// assert_eq!(platform.host_processors(), 4);
/// # Ok::<(), uvm_platform::PlatformError>(())
/// # }).unwrap();
/// ```
pub struct HcsPlatform {
    host: Arc<dyn HcsHost>,
    capabilities: Capabilities,
    processors: u32,
    files: HcsFiles,
    network: HcsNetwork,
    /// `None`: every VM has a thread of its own.
    runtime: Option<Handle>,
}

impl HcsPlatform {
    /// Asks the host what it has. Every VM will have a thread of its own.
    ///
    /// # Errors
    /// The service does not answer: it is not there, or this program may not use it.
    pub async fn connect(host: Arc<dyn HcsHost>) -> Result<Self, PlatformError> {
        let limit = Deadlines::default().host_call;
        let processors = logical_processors(&*host, limit).await?;
        let capabilities = capabilities(host.build());
        let files = HcsFiles::of_this_program(Arc::clone(&host));
        let network = HcsNetwork::on(Arc::clone(&host), None, limit);
        Ok(Self { host, capabilities, processors, files, network, runtime: None })
    }

    /// The same host, whose VMs run on the current runtime, which has to outlive them: for a program with one runtime,
    /// and for tests with a clock of their own.
    ///
    /// # Panics
    /// There is no current runtime.
    #[must_use]
    pub fn on_current_runtime(self) -> Self {
        let runtime = Some(Handle::current());
        let network = HcsNetwork::on(Arc::clone(&self.host), runtime.clone(), Deadlines::default().host_call);
        Self { network, runtime, ..self }
    }

    /// The same host for another program: `executable` is its file, beside which boot files are looked for, and
    /// `program_files` where the system keeps programs.
    #[must_use]
    pub fn for_program(self, executable: WinPath, program_files: WinPath) -> Self {
        let files = HcsFiles::new(Arc::clone(&self.host), Some(executable), Some(program_files));
        Self { files, ..self }
    }

    /// The host under it.
    pub fn host(&self) -> &Arc<dyn HcsHost> {
        &self.host
    }

    /// Creates a VM with a Linux guest, powered off. Cancel-safe: what was begun is undone.
    ///
    /// # Errors
    /// The host is too old for what is asked, something of the spec cannot be used, or the service refuses or does not
    /// answer. Nothing is left.
    pub async fn create_lcow(&self, spec: &VmSpec) -> Result<(Arc<HcsVm>, VmEvents), PlatformError> {
        let (creation, spec) = (self.creation(spec.deadlines), spec.clone());
        self.create(&spec.id.clone(), async move { creation.lcow(&spec).await }).await
    }

    /// Creates a VM with a Windows guest, powered off. Cancel-safe: what was begun is undone.
    ///
    /// # Errors
    /// As [`create_lcow`](Self::create_lcow); and no layer holds a guest's system, or the scratch disk cannot be made.
    pub async fn create_wcow(&self, spec: &WcowSpec) -> Result<(Arc<HcsVm>, VmEvents), PlatformError> {
        let (creation, spec) = (self.creation(spec.deadlines), spec.clone());
        self.create(&spec.id.clone(), async move { creation.wcow(&spec).await }).await
    }

    fn creation(&self, deadlines: Deadlines) -> Creation {
        Creation { host: Arc::clone(&self.host), deadlines }
    }

    async fn create(
        &self,
        id: &UvmId,
        creation: impl Future<Output = Result<Created, PlatformError>> + Send + 'static,
    ) -> Result<(Arc<HcsVm>, VmEvents), PlatformError> {
        let home = match &self.runtime {
            Some(runtime) => Home::on(runtime.clone()),
            None => Home::thread(id.as_str()).map_err(|e| PlatformError::host("start a thread for a VM", e))?,
        };
        let home = Arc::new(home);
        let created = hand_over(&home, creation, Created::undo).await;
        let created =
            created.unwrap_or_else(|| Err(PlatformError::host("create a VM", "an internal error (panic)")))?;
        Ok(HcsVm::new(created.parts, created.notifications, home))
    }
}

/// Runs `work` at `home` and takes its result. If the caller gives up, the work goes on to its end, and what it has
/// made is undone there.
async fn hand_over<T: Send + 'static, U: Future<Output = ()> + Send>(
    home: &Arc<Home>,
    work: impl Future<Output = Result<T, PlatformError>> + Send + 'static,
    undo: impl FnOnce(T) -> U + Send + 'static,
) -> Option<Result<T, PlatformError>> {
    let result = Arc::new(Mutex::new(None));
    let take = |result: &Mutex<Option<_>>| result.lock().unwrap_or_else(PoisonError::into_inner).take();
    let (is_there, wait) = oneshot::channel::<()>();
    let (taken, is_taken) = oneshot::channel::<()>();
    home.spawn({
        let (home, result) = (Arc::clone(home), Arc::clone(&result));
        async move {
            let made = work.await;
            *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(made);
            drop(is_there);
            // Told or dropped: the caller has taken the result, or never will.
            let _ = is_taken.await;
            if let Some(Ok(made)) = take(&result) {
                undo(made).await;
            }
            // Until here the caller may have been gone.
            drop(home);
        }
    });
    // Dropped, it says that the work is done, or that it has panicked.
    let _ = wait.await;
    let made = take(&result);
    drop(taken);
    made
}

impl Platform for HcsPlatform {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn host_processors(&self) -> u32 {
        self.processors
    }

    fn files(&self) -> &dyn PlatformFiles {
        &self.files
    }

    fn network(&self) -> Result<&dyn PlatformNetwork, PlatformError> {
        Ok(&self.network)
    }

    fn new_guid(&self) -> Option<Result<String, PlatformError>> {
        Some(new_guid(&*self.host))
    }

    fn create<'a>(&'a self, spec: &'a VmSpec) -> BoxFuture<'a, Result<CreatedVm, PlatformError>> {
        Box::pin(async move {
            let (vm, events) = self.create_lcow(spec).await?;
            Ok((vm as Arc<dyn PlatformVm>, events))
        })
    }

    fn create_wcow<'a>(&'a self, spec: &'a WcowSpec) -> BoxFuture<'a, Result<CreatedVm, PlatformError>> {
        Box::pin(async move {
            let (vm, events) = HcsPlatform::create_wcow(self, spec).await?;
            Ok((vm as Arc<dyn PlatformVm>, events))
        })
    }
}

/// A new GUID, drawn by the host.
pub(crate) fn new_guid(host: &dyn HcsHost) -> Result<String, PlatformError> {
    host.new_guid().map(|guid| guid.to_string()).map_err(|e| PlatformError::host("draw a GUID", e))
}

/// What a host of this build can do.
fn capabilities(build: WindowsBuild) -> Capabilities {
    let gates = [
        (Feature::DirectKernelBoot, WindowsBuild::KERNEL_DIRECT),
        (Feature::SingleFileShares, WindowsBuild::V19H1),
        (Feature::ColdDiscardHint, WindowsBuild::COLD_DISCARD),
    ];
    let all = Capabilities::all(PLATFORM)
        .without(Feature::DiskSettings, FROM_THE_IMAGE)
        .without(Feature::DiskResize, NO_RESIZE)
        .without(Feature::VirtioFsShares, VIRTIO_FS);
    gates
        .into_iter()
        .filter(|(_, needed)| build < *needed)
        .fold(all, |all, (feature, needed)| all.without(feature, format!("it needs build {needed}, this is {build}")))
}
