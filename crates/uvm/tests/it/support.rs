//! What these tests share: VMs on the fake host, and errors as text.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::task::AbortHandle;
use uvm::platform::fake::{FakeGuestEnd, FakePlatform, FakeStream};
use uvm::wire::execute::{ExecuteProcess, ExecuteProcessReply};
use uvm::wire::negotiate::{Capabilities, GuestDefinedCapabilities, NegotiateProtocolReply};
use uvm::wire::process::{WaitForProcess, WaitForProcessReply};
use uvm::wire::{Call, ContainerId};
use uvm::{
    BridgeError, Container, ContainerError, ContainerOptions, ExitStatus, LcowOptions, ProgramError, ResourceError,
    UtilityVm, UvmError,
};
pub(crate) use uvm_testkit::TestResult;
use uvm_testkit::guest::{Guest, Received};

/// A VM on a host of its own. The test plays its guest.
pub(crate) struct Played {
    pub(crate) host: FakePlatform,
    pub(crate) vm: UtilityVm,
    pub(crate) end: FakeGuestEnd,
    _limit: Limit,
}

impl Played {
    /// Created, not started.
    pub(crate) async fn create() -> TestResult<Self> {
        Self::create_with(|_| ()).await
    }

    /// As `create`, with these options changed.
    pub(crate) async fn create_with(change: impl FnOnce(&mut LcowOptions)) -> TestResult<Self> {
        Self::create_on(FakePlatform::new(), change).await
    }

    /// As `create_with`, on this host.
    pub(crate) async fn create_on(host: FakePlatform, change: impl FnOnce(&mut LcowOptions)) -> TestResult<Self> {
        let vm = create_on(&host, &options(change)).await?;
        let end = host.guest().ok_or("there is no guest")?;
        let limit = Limit(tokio::spawn(end_at_last(end.clone())).abort_handle());
        Ok(Self { host, vm, end, _limit: limit })
    }

    /// Started, with an agent of ours.
    pub(crate) async fn boot() -> TestResult<(Self, Guest)> {
        Self::boot_with(|_| ()).await
    }

    /// As `boot`, with these options changed.
    pub(crate) async fn boot_with(change: impl FnOnce(&mut LcowOptions)) -> TestResult<(Self, Guest)> {
        let played = Self::create_with(change).await?;
        let guest = played.start(Guest::capabilities()).await?;
        Ok((played, guest))
    }

    /// Started, with an agent of the original.
    pub(crate) async fn boot_original() -> TestResult<(Self, Guest)> {
        let played = Self::create_with(|options| options.boot_files = Some(boot_files(ORIGINAL))).await?;
        let guest = played.start(original_capabilities()).await?;
        Ok((played, guest))
    }

    /// Starts it with an agent that answers negotiation so.
    pub(crate) async fn start(&self, reply: NegotiateProtocolReply) -> TestResult<Guest> {
        let boot = async {
            let mut guest = Guest::boot(&self.end).await?;
            guest.negotiate_as(reply).await?;
            TestResult::Ok(guest)
        };
        let (started, guest) = within_a_day(async { tokio::join!(self.vm.start(), boot) }).await?;
        started?;
        guest
    }

    /// Closes it, drops it, and passes if nothing is left of it.
    pub(crate) async fn close(self) -> TestResult {
        self.vm.close().await?;
        let Self { host, vm, end, .. } = self;
        drop((vm, end));
        nothing_left(&host).await
    }
}

/// Options that can be used, with these changed.
pub(crate) fn options(change: impl FnOnce(&mut LcowOptions)) -> LcowOptions {
    let mut options = LcowOptions::default().with_boot_files(boot_files(OURS));
    change(&mut options);
    options
}

pub(crate) async fn create_on(host: &FakePlatform, options: &LcowOptions) -> Result<UtilityVm, UvmError> {
    UtilityVm::create_lcow_on(Arc::new(host.clone()), options).await
}

/// Passes once nothing is left of any VM.
pub(crate) async fn nothing_left(host: &FakePlatform) -> TestResult {
    match tokio::time::timeout(LONG, host.nothing_left()).await {
        Ok(()) => Ok(()),
        Err(_) => Err(format!("left behind: {:?}", host.leftovers()).into()),
    }
}

/// Longer than anything takes. The clock of these tests is paused: it moves when nobody can do anything else, so this
/// passes at once when something hangs.
pub(crate) const LONG: Duration = Duration::from_secs(24 * 3600);

/// Cuts off whoever waits for the guest, or plays it, without a limit: the test fails then, and does not hang.
async fn end_at_last(end: FakeGuestEnd) {
    tokio::time::sleep(LONG * 30).await;
    end.exit(ExitStatus::Reset);
}

/// Ends that task. The paused clock would jump to its end while another thread makes the next VM.
struct Limit(AbortHandle);

impl Drop for Limit {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Waits until nobody can do anything but wait: only then does the paused clock move.
pub(crate) async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// Lets `what` begin, and nobody else run.
pub(crate) async fn poll_once<F: Future + Unpin>(what: &mut F) {
    let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(std::pin::Pin::new(&mut *what).poll(cx))).await;
    assert!(polled.is_pending(), "it was over at once");
}

