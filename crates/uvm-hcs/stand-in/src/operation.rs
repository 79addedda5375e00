//! Operations: begun by a call, finished on another thread.

#![expect(unsafe_code, reason = "C interfaces; each block says why it is sound")]

use std::ffi::c_void;
use std::thread;

use serde_json::json;
use windows_sys::Win32::Foundation::{E_INVALIDARG, S_OK};
use windows_sys::Win32::System::HostComputeSystem::{HCS_OPERATION, HCS_OPERATION_COMPLETION, HCS_PROCESS_INFORMATION};
use windows_sys::core::{HRESULT, PWSTR};

use crate::as_handle;
use crate::books::{Operation, operation_closed, with};
use crate::text::give;

/// The result of an operation, and the text with it.
pub(crate) type Finished = (HRESULT, String);

pub(crate) fn well(text: impl Into<String>) -> Finished {
    (S_OK, text.into())
}

pub(crate) fn failed(code: HRESULT, message: &str) -> Finished {
    (code, json!({"Error": code, "ErrorMessage": message}).to_string())
}

/// Finishes an operation about a system or a process on another thread: by `work`, and then the callback. Afterwards
/// comes `then`.
pub(crate) fn begin(
    operation: HCS_OPERATION,
    about: *mut c_void,
    work: impl FnOnce(usize) -> Finished + Send + 'static,
    then: impl FnOnce() + Send + 'static,
) -> HRESULT {
    let (handle, about) = (operation.addr(), about.addr());
    let accepted = with(|books| match books.operations.get_mut(&handle) {
        Some(operation) if operation.about.is_none() => {
            operation.about = Some(about);
            true
        }
        _ => {
            books.violation("an operation was begun twice, or never made:", operation);
            false
        }
    });
    if !accepted {
        return E_INVALIDARG;
    }
    thread::spawn(move || {
        let result = work(handle);
        let callback = with(|books| {
            let operation = books.operations.get_mut(&handle)?;
            operation.result = Some(result);
            Some((operation.callback?, operation.context))
        });
        match callback {
            // SAFETY: the caller gave both for this call.
            Some((callback, context)) => unsafe { callback(as_handle(handle), as_handle(context)) },
            None => with(|books| books.violation("an operation was closed before its end:", as_handle(handle))),
        }
        then();
    });
    S_OK
}

#[unsafe(no_mangle)]
unsafe extern "system" fn HcsCreateOperation(
    context: *const c_void,
    callback: HCS_OPERATION_COMPLETION,
) -> HCS_OPERATION {
    with(|books| {
        let handle = books.new_handle();
        let context = context.addr();
        let operation = Operation { callback, context, about: None, result: None, process: None };
        books.operations.insert(handle, operation);
        as_handle(handle)
    })
}

#[unsafe(no_mangle)]
unsafe extern "system" fn HcsCloseOperation(operation: HCS_OPERATION) {
    with(|books| match books.operations.remove(&operation.addr()) {
        None => books.violation("an operation was closed twice:", operation),
        Some(closed) if closed.about.is_some() && closed.result.is_none() => {
            books.violation("an operation was closed while it was under way:", operation);
        }
        Some(_) => {}
    });
    operation_closed();
}

#[unsafe(no_mangle)]
unsafe extern "system" fn HcsGetOperationResult(operation: HCS_OPERATION, document: *mut PWSTR) -> HRESULT {
    let result = with(|books| books.operations.get(&operation.addr()).and_then(|operation| operation.result.clone()));
    let Some((code, text)) = result else {
        with(|books| books.violation("an operation was asked before its end:", operation));
        return E_INVALIDARG;
    };
    // SAFETY: the caller gives a place for a text.
    unsafe { give(&text, document) };
    code
}

#[unsafe(no_mangle)]
unsafe extern "system" fn HcsGetOperationResultAndProcessInfo(
    operation: HCS_OPERATION,
    information: *mut HCS_PROCESS_INFORMATION,
    document: *mut PWSTR,
) -> HRESULT {
    let process = with(|books| books.operations.get(&operation.addr()).and_then(|operation| operation.process));
    if let Some((id, [input, output, error])) = process {
        let told = HCS_PROCESS_INFORMATION {
            ProcessId: id,
            StdInput: as_handle(input),
            StdOutput: as_handle(output),
            StdError: as_handle(error),
            ..HCS_PROCESS_INFORMATION::default()
        };
        // SAFETY: the caller gives a place for it.
        unsafe { information.write(told) };
    }
    // SAFETY: as the caller says.
    unsafe { HcsGetOperationResult(operation, document) }
}
