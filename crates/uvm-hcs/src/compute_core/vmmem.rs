//! The process that holds the memory of a VM: `vmmem`, owned by the VM's own account.

use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};

use uvm_wire::Guid;
use windows_sys::Win32::Foundation::{ERROR_NO_MORE_FILES, ERROR_NOT_FOUND, INVALID_HANDLE_VALUE};
use windows_sys::Win32::Security::{GetTokenInformation, LookupAccountSidW, TOKEN_QUERY, TOKEN_USER, TokenUser};
use windows_sys::Win32::System::Diagnostics::ToolHelp::{
    CreateToolhelp32Snapshot, PROCESSENTRY32W, Process32FirstW, Process32NextW, TH32CS_SNAPPROCESS,
};
use windows_sys::Win32::System::ProcessStatus::{GetProcessMemoryInfo, PROCESS_MEMORY_COUNTERS};
use windows_sys::Win32::System::Threading::{OpenProcess, OpenProcessToken, PROCESS_QUERY_LIMITED_INFORMATION};

/// The process that holds the memory of the VM, open.
pub(super) fn find(runtime_id: Guid) -> io::Result<OwnedHandle> {
    let owner = runtime_id.to_string();
    for id in processes("vmmem")? {
        // One that has ended meanwhile, or that may not be looked at, is another VM's.
        let Ok(process) = open(id) else { continue };
        let Ok((domain, account)) = owner_of(&process) else { continue };
        if domain.eq_ignore_ascii_case("NT VIRTUAL MACHINE") && account.eq_ignore_ascii_case(&owner) {
            return Ok(process);
        }
    }
    Err(io::Error::from_raw_os_error(ERROR_NOT_FOUND.cast_signed()))
}

/// The numbers of all processes of this name, with or without an extension.
fn processes(name: &str) -> io::Result<Vec<u32>> {
    // SAFETY: no process is named, so all are listed.
    let snapshot = unsafe { CreateToolhelp32Snapshot(TH32CS_SNAPPROCESS, 0) };
    if snapshot == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and nobody else has it.
    let snapshot = unsafe { OwnedHandle::from_raw_handle(snapshot) };
    let mut entry = PROCESSENTRY32W { dwSize: size_of::<PROCESSENTRY32W>() as u32, ..PROCESSENTRY32W::default() };
    let mut found = Vec::new();
    // SAFETY: the snapshot is open, and the entry is valid for writes and says its own size.
    let mut more = unsafe { Process32FirstW(snapshot.as_raw_handle(), &raw mut entry) };
    while more != 0 {
        let text = String::from_utf16_lossy(&entry.szExeFile);
        let file = text.split('\0').next().unwrap_or_default();
        if file.split('.').next().is_some_and(|stem| stem.eq_ignore_ascii_case(name)) {
            found.push(entry.th32ProcessID);
        }
        // SAFETY: as above.
        more = unsafe { Process32NextW(snapshot.as_raw_handle(), &raw mut entry) };
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(ERROR_NO_MORE_FILES.cast_signed()) { Ok(found) } else { Err(error) }
}

fn open(id: u32) -> io::Result<OwnedHandle> {
    // SAFETY: a number that is no process gives an error.
    let process = unsafe { OpenProcess(PROCESS_QUERY_LIMITED_INFORMATION, 0, id) };
    if process.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and nobody else has it.
    Ok(unsafe { OwnedHandle::from_raw_handle(process) })
}

/// Domain and name of the account that a process runs as.
fn owner_of(process: &OwnedHandle) -> io::Result<(String, String)> {
    let mut token = std::ptr::null_mut();
    // SAFETY: the process is open, the token valid for a write.
    if unsafe { OpenProcessToken(process.as_raw_handle(), TOKEN_QUERY, &raw mut token) } == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and nobody else has it.
    let token = unsafe { OwnedHandle::from_raw_handle(token) };
    // Aligned for the structure at its beginning, and large enough for the longest id behind it.
    let mut user = [0_u64; 32];
    let mut length = 0;
    // SAFETY: the token is open, and the buffer is valid for a write of its size.
    let told = unsafe {
        GetTokenInformation(
            token.as_raw_handle(),
            TokenUser,
            user.as_mut_ptr().cast(),
            size_of_val(&user) as u32,
            &raw mut length,
        )
    };
    if told == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the system has just written that structure there, and the buffer is aligned for it.
    let sid = unsafe { (*user.as_ptr().cast::<TOKEN_USER>()).User.Sid };
    let (mut account, mut domain) = ([0_u16; 256], [0_u16; 256]);
    let (mut account_length, mut domain_length) = (account.len() as u32, domain.len() as u32);
    let mut kind = 0;
    // SAFETY: the id is in the buffer, which is still there; the others are valid for writes of the lengths given.
    let found = unsafe {
        LookupAccountSidW(
            std::ptr::null(),
            sid,
            account.as_mut_ptr(),
            &raw mut account_length,
            domain.as_mut_ptr(),
            &raw mut domain_length,
            &raw mut kind,
        )
    };
    if found == 0 {
        return Err(io::Error::last_os_error());
    }
    let text =
        |buffer: &[u16], length: u32| String::from_utf16_lossy(buffer.get(..length as usize).unwrap_or_default());
    Ok((text(&domain, domain_length), text(&account, account_length)))
}

/// Its working set, in bytes.
pub(super) fn working_set_of(process: &OwnedHandle) -> io::Result<u64> {
    let size = size_of::<PROCESS_MEMORY_COUNTERS>() as u32;
    let mut counters = PROCESS_MEMORY_COUNTERS { cb: size, ..PROCESS_MEMORY_COUNTERS::default() };
    // SAFETY: the process is open, and the counters are valid for a write of their size.
    let told = unsafe { GetProcessMemoryInfo(process.as_raw_handle(), &raw mut counters, size) };
    if told == 0 { Err(io::Error::last_os_error()) } else { Ok(counters.WorkingSetSize as u64) }
}
