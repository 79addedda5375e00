//! The functions of the library.

#![expect(unsafe_code, reason = "C interfaces; each block says why it is sound")]

use std::ffi::c_void;
use std::ptr;
use std::thread;

use serde_json::{Value, json};
use windows_sys::Win32::Foundation::{E_ACCESSDENIED, E_HANDLE, E_INVALIDARG, GENERIC_READ, HANDLE, S_OK};
use windows_sys::Win32::Storage::FileSystem::{
    CreateFileW, FILE_FLAG_OVERLAPPED, OPEN_EXISTING, PIPE_ACCESS_OUTBOUND, WriteFile,
};
use windows_sys::Win32::System::HostComputeSystem::{
    HCS_EVENT, HCS_EVENT_CALLBACK, HCS_OPERATION, HCS_OPERATION_COMPLETION, HCS_PROCESS_INFORMATION,
    HcsEventProcessExited, HcsEventServiceDisconnect, HcsEventSystemExited,
};
use windows_sys::Win32::System::Pipes::{CreateNamedPipeW, PIPE_TYPE_BYTE};
use windows_sys::core::{HRESULT, PCWSTR, PWSTR};

use crate::books::{Listener, Operation, Process, System, with};
use crate::text::{give, read};

/// The result of an operation, and the text with it.
type Finished = (HRESULT, String);

fn well(text: impl Into<String>) -> Finished {
    (S_OK, text.into())
}

fn failed(code: HRESULT, message: &str) -> Finished {
    (code, json!({"Error": code, "ErrorMessage": message}).to_string())
}

