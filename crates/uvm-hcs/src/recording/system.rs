//! Systems and processes of a host in memory.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, watch};
use uvm_platform::BoxFuture;
use uvm_wire::Hresult;

use super::{RecordedCall, RecordingHcs};
use crate::host::{
    ComputeProcess, ComputeSystem, ComputeSystems, HcsError, Notification, NotificationKind, OpenSystem, ProcessStdio,
};

impl ComputeSystems for RecordingHcs {
    fn create_system<'a>(&'a self, id: &'a str, document: &'a str) -> BoxFuture<'a, Result<OpenSystem, HcsError>> {
        Box::pin(async move {
            let intent = "create compute system";
            self.call(RecordedCall::new("hcs", "create_system").on(id).with(document), intent).await?;
            let (sender, notifications) = mpsc::unbounded_channel();
            {
                let mut state = self.lock();
                if state.systems.contains_key(id) {
                    return Err(HcsError::new(intent, id, HcsError::ALREADY_EXISTS, ""));
                }
                state.systems.insert(id.to_owned(), sender);
            }
            let system = RecordedSystem { host: self.clone(), id: id.to_owned(), closed: AtomicBool::new(false) };
            Ok(OpenSystem { system: Arc::new(system), notifications })
        })
    }
}

struct RecordedSystem {
    host: RecordingHcs,
    id: String,
    closed: AtomicBool,
}

impl RecordedSystem {
    fn op(&self, op: &str) -> RecordedCall {
        RecordedCall::new("hcs", op).on(&self.id)
    }

    /// Asks for the end, which comes unless the host's systems are stubborn.
    async fn end(&self, op: &str, intent: &'static str) -> Result<(), HcsError> {
        self.host.call(self.op(op), intent).await?;
        if self.host.ends_when_told {
            self.host.notify(&self.id, Notification::new(NotificationKind::SystemExited, Hresult::OK));
        }
        Ok(())
    }

    /// What a system of the original's recordings says of itself, with what the service is asked for besides.
    fn own_properties(&self) -> String {
        let (id, runtime_id) = (&self.id, self.host.runtime_id);
        format!(r#"{{"Id":"{id}","SystemType":"VirtualMachine","RuntimeId":"{runtime_id}","State":"Running"}}"#)
    }

    fn forget(&self) -> bool {
        let first = !self.closed.swap(true, Ordering::AcqRel);
        if first {
            self.host.lock().systems.remove(&self.id);
        }
        first
    }
}

impl ComputeSystem for RecordedSystem {
    fn start(&self) -> BoxFuture<'_, Result<(), HcsError>> {
        Box::pin(async {
            self.host.call(self.op("start_system"), "start compute system").await?;
            self.host.started.send_if_modified(|started| started.insert(self.id.clone()));
            Ok(())
        })
    }

    fn pause(&self) -> BoxFuture<'_, Result<(), HcsError>> {
        Box::pin(self.host.call(self.op("pause_system"), "pause compute system"))
    }

    fn resume(&self) -> BoxFuture<'_, Result<(), HcsError>> {
        Box::pin(self.host.call(self.op("resume_system"), "resume compute system"))
    }

    fn shutdown(&self) -> BoxFuture<'_, Result<(), HcsError>> {
        Box::pin(self.end("shutdown_system", "shut down compute system"))
    }

    fn terminate(&self) -> BoxFuture<'_, Result<(), HcsError>> {
        Box::pin(self.end("terminate_system", "terminate compute system"))
    }

    fn modify<'a>(&'a self, request: &'a str) -> BoxFuture<'a, Result<(), HcsError>> {
        Box::pin(self.host.call(self.op("modify_system").with(request), "change compute system"))
    }

    fn properties<'a>(&'a self, query: &'a str) -> BoxFuture<'a, Result<String, HcsError>> {
        let call = self.op("get_properties").with(query);
        Box::pin(self.host.ask(call, "read properties of compute system", || self.own_properties()))
    }

    fn create_process<'a>(&'a self, parameters: &'a str) -> BoxFuture<'a, Result<Arc<dyn ComputeProcess>, HcsError>> {
        Box::pin(async move {
            let call = self.op("create_process").with(parameters);
            self.host.call(call, "start a process in compute system").await?;
            let id = {
                let mut state = self.host.lock();
                state.processes_started += 1;
                FIRST_PROCESS + state.processes_started
            };
            let process = RecordedProcess {
                host: self.host.clone(),
                id,
                stdio: Mutex::new(Some(stdio(parameters))),
                exit: watch::Sender::new(None),
                closed: AtomicBool::new(false),
            };
            Ok(Arc::new(process) as Arc<dyn ComputeProcess>)
        })
    }

    fn close(&self) -> BoxFuture<'_, Result<(), HcsError>> {
        Box::pin(async {
            if self.closed.load(Ordering::Acquire) {
                return Ok(());
            }
            let result = self.host.call(self.op("close_system"), "close compute system").await;
            self.forget();
            result
        })
    }
}

