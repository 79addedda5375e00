//! A Windows host in memory, on every system: keeps every call with its JSON, in order, answers from a script, fails
//! where a fault is planted, tells what a test wants told.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! use uvm_hcs::host::ComputeSystems;
//! use uvm_hcs::recording::{Fault, RecordingHcs};
//! use uvm_wire::Hresult;
//!
//! let host = RecordingHcs::new();
//! host.plant(Fault::on("hcs", "start_system").code(Hresult::from_bits(0x8007_0005)));
//! let open = host.create_system("vm", "{}").await.expect("no fault there");
//! assert!(open.system.start().await.is_err());
//! let ops: Vec<String> = host.calls().into_iter().map(|call| call.op).collect();
//! assert_eq!(ops, ["create_system", "start_system"]);
//! # });
//! ```

mod call;
mod files;
mod host;
mod process;
mod sockets;
mod system;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use uvm_platform::fake::FakeStream;
use uvm_wire::{Guid, RawJson};

pub use call::{Fault, RecordedCall};

use call::Failing;
use files::MemoryFiles;

use crate::host::{HcsError, Notification, NotificationKind};
use crate::win_path::WinPath;
use crate::windows_build::WindowsBuild;

/// What a host answers to a call that asks something; `None` leaves it to the recording's own answer.
pub type Answers = Arc<dyn Fn(&RecordedCall) -> Option<String> + Send + Sync>;

/// A Windows host in memory. Clones share everything.
#[derive(Clone)]
pub struct RecordingHcs {
    build: WindowsBuild,
    logical_processors: u32,
    runtime_id: Guid,
    answers: Answers,
    output: Arc<[u8]>,
    gives_pipes: bool,
    ends_when_told: bool,
    takes: Duration,
    started: watch::Sender<BTreeSet<String>>,
    ended: watch::Sender<BTreeSet<String>>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    calls: Vec<RecordedCall>,
    faults: Vec<Fault>,
    /// Who listens to what is told of a system.
    systems: HashMap<String, mpsc::UnboundedSender<Notification>>,
    /// Which services of which VM the host listens on.
    host_listeners: HashMap<(Guid, Guid), mpsc::UnboundedSender<FakeStream>>,
    /// And the guest.
    guest_listeners: HashMap<(Guid, Guid), mpsc::UnboundedSender<FakeStream>>,
    files: MemoryFiles,
    has_no_file_ids: bool,
    working_sets: BTreeMap<Guid, u64>,
    guids_drawn: u64,
    processes_started: u32,
    /// Those that are open, and the exit codes of those that have ended.
    processes: BTreeMap<u32, watch::Sender<Option<u32>>>,
    /// What was written to their standard inputs.
    inputs: BTreeMap<u32, Vec<u8>>,
}

impl RecordingHcs {
    /// The runtime id that a VM of a recording has unless another is set.
    pub const RUNTIME_ID: Guid = Guid::from_u128(0x8d3a_2c51_7f60_4b1e_9c42_5e8f_0000_0001);

    /// A host of build 19041 with 8 processors and no files.
    pub fn new() -> Self {
        Self {
            build: WindowsBuild(19041),
            logical_processors: 8,
            runtime_id: Self::RUNTIME_ID,
            answers: Arc::new(|_| None),
            output: Arc::default(),
            gives_pipes: true,
            ends_when_told: true,
            takes: Duration::ZERO,
            started: watch::Sender::new(BTreeSet::new()),
            ended: watch::Sender::new(BTreeSet::new()),
            state: Arc::default(),
        }
    }

    /// The same host of this build.
    #[must_use]
    pub fn with_build(self, build: WindowsBuild) -> Self {
        Self { build, ..self }
    }

    /// The same host with this many processors.
    #[must_use]
    pub fn with_logical_processors(self, logical_processors: u32) -> Self {
        Self { logical_processors, ..self }
    }

    /// The same host, whose VMs have this runtime id.
    #[must_use]
    pub fn with_runtime_id(self, runtime_id: Guid) -> Self {
        Self { runtime_id, ..self }
    }

    /// The same host, which answers by this script first.
    #[must_use]
    pub fn with_answers(self, answers: impl Fn(&RecordedCall) -> Option<String> + Send + Sync + 'static) -> Self {
        Self { answers: Arc::new(answers), ..self }
    }

    /// The same host, whose processes write this to their standard outputs.
    #[must_use]
    pub fn with_output(self, output: &[u8]) -> Self {
        Self { output: output.into(), ..self }
    }

    /// The same host, which gives no pipes to processes, whatever they are to have.
    #[must_use]
    pub fn without_pipes(self) -> Self {
        Self { gives_pipes: false, ..self }
    }

    /// The same host, whose systems do not end when they are told to: a test tells that they have, or not.
    #[must_use]
    pub fn with_stubborn_systems(self) -> Self {
        Self { ends_when_told: false, ..self }
    }

    /// The same host, which takes this long to hear each call. With a test's paused clock, all that can go on without the
    /// host does so first.
    #[must_use]
    pub fn with_calls_that_take(self, takes: Duration) -> Self {
        Self { takes, ..self }
    }

