//! Compute systems of the service.

use std::ffi::c_void;
use std::sync::Arc;

use tokio::sync::mpsc;
use uvm_platform::BoxFuture;
use uvm_wire::Hresult;
use windows_sys::Win32::System::HostComputeSystem::{HCS_EVENT, HCS_OPERATION, HCS_SYSTEM, HcsEventOptionNone};
use windows_sys::core::{HRESULT, PCWSTR};

use super::ComputeCore;
use super::held::Held;
use super::libraries::ComputeCoreLibrary;
use super::operation::{self, Answer};
use super::owned::{read, wide};
use super::process::CoreProcess;
use super::registry::{Number, Registry};
use crate::host::{ComputeProcess, ComputeSystem, ComputeSystems, HcsError, Notification, OpenSystem};

/// Who is told of a system or a process.
pub(super) static LISTENERS: Registry<mpsc::UnboundedSender<Notification>> = Registry::new();

/// The handle of a system, and the number under which it is listened to.
pub(super) struct SystemHandle {
    core: &'static ComputeCoreLibrary,
    handle: HCS_SYSTEM,
    number: Number,
}

// SAFETY: the library takes a system's handle on any thread, on several at once.
unsafe impl Send for SystemHandle {}
// SAFETY: as above.
unsafe impl Sync for SystemHandle {}

impl SystemHandle {
    pub(super) fn raw(&self) -> HCS_SYSTEM {
        self.handle
    }
}

impl Drop for SystemHandle {
    fn drop(&mut self) {
        // SAFETY: it was created and is closed once, when no call uses it any more.
        unsafe { (self.core.HcsCloseComputeSystem)(self.handle) };
        drop(LISTENERS.remove(self.number));
    }
}

impl ComputeSystems for ComputeCore {
    fn create_system<'a>(&'a self, id: &'a str, document: &'a str) -> BoxFuture<'a, Result<OpenSystem, HcsError>> {
        let core = self.core();
        Box::pin(async move {
            let (sender, notifications) = mpsc::unbounded_channel();
            let created = Arc::new(Held::empty());
            let begin = {
                let (id, document, created) = (wide(id), wide(document), Arc::clone(&created));
                move |operation| {
                    let mut handle = std::ptr::null_mut();
                    // SAFETY: the texts are terminated, the operation is ours, the handle is valid for a write.
                    let status = unsafe {
                        (core.HcsCreateComputeSystem)(
                            id.as_ptr(),
                            document.as_ptr(),
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
                    // From here on dropping it closes the system, also if nobody waits any more.
                    let system = SystemHandle { core, handle, number };
                    // SAFETY: the handle is open, and the callback takes the context for a number.
                    let listening = unsafe {
                        (core.HcsSetComputeSystemCallback)(handle, HcsEventOptionNone, number.to_context(), Some(told))
                    };
                    created.put((Arc::new(system), listening));
                    status
                }
            };
            let intent = "create compute system";
            if let Err(error) = operation::run(core, (intent, id), Answer::Document, begin).await {
                // Before that is told: what was refused has its id as long as it is open. Why it cannot be closed says less.
                let _ = created.close("close compute system").await;
                return Err(error);
            }
            let lost = || HcsError::new(intent, id, Hresult::FAIL, "it was lost");
            let (handle, listening) = created.take().ok_or_else(lost)?;
            let system = CoreSystem { core, id: id.to_owned(), handle: Held::of(handle) };
            super::check("listen to compute system", id, listening, "")?;
            Ok(OpenSystem { system: Arc::new(system), notifications })
        })
    }
}

/// A system that is open, or was closed.
struct CoreSystem {
    core: &'static ComputeCoreLibrary,
    id: String,
    handle: Held<Arc<SystemHandle>>,
}

/// A function that does something with a system, with options.
type WithOptions = unsafe extern "system" fn(HCS_SYSTEM, HCS_OPERATION, PCWSTR) -> HRESULT;

impl CoreSystem {
    fn open(&self, intent: &'static str) -> Result<Arc<SystemHandle>, HcsError> {
        self.handle.get().ok_or_else(|| HcsError::new(intent, &self.id, INVALID_HANDLE, "it was closed"))
    }

