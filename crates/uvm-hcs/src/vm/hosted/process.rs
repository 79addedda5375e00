//! A process that the service made.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use uvm_platform::{BoxFuture, NewProcess, PlatformError, PlatformProcess, ProcessStdio};
use uvm_wire::Hresult;

use super::input::Input;
use super::unclaimed::Unclaimed;
use super::{Link, closed, failure, told_if_left};
use crate::document::process::{Pipes, ProcessStatus, resize};
use crate::host::{ComputeProcess, ComputeSystem, HcsError};
use crate::vm::Vm;

pub(super) const INTENT: &str = "start a process in it";

/// Starts a process in the system that `system` finds.
pub(super) fn create<'a>(
    link: &Link,
    system: impl FnOnce() -> Result<Arc<dyn ComputeSystem>, PlatformError> + Send + 'static,
    parameters: &str,
) -> NewProcess<'a> {
    let (at, parameters) = (link.clone(), parameters.to_owned());
    let started = link.run(INTENT, |vm| async { start(vm, at, system()?, parameters).await });
    Box::pin(async move { Ok(Arc::new(started.await?.claim()) as Arc<dyn PlatformProcess>) })
}

async fn start(
    vm: Arc<Vm>,
    link: Link,
    system: Arc<dyn ComputeSystem>,
    parameters: String,
) -> Result<Unclaimed<HcsProcess>, PlatformError> {
    let wanted = Pipes::wanted(&parameters);
    let mut starting = Box::pin(async move { system.create_process(&parameters).await });
    let process = match vm.in_guest(INTENT, &mut starting).await {
        Ok(process) => process,
        Err(error) => {
            if matches!(error, PlatformError::Timeout { .. }) {
                // It may start yet, and nobody would know.
                link.spawn(|vm| async move {
                    if let Ok(late) = starting.await {
                        kill(&vm, &*late).await;
                        told_if_left(&vm, "process", late.id(), late.close()).await;
                    }
                });
            }
            return Err(error);
        }
    };
    let process = HcsProcess::keep(&vm, link.clone(), &process, wanted);
    let connected = process.missing(wanted).map_or(Ok(()), |stream| {
        Err(PlatformError::host(INTENT, format!("the compute service gave no pipe for its {stream}")))
    });
    let made = Unclaimed::new(process, link, |vm, process| Box::pin(async move { process.undo(&vm).await }));
    // The VM may have been closed meanwhile, with all that was known then.
    match connected.and_then(|()| vm.require_hosted(INTENT)) {
        Ok(()) => Ok(made),
        Err(error) => {
            made.undo(vm).await;
            Err(error)
        }
    }
}

/// Ends a process that nobody wants.
async fn kill(vm: &Vm, process: &dyn ComputeProcess) {
    match tokio::time::timeout(vm.parts.deadlines.rpc, process.terminate()).await {
        Ok(Err(error)) if !error.is_process_gone() => {
            tracing::warn!(vm = %vm.parts.id, process = process.id(), %error, "a process that nobody waits for goes on");
        }
        Err(_) => tracing::warn!(vm = %vm.parts.id, process = process.id(), "a process was not killed in time"),
        Ok(_) => {}
    }
}

/// A handle of a process.
pub(super) struct HcsProcess {
    id: u32,
    stdio: Mutex<ProcessStdio>,
    shared: Arc<Shared>,
}

/// How a process ended, once it is known.
type Exit = Option<Result<u32, PlatformError>>;

/// What a handle and its standard input share. The process is closed when both are gone.
pub(super) struct Shared {
    link: Link,
    process: Weak<dyn ComputeProcess>,
    exit: watch::Receiver<Exit>,
    signs: Arc<Signs>,
}

/// Signs that the end of a process was told to nobody, or never will be.
#[derive(Default)]
struct Signs {
    /// The service does not know it any more.
    gone: Notify,
    /// Somebody wants to know how it ended.
    asked: Notify,
}

impl HcsProcess {
    /// Has the VM own the process, and follows it to its end.
    fn keep(vm: &Arc<Vm>, link: Link, process: &Arc<dyn ComputeProcess>, wanted: Pipes) -> Self {
        vm.hosted.open().processes.push(Arc::clone(process));
        let (told, exit) = watch::channel(None);
        let signs = Arc::new(Signs::default());
        let follow = follow(Arc::clone(vm), Arc::clone(process), Arc::clone(&signs), told);
        link.spawn(|_| follow);
        let shared = Arc::new(Shared { link, process: Arc::downgrade(process), exit, signs });
        let ProcessStdio { stdin, stdout, stderr } = process.take_stdio();
        let input = |pipe| Box::new(Input::new(pipe, Arc::clone(&shared))) as Box<_>;
        // What was not asked for is not passed on.
        let streams = ProcessStdio {
            stdin: stdin.filter(|_| wanted.stdin).map(input),
            stdout: stdout.filter(|_| wanted.stdout),
            stderr: stderr.filter(|_| wanted.stderr),
        };
        Self { id: process.id(), stdio: Mutex::new(streams), shared }
    }

    /// Which stream was asked for and is not there.
    fn missing(&self, wanted: Pipes) -> Option<&'static str> {
        let stdio = self.stdio.lock().unwrap_or_else(PoisonError::into_inner);
        let streams = [
            ("standard input", wanted.stdin, stdio.stdin.is_some()),
            ("standard output", wanted.stdout, stdio.stdout.is_some()),
            ("standard error", wanted.stderr, stdio.stderr.is_some()),
        ];
        streams.into_iter().find(|(_, wanted, is_there)| *wanted && !is_there).map(|(stream, ..)| stream)
    }

    /// Ends a process that nobody wants. Dropping it closes it.
    async fn undo(self, vm: &Vm) {
        if let Some(process) = self.shared.process.upgrade() {
            kill(vm, &*process).await;
        }
    }
}