    /// Waits until this system has been started.
    pub async fn started(&self, system: &str) {
        // The sender is alive: `self` holds it.
        let _ = self.started.subscribe().wait_for(|started| started.contains(system)).await;
    }

    /// Waits until it was told that this system has ended.
    pub async fn ended(&self, system: &str) {
        // The sender is alive: `self` holds it.
        let _ = self.ended.subscribe().wait_for(|ended| ended.contains(system)).await;
    }

    /// Writes down something that the host has no part in, in its place among the calls.
    pub fn note_down(&self, call: RecordedCall) {
        self.lock().calls.push(call);
    }

    /// Plants a fault. Of several that fit a call, the one that was planted first fails it.
    pub fn plant(&self, fault: Fault) {
        self.lock().faults.push(fault);
    }

    /// All calls so far, in order.
    pub fn calls(&self) -> Vec<RecordedCall> {
        self.lock().calls.clone()
    }

    /// The calls since this was asked last.
    pub fn take_calls(&self) -> Vec<RecordedCall> {
        std::mem::take(&mut self.lock().calls)
    }

    /// Tells something of a system. `false` if nobody listens: there is no such system, or it is closed.
    pub fn notify(&self, system: &str, notification: Notification) -> bool {
        if notification.kind == NotificationKind::SystemExited {
            self.ended.send_if_modified(|ended| ended.insert(system.to_owned()));
        }
        let listener = self.lock().systems.get(system).cloned();
        listener.is_some_and(|listener| listener.send(notification).is_ok())
    }

    /// How many systems are open.
    pub fn open_systems(&self) -> usize {
        self.lock().systems.len()
    }

    /// How many processes are open.
    pub fn open_processes(&self) -> usize {
        self.lock().processes.len()
    }

    /// Has a process end by itself with this code. `false` if it is not open.
    pub fn exit_process(&self, id: u32, code: u32) -> bool {
        let process = self.lock().processes.get(&id).cloned();
        process.is_some_and(|exit| exit.send_if_modified(|exit| exit.is_none() && exit.replace(code).is_none()))
    }

    /// What was written to the standard input of a process.
    pub fn input_of(&self, id: u32) -> Vec<u8> {
        self.lock().inputs.get(&id).cloned().unwrap_or_default()
    }

    /// Puts a file on the host, and the directories it is in.
    pub fn add_file(&self, path: &WinPath, size: u64) {
        self.lock().files.add_file(path, size);
    }

    /// Puts a directory on the host, and those it is in.
    pub fn add_directory(&self, path: &WinPath) {
        self.lock().files.add_directory(path);
    }

    /// All that is on the host.
    pub fn files(&self) -> Vec<WinPath> {
        self.lock().files.paths()
    }

    /// From now on no file system gives its files ids.
    pub fn take_file_ids_away(&self) {
        self.lock().has_no_file_ids = true;
    }

    /// The working set of the process that holds the memory of this VM. Without it there is no such process.
    pub fn set_working_set(&self, runtime_id: Guid, bytes: u64) {
        self.lock().working_sets.insert(runtime_id, bytes);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the call down, then fails as planted; `intent` is what an error says. Waits for ever if that was planted.
    async fn call(&self, call: RecordedCall, intent: &'static str) -> Result<(), HcsError> {
        if !self.takes.is_zero() {
            tokio::time::sleep(self.takes).await;
        }
        match self.note(call, intent) {
            Ok(None) => Ok(()),
            Ok(Some(late)) => {
                tokio::time::sleep(late).await;
                Ok(())
            }
            Err(Some(error)) => Err(error),
            Err(None) => std::future::pending().await,
        }
    }

    /// Writes the call down, and says by how much its answer is to be late; `Err(None)` if it is never to end.
    fn note(&self, mut call: RecordedCall, intent: &'static str) -> Result<Option<Duration>, Option<HcsError>> {
        let mut state = self.lock();
        let failing = call::first_that_fits(&mut state.faults, &call);
        let object = call.id.clone().unwrap_or_default();
        let result = match &failing {
            None => Ok(None),
            Some((Failing::Late(by), _)) => Ok(Some(*by)),
            Some((Failing::Hang, _)) => Err(None),
            Some((Failing::Code { code, detail }, _)) => {
                call.failure = Some(format!("{code} {detail}"));
                Err(Some(HcsError::new(intent, object, *code, detail)))
            }
        };
        let was_there = call.op == "create_system" && matches!(failing, Some((_, true)));
        let close = was_there.then(|| RecordedCall { id: call.id.clone(), ..RecordedCall::new("hcs", "close_system") });
        state.calls.push(call);
        state.calls.extend(close);
        result
    }

    /// Writes a call that asks down, with its answer.
    async fn ask(
        &self,
        call: RecordedCall,
        intent: &'static str,
        own: impl FnOnce() -> String + Send,
    ) -> Result<String, HcsError> {
        let answer = (self.answers)(&call).unwrap_or_else(own);
        let with_answer = RecordedCall { answer: RawJson::parse(&answer).ok(), ..call };
        self.call(with_answer, intent).await?;
        Ok(answer)
    }
}

impl Default for RecordingHcs {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
