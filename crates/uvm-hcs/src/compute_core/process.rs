//! Processes that the service starts.

use std::os::windows::io::{IntoRawHandle, OwnedHandle};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::windows::named_pipe::NamedPipeClient;
use tokio::sync::{mpsc, watch};
use uvm_platform::BoxFuture;
use uvm_wire::Hresult;
use windows_sys::Win32::System::HostComputeSystem::{HCS_OPERATION, HCS_PROCESS, HcsEventOptionNone};
use windows_sys::core::{HRESULT, PCWSTR};

use super::held::Held;
use super::libraries::ComputeCoreLibrary;
use super::operation::{self, Answer, StartedProcess};
use super::owned::wide;
use super::registry::Number;
use super::stdin::StdinPipe;
use super::system::{INVALID_HANDLE, LISTENERS, SystemHandle, told};
use super::{check, system_error};
use crate::host::{ComputeProcess, HcsError, Notification, NotificationKind, ProcessStdio};

/// The handle of a process, and the number under which it is listened to.
struct ProcessHandle {
    core: &'static ComputeCoreLibrary,
    handle: HCS_PROCESS,
    number: Number,
    /// Its system stays open as long.
    _system: Arc<SystemHandle>,
}

// SAFETY: the library takes a process's handle on any thread, on several at once.
unsafe impl Send for ProcessHandle {}
// SAFETY: as above.
unsafe impl Sync for ProcessHandle {}

impl Drop for ProcessHandle {
    fn drop(&mut self) {
        // SAFETY: it was created and is closed once, when no call uses it any more.
        unsafe { (self.core.HcsCloseProcess)(self.handle) };
        drop(LISTENERS.remove(self.number));
    }
}

/// A process that is open, or was closed.
pub(super) struct CoreProcess {
    core: &'static ComputeCoreLibrary,
    /// The system's id and the process's number, for messages.
    name: String,
    id: u32,
    stdio: Mutex<ProcessStdio>,
    handle: Held<Arc<ProcessHandle>>,
    /// What is told of it, until it is known how it ended.
    told: tokio::sync::Mutex<mpsc::UnboundedReceiver<Notification>>,
    exit: watch::Sender<Option<Result<Notification, HcsError>>>,
}

/// A function that does something with a process, with options.
type WithOptions = unsafe extern "system" fn(HCS_PROCESS, HCS_OPERATION, PCWSTR) -> HRESULT;

impl CoreProcess {
    pub(super) async fn start(
        core: &'static ComputeCoreLibrary,
        system_id: &str,
        system: Arc<SystemHandle>,
        parameters: &str,
    ) -> Result<Self, HcsError> {
        let intent = "start a process in compute system";
        let (sender, told_of_it) = mpsc::unbounded_channel();
        let created = Arc::new(Held::empty());
        let begin = {
            let (parameters, created) = (wide(parameters), Arc::clone(&created));
            move |operation| {
                let mut handle = std::ptr::null_mut();
                // SAFETY: the system is open as long as it is held here; the text is terminated; the handle is valid
                // for a write.
                let status = unsafe {
                    (core.HcsCreateProcess)(
                        system.raw(),
                        parameters.as_ptr(),
                        operation,
                        std::ptr::null(),
                        &raw mut handle,
                    )
                };
                if status < 0 {
                    return status;
                }
                let number = LISTENERS.reserve();
                LISTENERS.put(number, sender);
                let process = ProcessHandle { core, handle, number, _system: system };
                // SAFETY: the handle is open, and the callback takes the context for a number.
                let listening = unsafe {
                    (core.HcsSetProcessCallback)(handle, HcsEventOptionNone, number.to_context(), Some(told))
                };
                created.put((Arc::new(process), listening));
                status
            }
        };
        let outcome = match operation::run(core, (intent, system_id), Answer::Process, begin).await {
            Ok(outcome) => outcome,
            Err(error) => {
                // Before that is told: it keeps its system open. Why it cannot be closed says less.
                let _ = created.close("close process").await;
                return Err(error);
            }
        };
        let (Some((handle, listening)), Some(started)) = (created.take(), outcome.process) else {
            return Err(HcsError::new(intent, system_id, Hresult::FAIL, "it was lost"));
        };
        let process = Self {
            core,
            name: format!("{system_id}:{}", started.id),
            id: started.id,
            stdio: Mutex::default(),
            handle: Held::of(handle),
            told: tokio::sync::Mutex::new(told_of_it),
            exit: watch::Sender::new(None),
        };
        if let Err(error) = process.connect(listening, started) {
            // It runs, but nobody could follow it or talk to it.
            if let Err(error) = process.terminate().await {
                tracing::warn!(%error, "a process that nobody has goes on");
            }
            return Err(error);
        }
        Ok(process)
    }