/// Waits for the end from the beginning on, since the service tells it once.
async fn follow(vm: Arc<Vm>, process: Arc<dyn ComputeProcess>, signs: Arc<Signs>, exit: watch::Sender<Exit>) {
    let untold = async {
        signs.gone.notified().await;
        signs.asked.notified().await;
        tokio::time::sleep(UNTOLD).await;
    };
    let told = tokio::select! {
        biased;
        () = exit.closed() => return,
        told = process.wait() => told.map(drop),
        status = vm.ending() => return drop(exit.send_replace(Some(Err(vm.ended(WAIT, status))))),
        () = untold => Ok(()),
    };
    let known = match told {
        Ok(()) => exit_code(&vm, &*process).await,
        Err(error) => vm.require_open(WAIT).and_then(|()| Err(failure(WAIT, error))),
    };
    exit.send_replace(Some(known));
}

/// What the service says of a process that has ended.
async fn exit_code(vm: &Vm, process: &dyn ComputeProcess) -> Result<u32, PlatformError> {
    let answer = vm.in_guest(WAIT, process.properties()).await?;
    let status = ProcessStatus::read(&answer).map_err(|e| PlatformError::host(WAIT, e))?;
    match status {
        ProcessStatus { exited: false, .. } => Err(PlatformError::host(WAIT, "its end was not told")),
        ProcessStatus { last_wait_result: 0, exit_code, .. } => Ok(exit_code),
        ProcessStatus { last_wait_result, .. } => {
            let code = Hresult::from_bits(last_wait_result.cast_unsigned());
            Err(failure(WAIT, HcsError::new("wait for process", process.id().to_string(), code, "")))
        }
    }
}

impl Shared {
    /// Whether it is known how it ended.
    pub(super) fn has_ended(&self) -> bool {
        self.exit.borrow().is_some()
    }

    /// Waits until it is known how it ended, or the VM is gone.
    pub(super) async fn ended(&self) {
        // Whoever follows it went with the VM.
        let _ = self.exit.clone().wait_for(Option::is_some).await;
    }

    /// Has the service do something with the process. `false`: it has ended.
    pub(super) fn unless_gone<F>(
        &self,
        intent: &'static str,
        call: impl FnOnce(Arc<dyn ComputeProcess>) -> F + Send + 'static,
    ) -> BoxFuture<'static, Result<bool, PlatformError>>
    where
        F: Future<Output = Result<(), HcsError>> + Send + 'static,
    {
        let (process, signs) = (Weak::clone(&self.process), Arc::clone(&self.signs));
        self.link.run(intent, move |vm| async move {
            vm.require_open(intent)?;
            let process = process.upgrade().ok_or_else(|| closed(intent))?;
            let called = async {
                match call(process).await {
                    Err(error) if error.is_process_gone() => {
                        signs.gone.notify_one();
                        Ok(false)
                    }
                    result => result.map(|()| true),
                }
            };
            vm.in_guest(intent, called).await
        })
    }

    /// Runs `work` where the VM's own I/O runs, unless the VM is gone.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.link.spawn(|_| work);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let Some(process) = self.process.upgrade() else { return };
        self.link.spawn(|vm| async move {
            vm.hosted.open().processes.retain(|open| !Arc::ptr_eq(open, &process));
            told_if_left(&vm, "process", process.id(), process.close()).await;
        });
    }
}

impl PlatformProcess for HcsProcess {
    fn id(&self) -> u32 {
        self.id
    }

    fn take_stdio(&self) -> ProcessStdio {
        std::mem::take(&mut *self.stdio.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn wait(&self) -> BoxFuture<'_, Result<u32, PlatformError>> {
        let mut exit = self.shared.exit.clone();
        self.shared.signs.asked.notify_one();
        Box::pin(async move {
            let known = exit.wait_for(Option::is_some).await.ok().and_then(|exit| exit.clone());
            // Whoever follows it went with the VM.
            known.unwrap_or(Err(closed(WAIT)))
        })
    }

    fn exit_code(&self) -> Option<u32> {
        self.shared.signs.asked.notify_one();
        self.shared.exit.borrow().as_ref()?.as_ref().ok().copied()
    }

    fn signal<'a>(&'a self, options: &'a str) -> BoxFuture<'a, Result<bool, PlatformError>> {
        let options = options.to_owned();
        self.shared.unless_gone("signal a process of it", |process| async move { process.signal(&options).await })
    }

    fn kill(&self) -> BoxFuture<'_, Result<bool, PlatformError>> {
        self.shared.unless_gone("kill a process of it", |process| async move { process.terminate().await })
    }

    fn resize(&self, rows: u16, columns: u16) -> BoxFuture<'_, Result<(), PlatformError>> {
        let request = resize(rows, columns);
        let change = |process: Arc<dyn ComputeProcess>| async move { process.modify(&request).await };
        let resized = self.shared.unless_gone("resize a terminal of it", change);
        Box::pin(async move { resized.await.map(drop) })
    }
}

const WAIT: &str = "wait for a process of it";

/// How long after the service has forgotten a process its end may be told.
const UNTOLD: Duration = Duration::from_secs(1);
