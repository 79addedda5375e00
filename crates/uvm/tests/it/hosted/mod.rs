//! Containers and processes where the host's service holds the guest connection, on the platform of Windows over a host in
//! memory.

mod containers;
mod faults;
mod processes;

use std::sync::Arc;

use tokio::io::AsyncReadExt;
use uvm::wire::ports::{ENTROPY_PORT, LOG_PORT, vsock_service};
use uvm::{GuestConnection, LcowOptions, UtilityVm, UvmId, WcowOptions};
use uvm_hcs::recording::{RecordedCall, RecordingHcs};
use uvm_hcs::{HcsPlatform, WinPath};

use crate::support::TestResult;

/// What the service says of a guest that can do everything it needs to.
const CAPABLE: &str = r#"{"SignalProcessSupported":true,"DeleteContainerStateSupported":true}"#;
/// And of one that can do nothing.
const INCAPABLE: &str = "{}";

/// A host whose service answers by `answers`, and says that the guest can do this.
fn host(capabilities: &'static str, answers: fn(&RecordedCall) -> Option<String>) -> RecordingHcs {
    let host = RecordingHcs::new().with_output(b"hello").with_answers(move |asked| {
        let is_about_guest = asked.text().contains("GuestConnection");
        let runtime_id = RecordingHcs::RUNTIME_ID;
        let told = || {
            format!(
                r#"{{"RuntimeId":"{runtime_id}","GuestConnectionInfo":{{"ProtocolVersion":4,
                "GuestDefinedCapabilities":{capabilities}}}}}"#
            )
        };
        is_about_guest.then(told).or_else(|| answers(asked))
    });
    for name in ["kernel", "initrd.img"] {
        host.add_file(&WinPath::new(r"C:\boot").join(name), 1);
    }
    host.add_directory(&WinPath::new(r"C:\layers\base\Files"));
    host.add_file(&WinPath::new(r"C:\layers\base\UtilityVM\SystemTemplate.vhdx"), 1);
    host
}

/// A host that answers nothing of its own.
fn plain_host() -> RecordingHcs {
    host(CAPABLE, |_| None)
}

async fn platform(host: &RecordingHcs) -> TestResult<Arc<HcsPlatform>> {
    Ok(Arc::new(HcsPlatform::connect(Arc::new(host.clone())).await?.on_current_runtime()))
}

/// A VM with a Linux guest that runs. What it took is not in the books.
async fn boot(host: &RecordingHcs) -> TestResult<UtilityVm> {
    boot_with(host, GuestConnection::HostService).await
}

async fn boot_with(host: &RecordingHcs, connection: GuestConnection) -> TestResult<UtilityVm> {
    let mut options = LcowOptions::default().with_boot_files(r"C:\boot");
    options.id = Some(UvmId::new("vm")?);
    options.guest_connection = connection;
    let vm = UtilityVm::create_lcow_on(platform(host).await?, &options).await?;
    let guest = async {
        host.started("vm").await;
        let mut entropy = Vec::new();
        host.dial(RecordingHcs::RUNTIME_ID, vsock_service(ENTROPY_PORT))?.read_to_end(&mut entropy).await?;
        // Its log ends at once.
        drop(host.dial(RecordingHcs::RUNTIME_ID, vsock_service(LOG_PORT))?);
        TestResult::Ok(())
    };
    let (started, played) = tokio::join!(vm.start(), guest);
    played?;
    started?;
    host.take_calls();
    Ok(vm)
}

/// A VM with a Windows guest that runs.
async fn boot_windows(host: &RecordingHcs) -> TestResult<UtilityVm> {
    let mut options = WcowOptions::new([r"C:\layers\base", r"C:\scratch"]);
    options.id = Some(UvmId::new("vm")?);
    options.guest_connection = GuestConnection::HostService;
    let vm = UtilityVm::create_wcow_on(platform(host).await?, &options).await?;
    vm.start().await?;
    host.take_calls();
    Ok(vm)
}

fn summaries(host: &RecordingHcs) -> Vec<String> {
    host.take_calls().iter().map(RecordedCall::summary).collect()
}
