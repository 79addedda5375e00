//! A host in memory: no process, no guest. Tests script the guest's end and plant faults.
//!
//! Every call is written down in order ([`FakePlatform::calls`]); a fault planted with [`FakePlatform::plant`] makes the
//! n-th call of a name fail, take its time, or never answer. What is still there is counted
//! ([`FakePlatform::leftovers`]). A guest is a script ([`FakePlatform::with_guest`]), or the test plays it, by the
//! [`FakePlatform::guest`] of a VM.

mod census;
mod guest;
mod life;
mod network;
mod ports;
mod stream;
mod vm;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use guest::FakeGuestEnd;
pub use stream::FakeStream;

use census::Census;

use crate::BoxFuture;
use crate::capabilities::Capabilities;
use crate::error::PlatformError;
use crate::files::{LocalFiles, PlatformFiles};
use crate::id::UvmId;
use crate::network::{Endpoint, PlatformNetwork};
use crate::requests::Change;
use crate::spec::VmSpec;
use crate::vm::{CreatedVm, HostGuestConnection, Platform, PlatformVm};
use crate::windows::WcowSpec;

/// What the scripted guest does once the VM is started: it is given the guest's end of every port.
pub type GuestScript = Arc<dyn Fn(FakeGuestEnd) -> BoxFuture<'static, ()> + Send + Sync>;

/// How a planted fault shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call fails.
    Fail,
    /// The call never answers.
    Hang,
    /// The call goes well, after this long.
    Slow(Duration),
}

/// A host in memory. Clones share everything.
#[derive(Clone)]
pub struct FakePlatform {
    capabilities: Arc<Capabilities>,
    processors: u32,
    reaches_pipes: bool,
    script: GuestScript,
    shared: Arc<Mutex<Shared>>,
    census: Census,
}

#[derive(Default)]
struct Shared {
    calls: Vec<String>,
    faults: VecDeque<Planted>,
    specs: Vec<VmSpec>,
    wcow_specs: Vec<WcowSpec>,
    guest_connection: Option<HostGuestConnection>,
    guests: Vec<FakeGuestEnd>,
    changes: Vec<(Change, Option<String>)>,
    namespaces: BTreeMap<String, String>,
    endpoints: BTreeMap<String, Endpoint>,
}

struct Planted {
    call: String,
    skip: usize,
    fault: Fault,
}

impl FakePlatform {
    /// What the virtual sockets of its VMs are addressed by.
    pub const RUNTIME_ID: &'static str = "fa4e0000-0000-4000-8000-000000000001";

    /// A host that can do everything, whose guests do nothing at all.
    pub fn new() -> Self {
        Self {
            capabilities: Arc::new(Capabilities::all("fake")),
            processors: 8,
            reaches_pipes: true,
            script: Arc::new(|_| Box::pin(std::future::pending())),
            shared: Arc::default(),
            census: Census::default(),
        }
    }

    /// The same host, whose guests run `script` when they are started. The VM ends when the script does.
    #[must_use]
    pub fn with_guest<F, G>(mut self, script: F) -> Self
    where
        F: Fn(FakeGuestEnd) -> G + Send + Sync + 'static,
        G: Future<Output = ()> + Send + 'static,
    {
        self.script = Arc::new(move |end| Box::pin(script(end)));
        self
    }

    /// The same host with these capabilities.
    #[must_use]
    pub fn with_capabilities(mut self, capabilities: Capabilities) -> Self {
        self.capabilities = Arc::new(capabilities);
        self
    }

    /// The same host with this many processors.
    #[must_use]
    pub fn with_processors(mut self, processors: u32) -> Self {
        self.processors = processors;
        self
    }

    /// The same host, whose guests do not reach pipes by themselves.
    #[must_use]
    pub fn with_carried_pipes(mut self) -> Self {
        self.reaches_pipes = false;
        self
    }

    /// Makes one call of the name `call` go wrong, after `skip` that go well.
    pub fn plant(&self, call: &str, skip: usize, fault: Fault) {
        self.lock().faults.push_back(Planted { call: call.to_owned(), skip, fault });
    }

