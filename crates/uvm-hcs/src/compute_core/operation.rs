//! Operations: calls to the service that are finished by a callback.

use std::ffi::c_void;
use std::os::windows::io::{FromRawHandle, OwnedHandle};
use std::thread;

use tokio::sync::oneshot;
use uvm_wire::Hresult;
use windows_sys::Win32::Foundation::{HANDLE, INVALID_HANDLE_VALUE};
use windows_sys::Win32::System::HostComputeSystem::{HCS_OPERATION, HCS_PROCESS_INFORMATION};
use windows_sys::core::HRESULT;

use super::blocking::blocking;
use super::libraries::ComputeCoreLibrary;
use super::owned::LocalText;
use super::registry::{Number, Registry};
use super::{check, system_error};
use crate::host::HcsError;

/// What an operation is to answer with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Document,
    /// Also the process that was started.
    Process,
}

/// What an operation came to.
pub(super) struct Outcome {
    status: HRESULT,
    /// The answer, or what is said of a failure.
    pub(super) document: String,
    pub(super) process: Option<StartedProcess>,
}

/// A process that was started, and its streams.
pub(super) struct StartedProcess {
    pub(super) id: u32,
    pub(super) stdin: Option<OwnedHandle>,
    pub(super) stdout: Option<OwnedHandle>,
    pub(super) stderr: Option<OwnedHandle>,
}

/// An operation under way: who waits for it, and its handle, which stays here until it is finished.
struct UnderWay {
    waiter: oneshot::Sender<Outcome>,
    answer: Answer,
    operation: Operation,
}

static UNDER_WAY: Registry<UnderWay> = Registry::new();

/// The handle of an operation.
struct Operation {
    core: &'static ComputeCoreLibrary,
    handle: HCS_OPERATION,
}

// SAFETY: the library takes an operation's handle on any thread.
unsafe impl Send for Operation {}

impl Drop for Operation {
    fn drop(&mut self) {
        // SAFETY: it was created, is finished or was never begun, and is closed once.
        unsafe { (self.core.HcsCloseOperation)(self.handle) };
    }
}

/// Begins an operation by `begin`, on a thread of its own, and waits until it is finished. A caller that gives up does
/// not stop it.
pub(super) async fn run(
    core: &'static ComputeCoreLibrary,
    (intent, object): (&'static str, &str),
    answer: Answer,
    begin: impl FnOnce(HCS_OPERATION) -> HRESULT + Send + 'static,
) -> Result<Outcome, HcsError> {
    let name = object.to_owned();
    let finished = blocking(intent, move |intent| {
        let (waiter, finished) = oneshot::channel();
        let number = UNDER_WAY.reserve();
        // SAFETY: the callback is one, and takes the context for a number.
        let handle = unsafe { (core.HcsCreateOperation)(number.to_context(), Some(completed)) };
        if handle.is_null() {
            return Err(system_error(intent, &name, &std::io::Error::last_os_error()));
        }
        UNDER_WAY.put(number, UnderWay { waiter, answer, operation: Operation { core, handle } });
        let status = begin(handle);
        if status < 0 {
            // It was not begun, so no callback comes.
            drop(UNDER_WAY.remove(number));
        }
        check(intent, &name, status, "").map(|()| finished)
    });
    let lost = |_| HcsError::new(intent, object, Hresult::FAIL, "the operation was lost");
    let outcome = finished.await?.await.map_err(lost)?;
    check(intent, object, outcome.status, &outcome.document).map(|()| outcome)
}

/// Called by the library, on a thread of its own, once for each operation that was begun.
unsafe extern "system" fn completed(operation: HCS_OPERATION, context: *const c_void) {
    let Some(under_way) = UNDER_WAY.remove(Number::from_context(context)) else { return };
    let UnderWay { waiter, answer, operation: owned } = under_way;
    let mut document = LocalText::default();
    let mut process = HCS_PROCESS_INFORMATION::default();
    // SAFETY: the library gives its own operation, which is finished; the others are valid for writes.
    let status = unsafe {
        match answer {
            Answer::Document => (owned.core.HcsGetOperationResult)(operation, document.slot()),
            Answer::Process => {
                (owned.core.HcsGetOperationResultAndProcessInfo)(operation, &raw mut process, document.slot())
            }
        }
    };
    let process = (answer == Answer::Process && status >= 0).then(|| StartedProcess {
        id: process.ProcessId,
        stdin: owned_handle(process.StdInput),
        stdout: owned_handle(process.StdOutput),
        stderr: owned_handle(process.StdError),
    });
    // A caller that gave up does not want it; what it holds is closed with it.
    let _ = waiter.send(Outcome { status, document: document.take(), process });
    // Not here: the library is still about to return from this operation.
    let closing = thread::Builder::new().name("uvm-hcs-close".into()).spawn(move || drop(owned));
    // Without a thread it stays open, which costs a handle.
    drop(closing);
}

/// A handle that the library gives away, if there is one.
fn owned_handle(handle: HANDLE) -> Option<OwnedHandle> {
    if handle.is_null() || handle == INVALID_HANDLE_VALUE {
        return None;
    }
    // SAFETY: it is open, and nobody else has it.
    Some(unsafe { OwnedHandle::from_raw_handle(handle) })
}
