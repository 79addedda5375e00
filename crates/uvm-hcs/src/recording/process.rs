//! Processes of a host in memory.

use std::io::{self, Cursor};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;
use tokio::sync::watch;
use uvm_platform::BoxFuture;
use uvm_wire::Hresult;

use super::{RecordedCall, RecordingHcs};
use crate::document::process::Pipes;
use crate::host::{ComputeProcess, HcsError, Notification, NotificationKind, ProcessStdio};

pub(super) struct RecordedProcess {
    host: RecordingHcs,
    id: u32,
    stdio: Mutex<ProcessStdio>,
    /// Its exit code, once it has ended.
    exit: watch::Sender<Option<u32>>,
    closed: AtomicBool,
}

impl RecordedProcess {
    /// A process that runs.
    pub(super) fn start(host: &RecordingHcs, parameters: &str) -> Self {
        let exit = watch::Sender::new(None);
        let id = {
            let mut state = host.lock();
            state.processes_started += 1;
            let id = FIRST_PROCESS + state.processes_started;
            state.processes.insert(id, exit.clone());
            id
        };
        let stdio = Mutex::new(stdio(host, id, parameters));
        Self { host: host.clone(), id, stdio, exit, closed: AtomicBool::new(false) }
    }

    fn op(&self, op: &str) -> RecordedCall {
        RecordedCall::new("hcs", op).on(self.id.to_string())
    }

    /// Whether it was open until now.
    fn forget(&self) -> bool {
        let first = !self.closed.swap(true, Ordering::AcqRel);
        if first {
            self.host.lock().processes.remove(&self.id);
        }
        first
    }
}

impl ComputeProcess for RecordedProcess {
    fn id(&self) -> u32 {
        self.id
    }

    fn take_stdio(&self) -> ProcessStdio {
        std::mem::take(&mut *self.stdio.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn signal<'a>(&'a self, options: &'a str) -> BoxFuture<'a, Result<(), HcsError>> {
        Box::pin(self.host.call(self.op("signal_process").with(options), "signal process"))
    }

    fn terminate(&self) -> BoxFuture<'_, Result<(), HcsError>> {
        Box::pin(async {
            self.host.call(self.op("terminate_process"), "terminate process").await?;
            self.exit.send_if_modified(|exit| exit.is_none() && exit.replace(KILLED).is_none());
            Ok(())
        })
    }

    fn modify<'a>(&'a self, settings: &'a str) -> BoxFuture<'a, Result<(), HcsError>> {
        Box::pin(self.host.call(self.op("modify_process").with(settings), "change process"))
    }

    fn properties(&self) -> BoxFuture<'_, Result<String, HcsError>> {
        let (id, exit) = (self.id, *self.exit.borrow());
        let own = move || {
            let (exited, code) = (exit.is_some(), exit.unwrap_or_default());
            format!(r#"{{"ProcessId":{id},"Exited":{exited},"ExitCode":{code},"LastWaitResult":0}}"#)
        };
        Box::pin(self.host.ask(self.op("get_process_properties"), "read properties of process", own))
    }

    fn wait(&self) -> BoxFuture<'_, Result<Notification, HcsError>> {
        Box::pin(async {
            let mut exit = self.exit.subscribe();
            // The sender is alive: `self` holds it.
            let exited = exit.wait_for(Option::is_some).await.is_ok();
            let told = exited.then(|| Notification::new(NotificationKind::ProcessExited, Hresult::OK));
            told.ok_or_else(|| HcsError::new("wait for process", self.id.to_string(), Hresult::FAIL, ""))
        })
    }

    fn close(&self) -> BoxFuture<'_, Result<(), HcsError>> {
        Box::pin(async {
            if !self.forget() {
                return Ok(());
            }
            self.host.call(self.op("close_process"), "close process").await
        })
    }
}

impl Drop for RecordedProcess {
    fn drop(&mut self) {
        if self.forget() {
            self.host.lock().calls.push(self.op("close_process"));
        }
    }
}

/// The streams that the parameters ask for. There is nothing to read of standard error.
fn stdio(host: &RecordingHcs, id: u32, parameters: &str) -> ProcessStdio {
    let wanted = if host.gives_pipes { Pipes::wanted(parameters) } else { Pipes::default() };
    ProcessStdio {
        stdin: wanted.stdin.then(|| Box::new(Input { host: host.clone(), id }) as Box<_>),
        stdout: wanted.stdout.then(|| Box::new(Cursor::new(host.output.to_vec())) as Box<_>),
        stderr: wanted.stderr.then(|| Box::new(tokio::io::empty()) as Box<_>),
    }
}

/// The standard input of a process: what is written is kept.
struct Input {
    host: RecordingHcs,
    id: u32,
}

impl AsyncWrite for Input {
    fn poll_write(self: Pin<&mut Self>, _cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.host.lock().inputs.entry(self.id).or_default().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Processes of the recordings count up from here.
const FIRST_PROCESS: u32 = 200;
/// What a process that was killed exits with.
const KILLED: u32 = 137;