    /// Runs an operation on the system; the text is what it is given, if anything.
    fn run<'a>(
        &'a self,
        intent: &'static str,
        function: WithOptions,
        text: Option<&'a str>,
    ) -> BoxFuture<'a, Result<String, HcsError>> {
        Box::pin(async move {
            let system = self.open(intent)?;
            let text = text.map(wide);
            let begin = move |operation| {
                let text = text.as_ref().map_or(std::ptr::null(), Vec::as_ptr);
                // SAFETY: the system is open as long as it is held here; the text is terminated, or null for none.
                unsafe { function(system.raw(), operation, text) }
            };
            let outcome = operation::run(self.core, (intent, &self.id), Answer::Document, begin).await?;
            Ok(outcome.document)
        })
    }

    fn without_answer<'a>(
        &'a self,
        intent: &'static str,
        function: WithOptions,
    ) -> BoxFuture<'a, Result<(), HcsError>> {
        Box::pin(async move { self.run(intent, function, None).await.map(drop) })
    }
}

impl ComputeSystem for CoreSystem {
    fn start(&self) -> BoxFuture<'_, Result<(), HcsError>> {
        self.without_answer("start compute system", self.core.HcsStartComputeSystem)
    }

    fn pause(&self) -> BoxFuture<'_, Result<(), HcsError>> {
        self.without_answer("pause compute system", self.core.HcsPauseComputeSystem)
    }

    fn resume(&self) -> BoxFuture<'_, Result<(), HcsError>> {
        self.without_answer("resume compute system", self.core.HcsResumeComputeSystem)
    }

    fn shutdown(&self) -> BoxFuture<'_, Result<(), HcsError>> {
        self.without_answer("shut down compute system", self.core.HcsShutDownComputeSystem)
    }

    fn terminate(&self) -> BoxFuture<'_, Result<(), HcsError>> {
        self.without_answer("terminate compute system", self.core.HcsTerminateComputeSystem)
    }

    fn modify<'a>(&'a self, request: &'a str) -> BoxFuture<'a, Result<(), HcsError>> {
        Box::pin(async move {
            let intent = "change compute system";
            let (system, core, request) = (self.open(intent)?, self.core, wide(request));
            let begin = move |operation| {
                // SAFETY: the system is open as long as it is held here; the text is terminated; no identity is given.
                unsafe {
                    (core.HcsModifyComputeSystem)(system.raw(), operation, request.as_ptr(), std::ptr::null_mut())
                }
            };
            operation::run(self.core, (intent, &self.id), Answer::Document, begin).await.map(drop)
        })
    }

    fn properties<'a>(&'a self, query: &'a str) -> BoxFuture<'a, Result<String, HcsError>> {
        self.run("read properties of compute system", self.core.HcsGetComputeSystemProperties, Some(query))
    }

    fn create_process<'a>(&'a self, parameters: &'a str) -> BoxFuture<'a, Result<Arc<dyn ComputeProcess>, HcsError>> {
        Box::pin(async move {
            let system = self.open("start a process in compute system")?;
            let process = CoreProcess::start(self.core, &self.id, system, parameters).await?;
            Ok(Arc::new(process) as Arc<dyn ComputeProcess>)
        })
    }

    fn close(&self) -> BoxFuture<'_, Result<(), HcsError>> {
        Box::pin(self.handle.close("close compute system"))
    }
}

/// Called by the library, on a thread of its own, for each thing it tells of a system or a process.
pub(super) unsafe extern "system" fn told(event: *const HCS_EVENT, context: *const c_void) {
    let Some(listener) = LISTENERS.get(Number::from_context(context)) else { return };
    // SAFETY: the library gives an event that is valid during this call, or none.
    let Some(event) = (unsafe { event.as_ref() }) else { return };
    // SAFETY: its data is null or terminated, and stays during this call.
    let data = unsafe { read(event.EventData) };
    // A listener that is gone does not want it.
    let _ = listener.send(Notification::from_event(event.Type.cast_unsigned(), data));
}

/// What the system calls a handle that is closed.
pub(super) const INVALID_HANDLE: Hresult = Hresult::from_bits(0x8007_0006);
