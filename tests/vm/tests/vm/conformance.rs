//! What holds on every host, on QEMU with the real agent.

use std::sync::Arc;

use uvm::platform::{BoxFuture, Capabilities, Platform};
use uvm::qemu::{QemuHost, QemuOptions};
use uvm::wire::negotiate::GuestOs;
use uvm::{UtilityVm, WcowOptions};
use uvm_testkit::conformance::{self, Created, GUEST_PROGRAM, Host, Report, Things, Wanted, Ways};
use uvm_testkit::{TestResult, TestVm};

use crate::images::Images;
use crate::sockets;

/// QEMU: each VM has a state directory of its own.
struct Qemu;

impl Qemu {
    fn host(options: &QemuOptions) -> TestResult<Arc<dyn Platform>> {
        Ok(Arc::new(QemuHost::new(options)?))
    }
}

impl Host for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn capabilities(&self) -> BoxFuture<'_, TestResult<Capabilities>> {
        Box::pin(async { Ok(Self::host(&QemuOptions::default())?.capabilities().clone()) })
    }

    fn ways(&self) -> Ways {
        Ways { gates_sockets: true, removes_sockets: true }
    }

    fn create(&self, wanted: Wanted) -> BoxFuture<'_, TestResult<Created>> {
        Box::pin(async move {
            if wanted.os == GuestOs::Windows {
                let options = WcowOptions::new(["/layer", "/scratch"]);
                UtilityVm::create_wcow_on(Self::host(&QemuOptions::default())?, &options).await?;
            }
            let files = Images::new()?;
            let things = Things {
                file: files.filesystem("file", "ext4")?,
                directory: files.path(""),
                nowhere: files.path("there-is-no-such-file"),
            };
            let builder = TestVm::builder(&format!("conform-{}", wanted.name));
            let vm = builder.with(move |options| options.virtual_sockets = wanted.virtual_sockets).create().await?;
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
    assert_eq!(conformance::run(&Qemu).await?, Report { cases: CASES, refused: 8 });
    Ok(())
}

/// As on the other hosts: none is skipped.
const CASES: usize = 29;