    /// All calls so far, in order.
    pub fn calls(&self) -> Vec<String> {
        self.lock().calls.clone()
    }

    /// The VMs that were asked for so far, also those that could not be had.
    pub fn specs(&self) -> Vec<VmSpec> {
        self.lock().specs.clone()
    }

    /// The same of VMs with Windows guests.
    pub fn wcow_specs(&self) -> Vec<WcowSpec> {
        self.lock().wcow_specs.clone()
    }

    /// What its service learns from guests whose connection it holds.
    pub fn set_guest_connection(&self, connection: HostGuestConnection) {
        self.lock().guest_connection = Some(connection);
    }

    fn guest_connection(&self) -> Result<HostGuestConnection, PlatformError> {
        let known = self.lock().guest_connection.clone();
        known.ok_or_else(|| PlatformError::host("learn of the guest", "its service knows no guest"))
    }

    /// The changes of VMs so far that went well, in order, each with the guest's half if it came along.
    pub fn changes(&self) -> Vec<(Change, Option<String>)> {
        self.lock().changes.clone()
    }

    fn created(&self, id: &UvmId, has_sockets: bool) -> CreatedVm {
        let (vm, end, events) = vm::FakeVm::new(self.clone(), id.clone(), has_sockets);
        self.lock().guests.push(end);
        (vm as Arc<dyn PlatformVm>, events)
    }

    fn changed(&self, change: &Change, guest: Option<&str>) {
        self.lock().changes.push((change.clone(), guest.map(str::to_owned)));
    }

    /// The guest's end of the VM that was created last.
    pub fn guest(&self) -> Option<FakeGuestEnd> {
        self.lock().guests.last().cloned()
    }

    /// How many there still are of all that belongs to VMs: `vms`, `ports` that somebody listens on, ends of `streams` at
    /// the host, `tasks`. Kinds of which there is none are left out.
    pub fn leftovers(&self) -> BTreeMap<&'static str, usize> {
        self.census.counts()
    }

    /// Waits until there is nothing left.
    pub async fn nothing_left(&self) {
        self.census.empty().await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the call down, then fails or hangs as planted.
    async fn call(&self, name: &str) -> Result<(), PlatformError> {
        match self.note(name) {
            None => Ok(()),
            Some(Fault::Fail) => Err(PlatformError::host(name, "a planted fault")),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Slow(time)) => {
                tokio::time::sleep(time).await;
                Ok(())
            }
        }
    }

    fn note(&self, name: &str) -> Option<Fault> {
        let mut shared = self.lock();
        shared.calls.push(name.to_owned());
        let at = shared.faults.iter().position(|planted| planted.call == name)?;
        if let Some(planted) = shared.faults.get_mut(at)
            && planted.skip > 0
        {
            planted.skip -= 1;
            return None;
        }
        shared.faults.remove(at).map(|planted| planted.fault)
    }
}

impl Default for FakePlatform {
    fn default() -> Self {
        Self::new()
    }
}

impl Platform for FakePlatform {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn host_processors(&self) -> u32 {
        self.processors
    }

    fn files(&self) -> &dyn PlatformFiles {
        &LocalFiles
    }

    fn network(&self) -> Result<&dyn PlatformNetwork, PlatformError> {
        self.networks()
    }

    fn new_guid(&self) -> Option<Result<String, PlatformError>> {
        None
    }

    fn create<'a>(&'a self, spec: &'a VmSpec) -> BoxFuture<'a, Result<CreatedVm, PlatformError>> {
        Box::pin(async move {
            self.lock().specs.push(spec.clone());
            self.call("create").await?;
            Ok(self.created(&spec.id, spec.virtual_sockets))
        })
    }

    fn create_wcow<'a>(&'a self, spec: &'a WcowSpec) -> BoxFuture<'a, Result<CreatedVm, PlatformError>> {
        Box::pin(async move {
            self.lock().wcow_specs.push(spec.clone());
            self.call("create").await?;
            Ok(self.created(&spec.id, true))
        })
    }
}