    fn connect(&self, listening: HRESULT, started: StartedProcess) -> Result<(), HcsError> {
        check("listen to process", &self.name, listening, "")?;
        let stdio = stdio(started).map_err(|error| system_error("use the streams of process", &self.name, &error))?;
        *self.stdio.lock().unwrap_or_else(PoisonError::into_inner) = stdio;
        Ok(())
    }

    fn run<'a>(
        &'a self,
        intent: &'static str,
        function: WithOptions,
        text: Option<&'a str>,
    ) -> BoxFuture<'a, Result<String, HcsError>> {
        Box::pin(async move {
            let closed = || HcsError::new(intent, &self.name, INVALID_HANDLE, "it was closed");
            let process = self.handle.get().ok_or_else(closed)?;
            let text = text.map(wide);
            let begin = move |operation| {
                let text = text.as_ref().map_or(std::ptr::null(), Vec::as_ptr);
                // SAFETY: the process is open as long as it is held here; the text is terminated, or null for none.
                unsafe { function(process.handle, operation, text) }
            };
            let outcome = operation::run(self.core, (intent, &self.name), Answer::Document, begin).await?;
            Ok(outcome.document)
        })
    }
}

/// The streams, each read and written as the system's own asynchronous pipes.
fn stdio(started: StartedProcess) -> std::io::Result<ProcessStdio> {
    let pipe = |handle: Option<OwnedHandle>| -> std::io::Result<Option<NamedPipeClient>> {
        let Some(handle) = handle else { return Ok(None) };
        // SAFETY: the service makes these pipes for asynchronous use, and nobody else has the handle.
        unsafe { NamedPipeClient::from_raw_handle(handle.into_raw_handle()) }.map(Some)
    };
    Ok(ProcessStdio {
        stdin: pipe(started.stdin)?.map(|pipe| Box::new(StdinPipe::new(pipe)) as Box<_>),
        stdout: pipe(started.stdout)?.map(|pipe| Box::new(pipe) as Box<_>),
        stderr: pipe(started.stderr)?.map(|pipe| Box::new(pipe) as Box<_>),
    })
}

impl ComputeProcess for CoreProcess {
    fn id(&self) -> u32 {
        self.id
    }

    fn take_stdio(&self) -> ProcessStdio {
        std::mem::take(&mut *self.stdio.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn signal<'a>(&'a self, options: &'a str) -> BoxFuture<'a, Result<(), HcsError>> {
        Box::pin(async move { self.run("signal process", self.core.HcsSignalProcess, Some(options)).await.map(drop) })
    }

    fn terminate(&self) -> BoxFuture<'_, Result<(), HcsError>> {
        Box::pin(async { self.run("terminate process", self.core.HcsTerminateProcess, None).await.map(drop) })
    }

    fn modify<'a>(&'a self, settings: &'a str) -> BoxFuture<'a, Result<(), HcsError>> {
        Box::pin(async move { self.run("change process", self.core.HcsModifyProcess, Some(settings)).await.map(drop) })
    }

    fn properties(&self) -> BoxFuture<'_, Result<String, HcsError>> {
        self.run("read properties of process", self.core.HcsGetProcessProperties, None)
    }

    fn wait(&self) -> BoxFuture<'_, Result<Notification, HcsError>> {
        Box::pin(async {
            // Whoever waits first listens for all.
            let mut told = self.told.lock().await;
            loop {
                if let Some(exit) = &*self.exit.borrow() {
                    return exit.clone();
                }
                let failed = |code, why| Err(HcsError::new("wait for process", &self.name, code, why));
                let exit = match told.recv().await {
                    Some(exit) if exit.kind == NotificationKind::ProcessExited => Ok(exit),
                    Some(notification) if notification.kind == NotificationKind::ServiceDisconnect => {
                        failed(Hresult::FAIL, "lost communication with the compute service")
                    }
                    Some(_) => continue,
                    None => failed(INVALID_HANDLE, "it was closed"),
                };
                self.exit.send_replace(Some(exit));
            }
        })
    }

    fn close(&self) -> BoxFuture<'_, Result<(), HcsError>> {
        Box::pin(self.handle.close("close process"))
    }
}
