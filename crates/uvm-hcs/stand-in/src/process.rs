//! Processes that the service starts.

#![expect(unsafe_code, reason = "C interfaces; each block says why it is sound")]

use std::ffi::c_void;
use std::ptr;

use serde_json::Value;
use windows_sys::Win32::Foundation::{E_HANDLE, E_INVALIDARG, GENERIC_READ, S_OK};
use windows_sys::Win32::Storage::FileSystem::{
    CreateFileW, FILE_FLAG_OVERLAPPED, OPEN_EXISTING, PIPE_ACCESS_OUTBOUND, WriteFile,
};
use windows_sys::Win32::System::HostComputeSystem::{HCS_EVENT_CALLBACK, HCS_OPERATION, HcsEventProcessExited};
use windows_sys::Win32::System::Pipes::{CreateNamedPipeW, PIPE_TYPE_BYTE};
use windows_sys::core::{HRESULT, PCWSTR};

use crate::as_handle;
use crate::books::{Listener, Process, await_operations_about, with};
use crate::operation::{begin, well};
use crate::system;
use crate::text::read;

/// Whether there is such a process; that it is used without being one is written down.
fn is_open(process: *mut c_void) -> bool {
    with(|books| {
        let is_open = books.processes.contains_key(&process.addr());
        if !is_open {
            books.violation("this was used, and is no process, or was closed:", process);
        }
        is_open
    })
}

#[unsafe(no_mangle)]
unsafe extern "system" fn HcsCreateProcess(
    system: *mut c_void,
    parameters: PCWSTR,
    operation: HCS_OPERATION,
    _security: *const c_void,
    process: *mut *mut c_void,
) -> HRESULT {
    if !system::is_open(system) {
        return E_HANDLE;
    }
    // SAFETY: the caller gives a terminated text.
    if serde_json::from_str::<Value>(&unsafe { read(parameters) }).is_err() {
        return E_INVALIDARG;
    }
    let handle = with(|books| {
        let handle = books.new_handle();
        let started = Process { system: system.addr(), listener: Listener::default(), exited: false };
        books.processes.insert(handle, started);
        handle
    });
    // SAFETY: the caller gives a place for the handle.
    unsafe { process.write(as_handle(handle)) };
    let work = move |operation| {
        let output = output(handle);
        with(|books| {
            if let Some(operation) = books.operations.get_mut(&operation) {
                operation.process = Some((PROCESS_ID, output));
            }
        });
        well("")
    };
    begin(operation, as_handle(handle), work, || {})
}

/// The reading end of a pipe that holds what the process wrote.
fn output(process: usize) -> usize {
    let name: Vec<u16> = format!(r"\\.\pipe\stand-in-{process}").encode_utf16().chain([0]).collect();
    // SAFETY: the name is terminated, no security is given; the handles are used as the system says.
    unsafe {
        let writer =
            CreateNamedPipeW(name.as_ptr(), PIPE_ACCESS_OUTBOUND, PIPE_TYPE_BYTE, 1, 4096, 4096, 0, ptr::null());
        let reader = CreateFileW(
            name.as_ptr(),
            GENERIC_READ,
            0,
            ptr::null(),
            OPEN_EXISTING,
            FILE_FLAG_OVERLAPPED,
            ptr::null_mut(),
        );
        let mut written = 0;
        WriteFile(writer, OUTPUT.as_ptr(), OUTPUT.len() as u32, &raw mut written, ptr::null_mut());
        // The writer stays open, as that of a process that runs.
        reader.expose_provenance()
    }
}

#[unsafe(no_mangle)]
unsafe extern "system" fn HcsCloseProcess(process: *mut c_void) {
    await_operations_about(process.addr());
    with(|books| {
        if books.processes.remove(&process.addr()).is_none() {
            books.violation("a process was closed twice:", process);
        }
    });
}

#[unsafe(no_mangle)]
unsafe extern "system" fn HcsSetProcessCallback(
    process: *mut c_void,
    _options: i32,
    context: *const c_void,
    callback: HCS_EVENT_CALLBACK,
) -> HRESULT {
    if !is_open(process) {
        return E_HANDLE;
    }
    with(|books| {
        if let Some(process) = books.processes.get_mut(&process.addr()) {
            process.listener = Listener { callback, context: context.addr() };
        }
    });
    S_OK
}

#[unsafe(no_mangle)]
unsafe extern "system" fn HcsTerminateProcess(
    process: *mut c_void,
    operation: HCS_OPERATION,
    _options: PCWSTR,
) -> HRESULT {
    if !is_open(process) {
        return E_HANDLE;
    }
    let handle = process.addr();
    begin(
        operation,
        process,
        |_| well(""),
        move || {
            let listener = with(|books| {
                let process = books.processes.get_mut(&handle)?;
                let first = !std::mem::replace(&mut process.exited, true);
                first.then_some(process.listener)
            });
            if let Some(listener) = listener {
                let exit = r#"{"ProcessId":77,"Exited":true,"ExitCode":137}"#;
                system::tell(listener, HcsEventProcessExited, exit);
            }
        },
    )
}

/// Defines functions of a process that do nothing but answer.
macro_rules! answers {
    ($($name:ident => $answer:literal;)*) => {
        $(
            #[unsafe(no_mangle)]
            unsafe extern "system" fn $name(process: *mut c_void, operation: HCS_OPERATION, _text: PCWSTR) -> HRESULT {
                if !is_open(process) {
                    return E_HANDLE;
                }
                begin(operation, process, |_| well($answer), || {})
            }
        )*
    };
}

answers! {
    HcsSignalProcess => "";
    HcsModifyProcess => "";
    HcsGetProcessProperties => r#"{"ProcessId":77}"#;
}

const PROCESS_ID: u32 = 77;
const OUTPUT: &[u8] = b"hello";