/// Finishes an operation on another thread: by `work`, and then the callback. Afterwards comes `then`.
fn begin(
    operation: HCS_OPERATION,
    work: impl FnOnce(usize) -> Finished + Send + 'static,
    then: impl FnOnce() + Send + 'static,
) -> HRESULT {
    let handle = operation.addr();
    let accepted = with(|books| match books.operations.get_mut(&handle) {
        Some(operation) if !operation.begun => {
            operation.begun = true;
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

fn as_handle(number: usize) -> *mut c_void {
    ptr::without_provenance_mut(number)
}

/// Takes a system from one state to another.
fn transition(system: usize, from: &[&str], to: &'static str) -> Finished {
    with(|books| match books.systems.get_mut(&system) {
        Some(system) if from.contains(&system.state) => {
            system.state = to;
            well("")
        }
        Some(system) => failed(INVALID_STATE, &format!("the system is {}", system.state)),
        None => failed(E_HANDLE, "no such system"),
    })
}

fn tell(listener: Listener, event: i32, data: &str) {
    let data: Vec<u16> = data.encode_utf16().chain([0]).collect();
    let event = HCS_EVENT { Type: event, EventData: data.as_ptr(), Operation: ptr::null_mut() };
    if let Some(callback) = listener.callback {
        // SAFETY: the caller gave both to be told; the event and its text live during the call.
        unsafe { callback(&raw const event, as_handle(listener.context)) };
    }
}

fn tell_system(system: usize, event: i32, data: &str) {
    if let Some(listener) = with(|books| books.systems.get(&system).map(|system| system.listener)) {
        tell(listener, event, data);
    }
}

/// Ends a system, if it has not, and tells it.
fn end_system(system: usize, data: &str) {
    let ended = with(|books| {
        let system = books.systems.get_mut(&system)?;
        let lived = std::mem::replace(&mut system.state, "Stopped") != "Stopped";
        lived.then_some(())
    });
    if ended.is_some() {
        tell_system(system, HcsEventSystemExited, data);
    }
}

#[unsafe(no_mangle)]
unsafe extern "system" fn HcsCreateOperation(
    context: *const c_void,
    callback: HCS_OPERATION_COMPLETION,
) -> HCS_OPERATION {
    with(|books| {
        let handle = books.new_handle();
        let context = context.addr();
        let operation = Operation { callback, context, begun: false, result: None, process: None };
        books.operations.insert(handle, operation);
        as_handle(handle)
    })
}

#[unsafe(no_mangle)]
unsafe extern "system" fn HcsCloseOperation(operation: HCS_OPERATION) {
    with(|books| match books.operations.remove(&operation.addr()) {
        None => books.violation("an operation was closed twice:", operation),
        Some(closed) if closed.begun && closed.result.is_none() => {
            books.violation("an operation was closed while it was under way:", operation);
        }
        Some(_) => {}
    });
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
    if let Some((id, output)) = process {
        let told = HCS_PROCESS_INFORMATION {
            ProcessId: id,
            StdOutput: as_handle(output),
            ..HCS_PROCESS_INFORMATION::default()
        };
        // SAFETY: the caller gives a place for it.
        unsafe { information.write(told) };
    }
    // SAFETY: as the caller says.
    unsafe { HcsGetOperationResult(operation, document) }
}

#[unsafe(no_mangle)]
unsafe extern "system" fn HcsCreateComputeSystem(
    id: PCWSTR,
    configuration: PCWSTR,
    operation: HCS_OPERATION,
    _security: *const c_void,
    system: *mut *mut c_void,
) -> HRESULT {
    // SAFETY: the caller gives terminated texts.
    let (id, configuration) = unsafe { (read(id), read(configuration)) };
    let Ok(document) = serde_json::from_str::<Value>(&configuration) else { return E_INVALIDARG };
    let handle = with(|books| {
        let handle = books.new_handle();
        let created = System { id, state: "Creating", listener: Listener::default() };
        books.systems.insert(handle, created);
        handle
    });
    // SAFETY: the caller gives a place for the handle.
    unsafe { system.write(as_handle(handle)) };
    let refused = document.get("Refuse").is_some();
    let work = move |_| {
        if refused {
            return failed(E_INVALIDARG, "the document was refused");
        }
        transition(handle, &["Creating"], "Created")
    };
    begin(operation, work, || {})
}

#[unsafe(no_mangle)]
unsafe extern "system" fn HcsCloseComputeSystem(system: *mut c_void) {
    with(|books| {
        if books.systems.remove(&system.addr()).is_none() {
            books.violation("a system was closed twice:", system);
        }
    });
}

#[unsafe(no_mangle)]
unsafe extern "system" fn HcsSetComputeSystemCallback(
    system: *mut c_void,
    _options: i32,
    context: *const c_void,
    callback: HCS_EVENT_CALLBACK,
) -> HRESULT {
    with(|books| {
        let Some(system) = books.systems.get_mut(&system.addr()) else { return E_HANDLE };
        system.listener = Listener { callback, context: context.addr() };
        S_OK
    })
}

/// Defines functions that take a system from one state to another.
macro_rules! transitions {
    ($($name:ident: $from:expr => $to:literal;)*) => {
        $(
            #[unsafe(no_mangle)]
            unsafe extern "system" fn $name(
                system: *mut c_void,
                operation: HCS_OPERATION,
                _options: PCWSTR,
            ) -> HRESULT {
                let handle = system.addr();
                begin(operation, move |_| transition(handle, &$from, $to), || {})
            }
        )*
    };
}

transitions! {
    HcsStartComputeSystem: ["Created"] => "Running";
    HcsPauseComputeSystem: ["Running"] => "Paused";
    HcsResumeComputeSystem: ["Paused"] => "Running";
}

#[unsafe(no_mangle)]
unsafe extern "system" fn HcsShutDownComputeSystem(
    system: *mut c_void,
    operation: HCS_OPERATION,
    _options: PCWSTR,
) -> HRESULT {
    let handle = system.addr();
    begin(operation, |_| well(""), move || end_system(handle, r#"{"Status":0,"ExitType":"GracefulExit"}"#))
}

#[unsafe(no_mangle)]
unsafe extern "system" fn HcsTerminateComputeSystem(
    system: *mut c_void,
    operation: HCS_OPERATION,
    _options: PCWSTR,
) -> HRESULT {
    let handle = system.addr();
    let work = move |_| match with(|books| books.systems.get(&handle).map(|system| system.state)) {
        Some("Stopped") => failed(ALREADY_STOPPED, "it has stopped"),
        _ => well(""),
    };
    begin(operation, work, move || end_system(handle, r#"{"Status":0,"ExitType":"ForcedExit"}"#))
}

#[unsafe(no_mangle)]
unsafe extern "system" fn HcsModifyComputeSystem(
    system: *mut c_void,
    operation: HCS_OPERATION,
    configuration: PCWSTR,
    _identity: HANDLE,
) -> HRESULT {
    // SAFETY: the caller gives a terminated text.
    let request: Value = serde_json::from_str(&unsafe { read(configuration) }).unwrap_or_default();
    let handle = system.addr();
    let asked = |what: &str| request["GuestRequest"].get(what).is_some();
    let (fails, disconnects, exits) = (asked("Fail"), asked("Disconnect"), asked("Exit"));
    let work = move |_| if fails { failed(E_INVALIDARG, "planted") } else { well("") };
    begin(operation, work, move || {
        if disconnects {
            tell_system(handle, HcsEventServiceDisconnect, "");
        }
        if exits {
            end_system(handle, r#"{"Status":-1070137082,"ExitType":"UnexpectedExit"}"#);
        }
    })
}

#[unsafe(no_mangle)]
unsafe extern "system" fn HcsGetComputeSystemProperties(
    system: *mut c_void,
    operation: HCS_OPERATION,
    _query: PCWSTR,
) -> HRESULT {
    let handle = system.addr();
    let work = move |_| {
        let told = with(|books| books.systems.get(&handle).map(|system| (system.id.clone(), system.state)));
        let Some((id, state)) = told else { return failed(E_HANDLE, "no such system") };
        well(json!({"Id": id, "RuntimeId": RUNTIME_ID, "State": state}).to_string())
    };
    begin(operation, work, || {})
}

#[unsafe(no_mangle)]
unsafe extern "system" fn HcsCreateProcess(
    system: *mut c_void,
    _parameters: PCWSTR,
    operation: HCS_OPERATION,
    _security: *const c_void,
    process: *mut *mut c_void,
) -> HRESULT {
    if with(|books| !books.systems.contains_key(&system.addr())) {
        return E_HANDLE;
    }
    let handle = with(|books| {
        let handle = books.new_handle();
        books.processes.insert(handle, Process { listener: Listener::default(), exited: false });
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
    begin(operation, work, || {})
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
    with(|books| {
        let Some(process) = books.processes.get_mut(&process.addr()) else { return E_HANDLE };
        process.listener = Listener { callback, context: context.addr() };
        S_OK
    })
}

#[unsafe(no_mangle)]
unsafe extern "system" fn HcsTerminateProcess(
    process: *mut c_void,
    operation: HCS_OPERATION,
    _options: PCWSTR,
) -> HRESULT {
    let handle = process.addr();
    begin(
        operation,
        |_| well(""),
        move || {
            let listener = with(|books| {
                let process = books.processes.get_mut(&handle)?;
                let first = !std::mem::replace(&mut process.exited, true);
                first.then_some(process.listener)
            });
            if let Some(listener) = listener {
                tell(listener, HcsEventProcessExited, r#"{"ProcessId":77,"Exited":true,"ExitCode":137}"#);
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
                let known = with(|books| books.processes.contains_key(&process.addr()));
                if !known {
                    return E_HANDLE;
                }
                begin(operation, |_| well($answer), || {})
            }
        )*
    };
}

answers! {
    HcsSignalProcess => "";
    HcsModifyProcess => "";
    HcsGetProcessProperties => r#"{"ProcessId":77}"#;
}

#[unsafe(no_mangle)]
unsafe extern "system" fn HcsGetServiceProperties(query: PCWSTR, result: *mut PWSTR) -> HRESULT {
    // SAFETY: the caller gives a terminated text.
    let query = unsafe { read(query) };
    let answer = if query.contains("StandIn") {
        with(|books| books.report()).to_string()
    } else {
        json!({"Properties": [{"LogicalProcessorCount": 5}]}).to_string()
    };
    // SAFETY: the caller gives a place for a text.
    unsafe { give(&answer, result) };
    S_OK
}

#[unsafe(no_mangle)]
unsafe extern "system" fn HcsModifyServiceSettings(settings: PCWSTR, result: *mut PWSTR) -> HRESULT {
    // SAFETY: the caller gives a terminated text.
    let settings = unsafe { read(settings) };
    let (code, text) = failed(E_INVALIDARG, &format!("cannot take {settings}"));
    // SAFETY: the caller gives a place for a text.
    unsafe { give(&text, result) };
    code
}

#[unsafe(no_mangle)]
unsafe extern "system" fn HcsGrantVmAccess(_vm: PCWSTR, path: PCWSTR) -> HRESULT {
    // SAFETY: the caller gives a terminated text.
    if unsafe { read(path) } == r"C:\denied" { E_ACCESSDENIED } else { S_OK }
}

#[unsafe(no_mangle)]
unsafe extern "system" fn HcsRevokeVmAccess(_vm: PCWSTR, _path: PCWSTR) -> HRESULT {
    S_OK
}

#[unsafe(no_mangle)]
unsafe extern "system" fn HcsGrantVmGroupAccess(_path: PCWSTR) -> HRESULT {
    S_OK
}

const RUNTIME_ID: &str = "8d3a2c51-7f60-4b1e-9c42-5e8f00000002";
const PROCESS_ID: u32 = 77;
const OUTPUT: &[u8] = b"hello";
/// The operation does not fit the system's state.
const INVALID_STATE: HRESULT = 0xc037_0105_u32.cast_signed();
const ALREADY_STOPPED: HRESULT = 0xc037_0110_u32.cast_signed();
