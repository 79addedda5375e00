//! A VM with networks, whose guest does what it is told and writes down what that was.

use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::Value;
use tokio::task::AbortHandle;
use uvm::platform::fake::FakePlatform;
use uvm::wire::call::Done;
use uvm::wire::modify::ModifySettings;
use uvm::wire::negotiate::{self, GuestDefinedCapabilities, NegotiateProtocolReply};
use uvm::wire::{Call, Failure};
use uvm::{Endpoint, LcowOptions, UtilityVm, UvmError, WcowOptions};
use uvm_testkit::guest::Guest;

use crate::support::{ORIGINAL, TestResult, boot_files, create_on, within_a_day};

pub(crate) const NAMESPACE: &str = "b1b2b3b4-0000-4000-9000-00000000000a";

/// A VM with a guest that does what it is told, and what it and the host were asked, in order.
pub(crate) struct Networked {
    pub(crate) host: FakePlatform,
    pub(crate) vm: UtilityVm,
    journal: Arc<Mutex<Journal>>,
    task: Option<AbortHandle>,
}

#[derive(Default)]
struct Journal {
    lines: Vec<String>,
    /// What the guest was told, as a whole.
    told: Vec<Value>,
    /// How many of the host's calls are in it.
    seen: usize,
    /// The adapters that the guest was told of.
    adapters: Vec<String>,
    /// What the guest does about one request, after this many.
    misbehave: Option<(usize, Answer)>,
    /// It refuses them all.
    refuses_all: bool,
}

/// What a guest answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    Refused,
    Nothing,
}

impl Journal {
    /// Writes down what the host was asked since.
    fn follow(&mut self, host: &FakePlatform) {
        let calls = host.calls();
        self.lines.extend(calls[self.seen..].iter().map(|call| format!("host: {call}")));
        self.seen = calls.len();
    }

    fn told(&mut self, request: Value) -> Answer {
        let settings = &request["Settings"];
        let id =
            ["AdapterId", "AdapterInstanceId", "ID"].map(|key| settings[key].as_str()).into_iter().flatten().next();
        let what = match (request["ResourceType"].as_str(), id) {
            (Some("Network"), Some(id)) => {
                let at = self.adapters.iter().position(|known| known == id).unwrap_or_else(|| {
                    self.adapters.push(id.to_owned());
                    self.adapters.len() - 1
                });
                format!("Network {}", at + 1)
            }
            (Some("NetworkNamespace"), _) => format!("NetworkNamespace {settings}"),
            (other, _) => format!("{other:?}"),
        };
        let kind = settings["RequestType"].as_str().or(request["RequestType"].as_str()).unwrap_or_default();
        self.lines.push(format!("guest: {kind} {what}"));
        self.told.push(request);
        if self.refuses_all {
            return Answer::Refused;
        }
        match self.misbehave.take() {
            Some((0, answer)) => answer,
            later => {
                self.misbehave = later.map(|(left, answer)| (left - 1, answer));
                Answer::Done
            }
        }
    }
}

impl Networked {
    /// A Linux guest whose agent can do this.
    pub(crate) async fn linux(guest_defined: GuestDefinedCapabilities) -> TestResult<Self> {
        let host = FakePlatform::new();
        let vm = create_on(&host, &original()).await?;
        Self::boot(host, vm, negotiate::Capabilities::linux(guest_defined)).await
    }

    /// A Windows guest that knows namespaces, on a host that has the one.
    pub(crate) async fn windows() -> TestResult<Self> {
        let host = FakePlatform::new();
        host.add_namespace(NAMESPACE, r#"{"Type":"Guest"}"#);
        let vm = create_windows(&host, |_| ()).await?;
        let guest_defined = GuestDefinedCapabilities { namespace_add_request: true, ..Default::default() };
        Self::boot(host, vm, negotiate::Capabilities { guest_defined, ..Default::default() }).await
    }

    /// With a guest whose agent says this of itself.
    pub(crate) async fn boot(
        host: FakePlatform,
        vm: UtilityVm,
        capabilities: negotiate::Capabilities,
    ) -> TestResult<Self> {
        let end = host.guest().ok_or("there is no guest")?;
        let is_windows = capabilities.runtime_os_type.is_empty();
        let boot = async {
            let mut guest = Guest::boot(&end).await?;
            guest.negotiate_as(NegotiateProtocolReply { version: 4, capabilities }).await?;
            if is_windows {
                guest.answer::<ModifySettings>(Done {}).await?;
            }
            TestResult::Ok(guest)
        };
        let (started, guest) = within_a_day(async { tokio::join!(vm.start(), boot) }).await?;
        started?;
        let mut guest = guest?;
        let journal = Arc::new(Mutex::new(Journal { seen: host.calls().len(), ..Journal::default() }));
        let (books, asked) = (Arc::clone(&journal), host.clone());
        let task = tokio::spawn(async move {
            while let Ok(Some(received)) = guest.next().await {
                let Call::ModifySettings(_) = &received.request.call else { return };
                let whole: Value = serde_json::from_slice(&received.payload).expect("JSON");
                let request = whole["Request"].clone();
                let answer = {
                    let mut books = books.lock().expect("no panic");
                    books.follow(&asked);
                    books.told(request)
                };
                let outcome = match answer {
                    Answer::Done => Ok(Done {}),
                    Answer::Refused => Err(Failure::plain("the guest will not")),
                    Answer::Nothing => continue,
                };
                if guest.reply::<ModifySettings>(&received, outcome).await.is_err() {
                    return;
                }
            }
        });
        Ok(Self { host, vm, journal, task: Some(task.abort_handle()) })
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        let mut journal = self.journal.lock().expect("no panic");
        journal.follow(&self.host);
        journal
    }

    /// What was asked since the last time.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.journal().lines)
    }

    /// What the guest was told since the last time.
    pub(crate) fn told(&self) -> Vec<Value> {
        std::mem::take(&mut self.journal().told)
    }

    /// From here on, adapters are numbered from 1.
    pub(crate) fn start_anew(&self) {
        let mut journal = self.journal();
        journal.adapters.clear();
        journal.lines.clear();
    }

    /// The guest answers so to one request, after this many.
    pub(crate) fn misbehave(&self, after: usize, answer: Answer) {
        self.journal().misbehave = Some((after, answer));
    }

    /// The guest does nothing it is told any more, or does it again.
    pub(crate) fn refuse_all(&self, refuses: bool) {
        self.journal().refuses_all = refuses;
    }
}

impl Drop for Networked {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

/// Options of VMs with the original's agent.
pub(crate) fn original() -> LcowOptions {
    LcowOptions::default().with_boot_files(boot_files(ORIGINAL))
}

pub(crate) async fn create_windows(
    host: &FakePlatform,
    change: impl FnOnce(&mut WcowOptions),
) -> Result<UtilityVm, UvmError> {
    let mut options = WcowOptions::new([r"C:\top", r"C:\base", r"C:\scratch"]);
    change(&mut options);
    UtilityVm::create_wcow_on(Arc::new(host.clone()), &options).await
}

/// An endpoint as the host describes it.
pub(crate) fn endpoint(id: &str) -> Endpoint {
    let mut endpoint = Endpoint::new(id, NAMESPACE);
    endpoint.mac_address = "00-15".into();
    endpoint.ip_address = "172.20.0.2".parse().ok();
    endpoint.prefix_length = 20;
    endpoint.gateway = "172.20.0.1".parse().ok();
    endpoint.description = Some(format!(r#"{{"ID":"{id}"}}"#));
    endpoint
}
