//! What holds on every host, on QEMU with the real agent.

use std::os::unix::net::UnixListener;
use std::sync::Arc;

use tempfile::TempDir;
use uvm::platform::{BoxFuture, Capabilities, Platform};
use uvm::qemu::{QemuHost, QemuOptions};
use uvm::wire::negotiate::GuestOs;
use uvm::{UtilityVm, WcowOptions};
use uvm_testkit::conformance::{self, Created, GUEST_PROGRAM, Host, Report, Things, Wanted, Ways};
use uvm_testkit::{TestResult, TestVm};

use crate::images::Images;
use crate::sockets;
use crate::vpci;

/// QEMU: each VM has a state directory of its own.
struct Qemu {
    /// What it says of its PCI devices.
    devices: TempDir,
}

impl Qemu {
    fn options(&self) -> QemuOptions {
        let mut options = QemuOptions::default();
        vpci::vfio(&self.devices, &mut options);
        options
    }

    fn host(&self) -> TestResult<Arc<dyn Platform>> {
        Ok(Arc::new(QemuHost::new(&self.options())?))
    }
}

impl Host for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn capabilities(&self) -> BoxFuture<'_, TestResult<Capabilities>> {
        Box::pin(async { Ok(self.host()?.capabilities().clone()) })
    }

    fn ways(&self) -> Ways {
        Ways { gates_sockets: true, removes_sockets: true }
    }

    fn create(&self, wanted: Wanted) -> BoxFuture<'_, TestResult<Created>> {
        Box::pin(async move {
            if wanted.os == GuestOs::Windows {
                let options = WcowOptions::new(["/layer", "/scratch"]);
                UtilityVm::create_wcow_on(self.host()?, &options).await?;
            }
            let files = Images::new()?;
            let things = Things {
                file: files.filesystem("file", "ext4")?,
                directory: files.path(""),
                nowhere: files.path("there-is-no-such-file"),
                pipe: files.path("socket"),
                devices: DEVICES.map(str::to_uppercase),
            };
            // Nobody has to listen.
            drop(UnixListener::bind(&things.pipe)?);
            let builder = TestVm::builder(&format!("conform-{}", wanted.name));
            let vfio = self.options().vfio;
            let builder = builder.with_both(move |options, host| {
                options.virtual_sockets = wanted.virtual_sockets;
                options.pci_ports = 2;
                host.vfio = vfio;
            });
            let vm = builder.create().await?;
            let (vm, remains) = vm.split();
            let gone = move || -> BoxFuture<'static, TestResult> {
                Box::pin(async move {
                    drop(files);
                    remains.gone().await
                })
            };
            Ok(Created { vm, things, gone: Box::new(gone) })
        })
    }

    fn install<'a>(&'a self, vm: &'a UtilityVm) -> BoxFuture<'a, TestResult> {
        assert_eq!(sockets::GUEST, GUEST_PROGRAM);
        Box::pin(sockets::install(vm))
    }
}

/// What it cannot do yet, or ever, it refuses: the second number goes down with each thing that is built.
#[tokio::test]
async fn qemu_conforms() -> TestResult {
    let qemu = Qemu { devices: vpci::host(&DEVICES.map(|device| (device, "vfio-pci")))? };
    assert_eq!(conformance::run(&qemu).await?, Report { cases: CASES, refused: 6 });
    Ok(())
}

/// The host's kernel writes them in lower case.
const DEVICES: [&str; 2] = ["0000:0a:00.0", "0000:0b:00.0"];
/// As on the other hosts: none is skipped.
const CASES: usize = 29;
