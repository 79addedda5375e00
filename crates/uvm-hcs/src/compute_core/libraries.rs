//! The service's libraries, loaded when they are first needed: a program that only makes documents runs without them.

#![expect(non_snake_case, reason = "functions are named as their libraries name them")]

use std::ffi::c_void;
use std::io;
use std::path::Path;
use std::ptr;
use std::sync::OnceLock;

use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::Security::SECURITY_DESCRIPTOR;
use windows_sys::Win32::System::HostComputeSystem::{
    HCS_EVENT_CALLBACK, HCS_EVENT_OPTIONS, HCS_OPERATION, HCS_OPERATION_COMPLETION, HCS_PROCESS,
    HCS_PROCESS_INFORMATION, HCS_SYSTEM,
};
use windows_sys::Win32::System::LibraryLoader::{
    GetProcAddress, LOAD_LIBRARY_SEARCH_DLL_LOAD_DIR, LOAD_LIBRARY_SEARCH_SYSTEM32, LoadLibraryExW,
};
use windows_sys::core::{GUID, HRESULT, PCWSTR, PWSTR};

use super::owned::wide;

/// Defines a library: its file, and a pointer for each of its functions.
macro_rules! library {
    ($(#[$meta:meta])* $name:ident = $file:literal {
        $(fn $function:ident($($argument:ty),*) $(-> $result:ty)?;)*
    }) => {
        $(#[$meta])*
        pub(super) struct $name {
            $(pub(super) $function: unsafe extern "system" fn($($argument),*) $(-> $result)?,)*
        }

        impl $name {
            /// Loads it for good: its callbacks may come at any time.
            fn load(directory: Option<&Path>) -> io::Result<&'static Self> {
                let module = load(directory, $file)?;
                let library = Self {
                    $($function: {
                        let name = concat!(stringify!($function), "\0");
                        // SAFETY: the module stays loaded, and the name is terminated.
                        let found = unsafe { GetProcAddress(module, name.as_ptr()) };
                        let found = found.ok_or_else(|| lacks($file, stringify!($function)))?;
                        // SAFETY: the library's documentation gives this function these arguments and this result.
                        unsafe {
                            std::mem::transmute::<
                                unsafe extern "system" fn() -> isize,
                                unsafe extern "system" fn($($argument),*) $(-> $result)?,
                            >(found)
                        }
                    },)*
                };
                Ok(Box::leak(Box::new(library)))
            }
        }
    };
}

library! {
    /// Compute systems.
    ComputeCoreLibrary = "computecore.dll" {
        fn HcsCreateOperation(*const c_void, HCS_OPERATION_COMPLETION) -> HCS_OPERATION;
        fn HcsCloseOperation(HCS_OPERATION);
        fn HcsGetOperationResult(HCS_OPERATION, *mut PWSTR) -> HRESULT;
        fn HcsGetOperationResultAndProcessInfo(HCS_OPERATION, *mut HCS_PROCESS_INFORMATION, *mut PWSTR) -> HRESULT;
        fn HcsCreateComputeSystem(PCWSTR, PCWSTR, HCS_OPERATION, *const SECURITY_DESCRIPTOR, *mut HCS_SYSTEM)
            -> HRESULT;
        fn HcsCloseComputeSystem(HCS_SYSTEM);
        fn HcsSetComputeSystemCallback(HCS_SYSTEM, HCS_EVENT_OPTIONS, *const c_void, HCS_EVENT_CALLBACK) -> HRESULT;
        fn HcsStartComputeSystem(HCS_SYSTEM, HCS_OPERATION, PCWSTR) -> HRESULT;
        fn HcsPauseComputeSystem(HCS_SYSTEM, HCS_OPERATION, PCWSTR) -> HRESULT;
        fn HcsResumeComputeSystem(HCS_SYSTEM, HCS_OPERATION, PCWSTR) -> HRESULT;
        fn HcsShutDownComputeSystem(HCS_SYSTEM, HCS_OPERATION, PCWSTR) -> HRESULT;
        fn HcsTerminateComputeSystem(HCS_SYSTEM, HCS_OPERATION, PCWSTR) -> HRESULT;
        fn HcsModifyComputeSystem(HCS_SYSTEM, HCS_OPERATION, PCWSTR, HANDLE) -> HRESULT;
        fn HcsGetComputeSystemProperties(HCS_SYSTEM, HCS_OPERATION, PCWSTR) -> HRESULT;
        fn HcsCreateProcess(HCS_SYSTEM, PCWSTR, HCS_OPERATION, *const SECURITY_DESCRIPTOR, *mut HCS_PROCESS) -> HRESULT;
        fn HcsCloseProcess(HCS_PROCESS);
        fn HcsSetProcessCallback(HCS_PROCESS, HCS_EVENT_OPTIONS, *const c_void, HCS_EVENT_CALLBACK) -> HRESULT;
        fn HcsSignalProcess(HCS_PROCESS, HCS_OPERATION, PCWSTR) -> HRESULT;
        fn HcsTerminateProcess(HCS_PROCESS, HCS_OPERATION, PCWSTR) -> HRESULT;
        fn HcsModifyProcess(HCS_PROCESS, HCS_OPERATION, PCWSTR) -> HRESULT;
        fn HcsGetProcessProperties(HCS_PROCESS, HCS_OPERATION, PCWSTR) -> HRESULT;
        fn HcsGetServiceProperties(PCWSTR, *mut PWSTR) -> HRESULT;
        fn HcsModifyServiceSettings(PCWSTR, *mut PWSTR) -> HRESULT;
        fn HcsGrantVmAccess(PCWSTR, PCWSTR) -> HRESULT;
        fn HcsRevokeVmAccess(PCWSTR, PCWSTR) -> HRESULT;
        fn HcsGrantVmGroupAccess(PCWSTR) -> HRESULT;
    }
}