impl Drop for RecordedSystem {
    fn drop(&mut self) {
        if self.forget() {
            self.host.lock().calls.push(self.op("close_system"));
        }
    }
}

struct RecordedProcess {
    host: RecordingHcs,
    id: u32,
    stdio: Mutex<Option<ProcessStdio>>,
    exit: watch::Sender<Option<Notification>>,
    closed: AtomicBool,
}

impl RecordedProcess {
    fn op(&self, op: &str) -> RecordedCall {
        RecordedCall::new("hcs", op).on(self.id.to_string())
    }
}

impl ComputeProcess for RecordedProcess {
    fn id(&self) -> u32 {
        self.id
    }

    fn take_stdio(&self) -> ProcessStdio {
        self.stdio.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default()
    }

    fn signal<'a>(&'a self, options: &'a str) -> BoxFuture<'a, Result<(), HcsError>> {
        Box::pin(self.host.call(self.op("signal_process").with(options), "signal process"))
    }

    fn terminate(&self) -> BoxFuture<'_, Result<(), HcsError>> {
        Box::pin(async {
            self.host.call(self.op("terminate_process"), "terminate process").await?;
            self.exit.send_replace(Some(Notification::new(NotificationKind::ProcessExited, Hresult::OK)));
            Ok(())
        })
    }

    fn modify<'a>(&'a self, settings: &'a str) -> BoxFuture<'a, Result<(), HcsError>> {
        Box::pin(self.host.call(self.op("modify_process").with(settings), "change process"))
    }

    fn properties(&self) -> BoxFuture<'_, Result<String, HcsError>> {
        let (id, exited) = (self.id, self.exit.borrow().is_some());
        let own = move || {
            let code = if exited { KILLED } else { 0 };
            format!(r#"{{"ProcessId":{id},"Exited":{exited},"ExitCode":{code},"LastWaitResult":0}}"#)
        };
        Box::pin(self.host.ask(self.op("get_process_properties"), "read properties of process", own))
    }

    fn wait(&self) -> BoxFuture<'_, Result<Notification, HcsError>> {
        Box::pin(async {
            let mut exit = self.exit.subscribe();
            // The sender is alive: `self` holds it.
            let exited = exit.wait_for(Option::is_some).await.ok().and_then(|exit| exit.clone());
            exited.ok_or_else(|| HcsError::new("wait for process", self.id.to_string(), Hresult::FAIL, ""))
        })
    }

    fn close(&self) -> BoxFuture<'_, Result<(), HcsError>> {
        Box::pin(async {
            if self.closed.swap(true, Ordering::AcqRel) {
                return Ok(());
            }
            self.host.call(self.op("close_process"), "close process").await
        })
    }
}

/// The streams that the parameters ask for: what is written is lost, and there is nothing to read.
fn stdio(parameters: &str) -> ProcessStdio {
    #[derive(Default, serde::Deserialize)]
    #[serde(default, rename_all = "PascalCase")]
    struct Wanted {
        create_std_in_pipe: bool,
        create_std_out_pipe: bool,
        create_std_err_pipe: bool,
    }
    let wanted: Wanted = serde_json::from_str(parameters).unwrap_or_default();
    let output = |wanted: bool| wanted.then(|| Box::new(tokio::io::empty()) as Box<_>);
    ProcessStdio {
        stdin: wanted.create_std_in_pipe.then(|| Box::new(tokio::io::sink()) as Box<_>),
        stdout: output(wanted.create_std_out_pipe),
        stderr: output(wanted.create_std_err_pipe),
    }
}

/// Processes of the recordings count up from here.
const FIRST_PROCESS: u32 = 200;
/// What a process that was killed exits with.
const KILLED: u32 = 137;