/// What happens within a day of the paused clock.
pub(crate) fn within_a_day<T>(what: impl Future<Output = T>) -> impl Future<Output = TestResult<T>> {
    // These futures are large.
    let what = Box::pin(what);
    async move { tokio::time::timeout(LONG, what).await.map_err(|_| "it hangs".into()) }
}

/// The error with all of its causes, as one text.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |e| e.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Why something could not be plugged in, unplugged or found.
pub(crate) fn source(error: &UvmError) -> &ResourceError {
    match error {
        UvmError::Resource { source, .. } => source,
        other => panic!("{other}"),
    }
}

/// How the call to the guest failed, if that is why.
pub(crate) fn bridge_error(error: &UvmError) -> Option<&BridgeError> {
    match error {
        UvmError::Guest { source, .. } | UvmError::Container { source: ContainerError::Guest(source), .. } => {
            Some(source)
        }
        UvmError::Program { source, .. } => match &**source {
            ProgramError::Guest(source) => Some(source),
            _ => None,
        },
        _ => None,
    }
}

/// What the agents of the original say of themselves.
pub(crate) fn original_capabilities() -> NegotiateProtocolReply {
    NegotiateProtocolReply { version: 4, capabilities: Capabilities::linux(GuestDefinedCapabilities::linux()) }
}

/// Whose agent boot files hold.
pub(crate) const OURS: &str = "ours";
pub(crate) const ORIGINAL: &str = "original";

/// A container with the least that one must have.
pub(crate) fn container(id: &str) -> ContainerOptions {
    ContainerOptions::new(id, r#"{"process":{},"root":{},"linux":{}}"#)
}

/// Makes a container of options of its own.
pub(crate) async fn create_container(vm: &UtilityVm, options: ContainerOptions) -> Result<Container, UvmError> {
    vm.create_container(&options).await
}

/// A directory of boot files that hold this agent. They are empty: the fake host boots nothing.
pub(crate) fn boot_files(agent: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("uvm-boot-files-{agent}"));
    fs::create_dir_all(&directory).expect("the directory for tests can be written to");
    let file = format!(r#"{{"size":0,"sha256":"{SHA256_OF_NOTHING}"}}"#);
    let manifest = format!(
        r#"{{"format":1,"agent":{{"kind":"{agent}","version":"1","sha256":"{SHA256_OF_NOTHING}"}},
            "kernel":{{"name":"none","release":"1","image":"vmlinux","hz":null}},"busybox":null,"modules":[],
            "files":{{"vmlinux":{file},"initrd.img":{file}}}}}"#
    );
    for (name, text) in [("vmlinux", ""), ("initrd.img", ""), ("manifest.json", &*manifest)] {
        // Other tests may be reading it.
        let aside = tempfile::NamedTempFile::new_in(&directory).expect("a file");
        fs::write(&aside, text).expect("written");
        aside.persist(directory.join(name)).expect("renamed");
    }
    directory
}

const SHA256_OF_NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// A process that the guest was asked to run, as the guest has it.
pub(crate) struct GuestProcess {
    pub(crate) asked: ExecuteProcess,
    /// Its container, or the VM.
    pub(crate) container: ContainerId,
    /// Input, output, error.
    pub(crate) streams: [Option<FakeStream>; 3],
    /// The request to be told its end.
    pub(crate) wait: Received,
}

impl GuestProcess {
    /// Serves a request to run a process, up to the request to be told its end.
    pub(crate) async fn begin(guest: &mut Guest, id: u32) -> TestResult<Self> {
        let received = guest.expect::<ExecuteProcess>().await?;
        let asked = executes(&received);
        let streams = guest.dial_stdio(&asked.settings.vsock_stdio.unwrap_or_default()).await?;
        guest.reply::<ExecuteProcess>(&received, Ok(ExecuteProcessReply { process_id: id })).await?;
        let wait = guest.expect::<WaitForProcess>().await?;
        let container = received.request.base.container_id;
        assert_eq!(wait.request.base.container_id, container);
        assert_eq!(wait.request.call, WaitForProcess::forever(id).into());
        Ok(Self { asked, container, streams, wait })
    }

    /// Ends its output, and tells its end.
    pub(crate) async fn exit(self, guest: &mut Guest, reply: WaitForProcessReply) -> TestResult {
        for mut output in self.streams.into_iter().skip(1).flatten() {
            output.shutdown().await?;
        }
        Ok(guest.reply::<WaitForProcess>(&self.wait, Ok(reply)).await?)
    }
}

/// What a request to run a process says.
pub(crate) fn executes(received: &Received) -> ExecuteProcess {
    match &received.request.call {
        Call::ExecuteProcess(call) => (**call).clone(),
        other => panic!("not a process: {other:?}"),
    }
}

/// By itself, with this code.
pub(crate) fn code(exit_code: u32) -> WaitForProcessReply {
    WaitForProcessReply { exit_code, signal: None }
}

/// Passes if the guest is asked for nothing as long as nothing else happens.
pub(crate) async fn silence(guest: &mut Guest) -> TestResult {
    tokio::select! {
        asked = guest.next() => Err(format!("the guest was asked for something: {asked:?}").into()),
        () = settle() => Ok(()),
    }
}
