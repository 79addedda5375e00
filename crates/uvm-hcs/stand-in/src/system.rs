//! Compute systems.

#![expect(unsafe_code, reason = "C interfaces; each block says why it is sound")]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::c_void;
use std::net::Shutdown;
use std::ptr;

use serde_json::{Value, json};
use windows_sys::Win32::Foundation::{E_HANDLE, E_INVALIDARG, HANDLE, S_OK};
use windows_sys::Win32::System::HostComputeSystem::{
    HCS_EVENT, HCS_EVENT_CALLBACK, HCS_OPERATION, HcsEventServiceDisconnect, HcsEventSystemExited,
};
use windows_sys::core::{HRESULT, PCWSTR};

use crate::books::{Listener, System, await_operations_about, with};
use crate::operation::{Finished, begin, failed, well};
use crate::text::read;
use crate::{as_handle, guest, sockets};

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

impl System {
    fn is_running_vm(&self) -> bool {
        self.is_vm && self.state == "Running"
    }
}

/// Whether there is such a system; that it is used without being one is written down.
pub(crate) fn is_open(system: *mut c_void) -> bool {
    with(|books| {
        let is_open = books.systems.contains_key(&system.addr());
        if !is_open {
            books.violation("this was used, and is no system, or was closed:", system);
        }
        is_open
    })
}

pub(crate) fn tell(listener: Listener, event: i32, data: &str) {
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

/// Has the service be gone, as far as a system's owner learns.
pub(crate) fn disconnect(system: usize) {
    tell_system(system, HcsEventServiceDisconnect, "");
}

/// Ends a system, if it has not, and tells it. Its guest's streams are cut.
pub(crate) fn end(system: usize, how: &str) {
    let ended = with(|books| {
        let system = books.systems.get_mut(&system)?;
        let lived = std::mem::replace(&mut system.state, "Stopped") != "Stopped";
        lived.then(|| cut(system))
    });
    if ended.is_some() {
        tell_system(system, HcsEventSystemExited, how);
    }
}

fn cut(system: &mut System) {
    system.services.clear();
    for stream in system.streams.drain(..) {
        // The host may have closed it.
        let _ = stream.shutdown(Shutdown::Both);
    }
}

/// What is wrong with a document, if anything is.
fn fault(document: &Value) -> Option<&'static str> {
    if document.get("Refuse").is_some() {
        return Some("the document was refused");
    }
    if let Some(host) = document.get("HostingSystemId") {
        let is_there = with(|books| books.systems.values().any(|system| *host == *system.id && system.is_running_vm()));
        return (!is_there).then_some("the VM that is to host it does not run");
    }
    let vm = document.get("VirtualMachine")?;
    let wanted = [
        ("the schema's version is missing", document["SchemaVersion"]["Major"] == 2),
        ("a VM has a chipset", vm["Chipset"].is_object()),
        ("a VM has memory", vm["ComputeTopology"]["Memory"]["SizeInMB"].as_u64().is_some_and(|size| size > 0)),
        ("a VM has processors", vm["ComputeTopology"]["Processor"]["Count"].as_u64().is_some_and(|count| count > 0)),
        ("a VM has devices", vm["Devices"].is_object()),
    ];
    wanted.into_iter().find(|(_, holds)| !holds).map(|(what, _)| what)
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
    let is_vm = document.get("VirtualMachine").is_some();
    if is_vm {
        sockets::put_in_place();
    }
    let handle = with(|books| {
        let is_taken = books.systems.values().any(|system| system.id == id && system.state != "Stopped");
        let handle = books.new_handle();
        let created = System {
            id,
            state: if is_taken { "Refused" } else { "Creating" },
            listener: Listener::default(),
            is_vm,
            holds_connection: document["VirtualMachine"]["GuestConnection"].is_object(),
            plugged: BTreeSet::new(),
            streams: Vec::new(),
            services: BTreeMap::new(),
        };
        books.systems.insert(handle, created);
        handle
    });
    // SAFETY: the caller gives a place for the handle.
    unsafe { system.write(as_handle(handle)) };
    let fault = fault(&document);
    let work = move |_| match fault {
        Some(fault) => failed(E_INVALIDARG, fault),
        None if with(|books| books.systems.get(&handle).is_some_and(|system| system.state == "Refused")) => {
            failed(ALREADY_EXISTS, "there is a system with this id")
        }
        None => transition(handle, &["Creating"], "Created"),
    };
    begin(operation, as_handle(handle), work, || {})
}