library! {
    /// Network namespaces.
    ComputeNetworkLibrary = "computenetwork.dll" {
        fn HcnEnumerateNamespaces(PCWSTR, *mut PWSTR, *mut PWSTR) -> HRESULT;
        fn HcnOpenNamespace(*const GUID, *mut *mut c_void, *mut PWSTR) -> HRESULT;
        fn HcnQueryNamespaceProperties(*const c_void, PCWSTR, *mut PWSTR, *mut PWSTR) -> HRESULT;
        fn HcnCloseNamespace(*const c_void) -> HRESULT;
    }
}

library! {
    /// The older way to the network service, which still is the only one to take an endpoint out of a namespace by its
    /// id.
    VmComputeLibrary = "vmcompute.dll" {
        fn HNSCall(PCWSTR, PCWSTR, PCWSTR, *mut PWSTR) -> HRESULT;
    }
}

/// All of them. Those of the network are loaded when they are first needed.
pub(super) struct Libraries {
    pub(super) core: &'static ComputeCoreLibrary,
    directory: Option<std::path::PathBuf>,
    network: OnceLock<&'static ComputeNetworkLibrary>,
    older_network: OnceLock<&'static VmComputeLibrary>,
}

impl Libraries {
    /// Loads what every use needs, from the system's directory or another.
    pub(super) fn load(directory: Option<&Path>) -> io::Result<Self> {
        Ok(Self {
            core: ComputeCoreLibrary::load(directory)?,
            directory: directory.map(Path::to_owned),
            network: OnceLock::new(),
            older_network: OnceLock::new(),
        })
    }

    pub(super) fn network(&self) -> io::Result<&'static ComputeNetworkLibrary> {
        if let Some(library) = self.network.get() {
            return Ok(library);
        }
        let library = ComputeNetworkLibrary::load(self.directory.as_deref())?;
        Ok(self.network.get_or_init(|| library))
    }

    pub(super) fn older_network(&self) -> io::Result<&'static VmComputeLibrary> {
        if let Some(library) = self.older_network.get() {
            return Ok(library);
        }
        let library = VmComputeLibrary::load(self.directory.as_deref())?;
        Ok(self.older_network.get_or_init(|| library))
    }
}

/// Loads a library from the system's directory, or from another. Never from where the program happens to be run.
fn load(directory: Option<&Path>, file: &str) -> io::Result<*mut c_void> {
    let (name, flags) = match directory {
        None => (file.to_owned(), LOAD_LIBRARY_SEARCH_SYSTEM32),
        Some(directory) => {
            let path = directory.join(file);
            let path = path.to_str().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidFilename))?.to_owned();
            (path, LOAD_LIBRARY_SEARCH_DLL_LOAD_DIR | LOAD_LIBRARY_SEARCH_SYSTEM32)
        }
    };
    // SAFETY: the name is terminated, and the reserved argument is null as it must be.
    let module = unsafe { LoadLibraryExW(wide(&name).as_ptr(), ptr::null_mut(), flags) };
    if module.is_null() {
        let error = io::Error::last_os_error();
        return Err(io::Error::new(error.kind(), format!("cannot load {name} (is Hyper-V installed?): {error}")));
    }
    Ok(module)
}

fn lacks(file: &str, function: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, format!("{file} has no {function}: this Windows is too old"))
}
