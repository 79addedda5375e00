//! Processes that the service starts.

#![expect(unsafe_code, reason = "C interfaces; each block says why it is sound")]

use std::ffi::c_void;
use std::fs::File;
use std::io::{Read, Write};
use std::os::windows::io::{HandleOrInvalid, IntoRawHandle, OwnedHandle};
use std::{process, ptr, thread};

use serde_json::{Value, json};
use windows_sys::Win32::Foundation::{E_HANDLE, E_INVALIDARG, GENERIC_READ, GENERIC_WRITE, S_OK};
use windows_sys::Win32::Storage::FileSystem::{
    CreateFileW, FILE_FLAG_OVERLAPPED, OPEN_EXISTING, PIPE_ACCESS_INBOUND, PIPE_ACCESS_OUTBOUND,
};
use windows_sys::Win32::System::HostComputeSystem::{HCS_EVENT_CALLBACK, HCS_OPERATION, HcsEventProcessExited};
use windows_sys::Win32::System::Pipes::{CreateNamedPipeW, PIPE_TYPE_BYTE};
use windows_sys::core::{HRESULT, PCWSTR};

use crate::as_handle;
use crate::books::{Listener, Process, await_operations_about, with};
use crate::operation::{Finished, begin, failed, well};
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
    let Ok(parameters) = serde_json::from_str::<Value>(&unsafe { read(parameters) }) else { return E_INVALIDARG };
    let handle = with(|books| {
        let handle = books.new_handle();
        let (system, listener) = (system.addr(), Listener::default());
        let started = Process { system, listener, exited: false, input_ended: false, outputs: Vec::new() };
        books.processes.insert(handle, started);
        handle
    });
    // SAFETY: the caller gives a place for the handle.
    unsafe { process.write(as_handle(handle)) };
    let work = move |operation| {
        let open = |stream: &str, access| (parameters[stream] == true).then(|| pipe(handle, stream, access)).unzip();
        let (input, stdin) = open("CreateStdInPipe", PIPE_ACCESS_INBOUND);
        let (output, stdout) = open("CreateStdOutPipe", PIPE_ACCESS_OUTBOUND);
        let (error, stderr) = open("CreateStdErrPipe", PIPE_ACCESS_OUTBOUND);
        if let Some(input) = input {
            thread::spawn(move || consume(handle, input));
        }
        if let Some(mut output) = output.as_ref() {
            // There is room for it.
            let _ = output.write_all(OUTPUT);
        }
        let given = [stdin, stdout, stderr].map(Option::unwrap_or_default);
        with(|books| {
            if let Some(process) = books.processes.get_mut(&handle) {
                process.outputs.extend([output, error].into_iter().flatten());
            }
            if let Some(operation) = books.operations.get_mut(&operation) {
                operation.process = Some((PROCESS_ID, given));
            }
        });
        well("")
    };
    begin(operation, as_handle(handle), work, || {})
}

/// Reads what a process is fed, until nobody can feed it any more. After the end of its input was told nothing may come.
fn consume(process: usize, mut input: File) {
    let mut buffer = [0; 4096];
    while let Ok(1..) = input.read(&mut buffer) {
        let came_late = with(|books| {
            let has_ended = books.processes.get(&process).is_some_and(|process| process.input_ended);
            if has_ended {
                books.violation("some input came after its end was told:", as_handle(process));
            }
            has_ended
        });
        if came_late {
            return;
        }
    }
}

