//! What the service itself is asked, and the library's end.

#![expect(unsafe_code, reason = "C interfaces; each block says why it is sound")]

use std::ffi::c_void;

use serde_json::json;
use windows_sys::Win32::Foundation::{E_ACCESSDENIED, E_INVALIDARG, S_OK};
use windows_sys::Win32::System::SystemServices::DLL_PROCESS_DETACH;
use windows_sys::core::{HRESULT, PCWSTR, PWSTR};

use crate::books::{last_report, with};
use crate::operation::failed;
use crate::text::{give, read};

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

/// Writes the books down when the program ends.
#[unsafe(no_mangle)]
extern "system" fn DllMain(_library: *mut c_void, reason: u32, _reserved: *mut c_void) -> i32 {
    if reason == DLL_PROCESS_DETACH
        && let Some(file) = std::env::var_os("UVM_STAND_IN_BOOKS")
    {
        // Whoever asked for it finds that it is missing.
        let _ = std::fs::write(file, last_report().to_string());
    }
    1
}
