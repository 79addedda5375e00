//! The hosts in memory, with the guest that plays along.

use uvm::UtilityVm;
use uvm::wire::negotiate::GuestOs;
use uvm_platform::{BoxFuture, Capabilities};

use super::{Created, Host, Things, Wanted, Ways, guest};
use crate::TestResult;
use crate::memory::{Kind, MemoryHost};

/// A host in memory of this kind: each VM has one of its own.
#[derive(Clone, Copy, Debug)]
pub struct InMemory(pub Kind);

impl Host for InMemory {
    fn name(&self) -> &'static str {
        match self.0 {
            Kind::Fake => "fake",
            Kind::Recording => "recording",
        }
    }

    fn capabilities(&self) -> BoxFuture<'_, TestResult<Capabilities>> {
        Box::pin(async { Ok(MemoryHost::new(self.0).await?.platform().capabilities().clone()) })
    }

    fn ways(&self) -> Ways {
        let is_fake = self.0 == Kind::Fake;
        Ways { gates_sockets: is_fake, removes_sockets: is_fake }
    }

    fn create(&self, wanted: Wanted) -> BoxFuture<'_, TestResult<Created>> {
        Box::pin(async move {
            let host = MemoryHost::new(self.0).await?;
            let vm = match wanted.os {
                GuestOs::Linux => {
                    let sockets = wanted.virtual_sockets;
                    host.create_lcow(wanted.name, move |options| options.virtual_sockets = sockets).await?
                }
                GuestOs::Windows => host.create_wcow(wanted.name).await?,
            };
            let guest = tokio::spawn(guest::live(host.guest_end(&vm), wanted.os));
            let things = Things {
                directory: host.directory(),
                file: host.file(),
                nowhere: host.path("there-is-no-such-file"),
                devices: [r"PCIP\VEN_1", r"PCIP\VEN_2"].map(str::to_owned),
                pipe: r"\\.\pipe\conformance".into(),
            };
            let gone = move || -> BoxFuture<'static, TestResult> {
                Box::pin(async move {
                    // One of a VM that never ran waits for its power.
                    guest.abort();
                    host.nothing_left().await
                })
            };
            Ok(Created { vm, things, gone: Box::new(gone) })
        })
    }

    /// Its guests have the program.
    fn install<'a>(&'a self, _vm: &'a UtilityVm) -> BoxFuture<'a, TestResult> {
        Box::pin(async { Ok(()) })
    }
}