/// A pipe: the process's own end, and the one that is given away.
fn pipe(process: usize, name: &str, access: u32) -> (File, usize) {
    let name = format!(r"\\.\pipe\stand-in-{}-{process}-{name}", process::id());
    let name: Vec<u16> = name.encode_utf16().chain([0]).collect();
    let given = if access == PIPE_ACCESS_INBOUND { GENERIC_WRITE } else { GENERIC_READ };
    // SAFETY: the name is terminated, no security is given; each handle has one owner.
    let [own, given] = unsafe {
        [
            CreateNamedPipeW(name.as_ptr(), access, PIPE_TYPE_BYTE, 1, 4096, 4096, 0, ptr::null()),
            CreateFileW(name.as_ptr(), given, 0, ptr::null(), OPEN_EXISTING, FILE_FLAG_OVERLAPPED, ptr::null_mut()),
        ]
        .map(|handle| OwnedHandle::try_from(HandleOrInvalid::from_raw_handle(handle)).expect("the system has pipes"))
    };
    (File::from(own), given.into_raw_handle().expose_provenance())
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
        move |_| answer(handle, ""),
        move || {
            let listener = with(|books| {
                let process = books.processes.get_mut(&handle)?;
                let first = !std::mem::replace(&mut process.exited, true);
                process.outputs.clear();
                first.then_some(process.listener)
            });
            if let Some(listener) = listener {
                let exit = json!({"ProcessId": PROCESS_ID, "Exited": true, "ExitCode": KILLED}).to_string();
                system::tell(listener, HcsEventProcessExited, &exit);
            }
        },
    )
}

/// Answers with this, unless the process has ended.
fn answer(process: usize, answer: &str) -> Finished {
    let is_running = with(|books| books.processes.get(&process).is_some_and(|process| !process.exited));
    if is_running { well(answer) } else { failed(PROCESS_ALREADY_STOPPED, "it has ended") }
}

#[unsafe(no_mangle)]
unsafe extern "system" fn HcsSignalProcess(
    process: *mut c_void,
    operation: HCS_OPERATION,
    _options: PCWSTR,
) -> HRESULT {
    if !is_open(process) {
        return E_HANDLE;
    }
    let handle = process.addr();
    begin(operation, process, move |_| answer(handle, ""), || {})
}

#[unsafe(no_mangle)]
unsafe extern "system" fn HcsModifyProcess(
    process: *mut c_void,
    operation: HCS_OPERATION,
    settings: PCWSTR,
) -> HRESULT {
    if !is_open(process) {
        return E_HANDLE;
    }
    // SAFETY: the caller gives a terminated text.
    let Ok(settings) = serde_json::from_str::<Value>(&unsafe { read(settings) }) else { return E_INVALIDARG };
    let (size, closed) = (&settings["ConsoleSize"], &settings["CloseHandle"]["Handle"]);
    let (is_known, ends_input) = match settings["Operation"].as_str() {
        Some("ConsoleSize") => (size["Height"].is_u64() && size["Width"].is_u64(), false),
        Some("CloseHandle") => (closed == "StdIn", true),
        _ => (false, false),
    };
    let handle = process.addr();
    let work = move |_| {
        if !is_known {
            return failed(E_INVALIDARG, "there is no such change");
        }
        with(|books| {
            if let Some(process) = books.processes.get_mut(&handle) {
                process.input_ended |= ends_input;
            }
        });
        answer(handle, "")
    };
    begin(operation, process, work, || {})
}

#[unsafe(no_mangle)]
unsafe extern "system" fn HcsGetProcessProperties(
    process: *mut c_void,
    operation: HCS_OPERATION,
    _query: PCWSTR,
) -> HRESULT {
    if !is_open(process) {
        return E_HANDLE;
    }
    let handle = process.addr();
    let work = move |_| {
        let exited = with(|books| books.processes.get(&handle).is_some_and(|process| process.exited));
        let code = if exited { KILLED } else { 0 };
        let status = json!({"ProcessId": PROCESS_ID, "Exited": exited, "ExitCode": code, "LastWaitResult": 0});
        well(status.to_string())
    };
    begin(operation, process, work, || {})
}

const PROCESS_ID: u32 = 77;
const OUTPUT: &[u8] = b"hello";
/// What a process that was ended exits with.
const KILLED: u32 = 137;
const PROCESS_ALREADY_STOPPED: HRESULT = 0x8037_011f_u32.cast_signed();
