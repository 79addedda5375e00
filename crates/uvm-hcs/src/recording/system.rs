//! Systems of a host in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc;
use uvm_platform::BoxFuture;
use uvm_wire::Hresult;

use super::process::RecordedProcess;
use super::{RecordedCall, RecordingHcs};
use crate::host::{
    ComputeProcess, ComputeSystem, ComputeSystems, HcsError, Notification, NotificationKind, OpenSystem,
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
            let process = RecordedProcess::start(&self.host, parameters);
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