#[unsafe(no_mangle)]
unsafe extern "system" fn HcsCloseComputeSystem(system: *mut c_void) {
    let handle = system.addr();
    await_operations_about(handle);
    with(|books| {
        if books.processes.values().any(|process| process.system == handle) {
            books.violation("a system was closed before its processes:", system);
        }
        match books.systems.remove(&handle) {
            Some(mut closed) => cut(&mut closed),
            None => books.violation("a system was closed twice:", system),
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
    if !is_open(system) {
        return E_HANDLE;
    }
    with(|books| {
        if let Some(system) = books.systems.get_mut(&system.addr()) {
            system.listener = Listener { callback, context: context.addr() };
        }
    });
    S_OK
}

/// What follows a transition that the guest does not notice.
fn goes_on(_system: usize) {}

/// Defines functions that take a system from one state to another.
macro_rules! transitions {
    ($($name:ident: $from:literal => $to:literal, then $then:expr;)*) => {
        $(
            #[unsafe(no_mangle)]
            unsafe extern "system" fn $name(
                system: *mut c_void,
                operation: HCS_OPERATION,
                _options: PCWSTR,
            ) -> HRESULT {
                if !is_open(system) {
                    return E_HANDLE;
                }
                let handle = system.addr();
                begin(operation, system, move |_| transition(handle, &[$from], $to), move || $then(handle))
            }
        )*
    };
}

transitions! {
    HcsStartComputeSystem: "Created" => "Running", then guest::boot;
    HcsPauseComputeSystem: "Running" => "Paused", then goes_on;
    HcsResumeComputeSystem: "Paused" => "Running", then goes_on;
}

#[unsafe(no_mangle)]
unsafe extern "system" fn HcsShutDownComputeSystem(
    system: *mut c_void,
    operation: HCS_OPERATION,
    _options: PCWSTR,
) -> HRESULT {
    if !is_open(system) {
        return E_HANDLE;
    }
    let handle = system.addr();
    begin(operation, system, |_| well(""), move || end(handle, GRACEFUL))
}

#[unsafe(no_mangle)]
unsafe extern "system" fn HcsTerminateComputeSystem(
    system: *mut c_void,
    operation: HCS_OPERATION,
    _options: PCWSTR,
) -> HRESULT {
    if !is_open(system) {
        return E_HANDLE;
    }
    let handle = system.addr();
    let work = move |_| match with(|books| books.systems.get(&handle).map(|system| system.state)) {
        Some("Stopped") => failed(ALREADY_STOPPED, "it has stopped"),
        _ => well(""),
    };
    begin(operation, system, work, move || end(handle, FORCED))
}

#[unsafe(no_mangle)]
unsafe extern "system" fn HcsModifyComputeSystem(
    system: *mut c_void,
    operation: HCS_OPERATION,
    configuration: PCWSTR,
    _identity: HANDLE,
) -> HRESULT {
    if !is_open(system) {
        return E_HANDLE;
    }
    // SAFETY: the caller gives a terminated text.
    let Ok(request) = serde_json::from_str::<Value>(&unsafe { read(configuration) }) else { return E_INVALIDARG };
    let handle = system.addr();
    let asked = |what: &str| request["GuestRequest"].get(what).is_some();
    let (fails, disconnects, exits) = (asked("Fail"), asked("Disconnect"), asked("Exit"));
    let work = move |_| if fails { failed(E_INVALIDARG, "planted") } else { modify(handle, &request) };
    begin(operation, system, work, move || {
        if disconnects {
            disconnect(handle);
        }
        if exits {
            end(handle, UNEXPECTED);
        }
    })
}

/// Plugs something in, or takes it out; what is neither is taken as it is.
fn modify(system: usize, request: &Value) -> Finished {
    let Some(place) = request.get("ResourcePath") else {
        let is_empty = request.get("GuestRequest").is_none();
        return if is_empty { failed(E_INVALIDARG, "nothing is asked for") } else { well("") };
    };
    let Some(place) = place.as_str().filter(|place| place.starts_with("VirtualMachine/")) else {
        return failed(E_INVALIDARG, "there is no such place in a document");
    };
    with(|books| {
        let Some(system) = books.systems.get_mut(&system) else { return failed(E_HANDLE, "no such system") };
        let changed = match request["RequestType"].as_str() {
            Some("Add") => system.plugged.insert(place.to_owned()),
            Some("Remove") => system.plugged.remove(place),
            _ => true,
        };
        if changed { well("") } else { failed(E_INVALIDARG, &format!("{place} is taken, or empty")) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "system" fn HcsGetComputeSystemProperties(
    system: *mut c_void,
    operation: HCS_OPERATION,
    query: PCWSTR,
) -> HRESULT {
    if !is_open(system) {
        return E_HANDLE;
    }
    // SAFETY: the caller gives a terminated text, or null.
    let query = unsafe { read(query) };
    if !query.is_empty() && serde_json::from_str::<Value>(&query).is_err() {
        return E_INVALIDARG;
    }
    let handle = system.addr();
    let work = move |_| {
        let told = with(|books| {
            let system = books.systems.get(&handle)?;
            let mut told = json!({"Id": system.id, "RuntimeId": RUNTIME_ID, "State": system.state});
            if system.holds_connection {
                let able = json!({"SignalProcessSupported": true});
                told["GuestConnectionInfo"] = json!({"ProtocolVersion": 4, "GuestDefinedCapabilities": able});
            }
            Some(told.to_string())
        });
        told.map_or_else(|| failed(E_HANDLE, "no such system"), well)
    };
    begin(operation, system, work, || {})
}

/// How a system ends, as the service tells it.
pub(crate) const GRACEFUL: &str = r#"{"Status":0,"ExitType":"GracefulExit"}"#;
const FORCED: &str = r#"{"Status":0,"ExitType":"ForcedExit"}"#;
pub(crate) const UNEXPECTED: &str = r#"{"Status":-1070137082,"ExitType":"UnexpectedExit"}"#;

/// By which all VMs here are addressed.
pub(crate) const RUNTIME_ID: &str = "8d3a2c51-7f60-4b1e-9c42-5e8f00000002";

/// The operation does not fit the system's state.
const INVALID_STATE: HRESULT = 0xc037_0105_u32.cast_signed();
const ALREADY_EXISTS: HRESULT = 0x8037_010f_u32.cast_signed();
const ALREADY_STOPPED: HRESULT = 0xc037_0110_u32.cast_signed();
