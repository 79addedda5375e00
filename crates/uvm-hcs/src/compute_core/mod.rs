//! The Host Compute Service of this machine: the compute core library and its neighbours.
//!
//! Every call that may wait for the service is made on a thread of its own, so that whoever asked keeps its deadlines.
//! An operation is finished by a callback on a thread of the library; what a callback is given to find its own by is a
//! number, not a pointer, so that one that comes late finds nothing.

#![expect(unsafe_code, reason = "C interfaces; each block says why it is sound")]

mod blocking;
mod files;
mod held;
mod libraries;
mod network;
mod operation;
mod owned;
mod process;
mod registry;
mod sockets;
mod stdin;
mod system;
mod vmmem;

use std::io;
use std::os::windows::io::OwnedHandle;
use std::path::Path;
use std::sync::Arc;

use uvm_platform::stream::PollAccept;
use uvm_platform::{BoxFuture, GuestStream};
use uvm_wire::{Guid, Hresult};
use windows_sys::Wdk::System::SystemServices::RtlGetVersion;
use windows_sys::Win32::System::SystemInformation::OSVERSIONINFOW;

use blocking::blocking;
use libraries::{ComputeCoreLibrary, Libraries};
use owned::{LocalText, wide};
use sockets::HyperVSockets;

use crate::host::{AccessGrants, Guids, HcsError, HcsHost, HostProcesses, HvSockets, MemoryProcess, ServiceProperties};
use crate::win_path::WinPath;
use crate::windows_build::WindowsBuild;

/// The Host Compute Service of this machine.
pub struct ComputeCore {
    build: WindowsBuild,
    libraries: Libraries,
    sockets: Arc<dyn HvSockets + Send + Sync>,
}

impl ComputeCore {
    /// Loads the service's libraries from the system's directory.
    ///
    /// # Errors
    /// This Windows has none: Hyper-V is not installed.
    pub fn new() -> io::Result<Self> {
        Self::load(None)
    }

    /// The same with libraries of this directory: stand-ins for tests.
    ///
    /// # Errors
    /// They are not there, or lack a function.
    pub fn from_directory(directory: &Path) -> io::Result<Self> {
        Self::load(Some(directory))
    }

    fn load(directory: Option<&Path>) -> io::Result<Self> {
        let libraries = Libraries::load(directory)?;
        Ok(Self { build: build(), libraries, sockets: Arc::new(HyperVSockets) })
    }

    /// The same with other sockets, where the system has none of Hyper-V.
    #[must_use]
    pub fn with_sockets(self, sockets: Arc<dyn HvSockets + Send + Sync>) -> Self {
        Self { sockets, ..self }
    }

    /// The same, taken for this build.
    #[must_use]
    pub fn with_build(self, build: WindowsBuild) -> Self {
        Self { build, ..self }
    }

    fn core(&self) -> &'static ComputeCoreLibrary {
        self.libraries.core
    }
}

/// The build of this Windows.
fn build() -> WindowsBuild {
    let mut version =
        OSVERSIONINFOW { dwOSVersionInfoSize: size_of::<OSVERSIONINFOW>() as u32, ..OSVERSIONINFOW::default() };
    // SAFETY: the structure is valid for writes and says its own size. The function always succeeds.
    unsafe { RtlGetVersion(&raw mut version) };
    WindowsBuild(version.dwBuildNumber)
}

impl HcsHost for ComputeCore {
    fn build(&self) -> WindowsBuild {
        self.build
    }
}

/// The result of a call, with what the service said of a failure.
fn check(intent: &'static str, object: &str, code: i32, detail: &str) -> Result<(), HcsError> {
    if code >= 0 {
        return Ok(());
    }
    Err(HcsError::new(intent, object, Hresult::from_bits(code.cast_unsigned()), detail))
}

impl ServiceProperties for ComputeCore {
    fn service_properties<'a>(&'a self, query: &'a str) -> BoxFuture<'a, Result<String, HcsError>> {
        let (core, query) = (self.core(), wide(query));
        Box::pin(blocking("read properties of the compute service", move |intent| {
            let mut result = LocalText::default();
            // SAFETY: the query is a terminated text, the result valid for a write and freed by its owner.
            let status = unsafe { (core.HcsGetServiceProperties)(query.as_ptr(), result.slot()) };
            let text = result.take();
            check(intent, "", status, &text).map(|()| text)
        }))
    }

    fn modify_service<'a>(&'a self, settings: &'a str) -> BoxFuture<'a, Result<(), HcsError>> {
        let (core, settings) = (self.core(), wide(settings));
        Box::pin(blocking("change the compute service", move |intent| {
            let mut result = LocalText::default();
            // SAFETY: as above.
            let status = unsafe { (core.HcsModifyServiceSettings)(settings.as_ptr(), result.slot()) };
            check(intent, "", status, &result.take())
        }))
    }
}

impl AccessGrants for ComputeCore {
    fn grant_vm<'a>(&'a self, vm: &'a str, path: &'a WinPath) -> BoxFuture<'a, Result<(), HcsError>> {
        let (core, vm, path) = (self.core(), wide(vm), path.clone());
        Box::pin(blocking("let a VM open", move |intent| {
            // SAFETY: both are terminated texts.
            let status = unsafe { (core.HcsGrantVmAccess)(vm.as_ptr(), wide(path.as_str()).as_ptr()) };
            check(intent, path.as_str(), status, "")
        }))
    }

    fn revoke_vm<'a>(&'a self, vm: &'a str, path: &'a WinPath) -> BoxFuture<'a, Result<(), HcsError>> {
        let (core, vm, path) = (self.core(), wide(vm), path.clone());
        Box::pin(blocking("keep a VM from opening", move |intent| {
            // SAFETY: both are terminated texts.
            let status = unsafe { (core.HcsRevokeVmAccess)(vm.as_ptr(), wide(path.as_str()).as_ptr()) };
            check(intent, path.as_str(), status, "")
        }))
    }

    fn grant_vm_group<'a>(&'a self, path: &'a WinPath) -> BoxFuture<'a, Result<(), HcsError>> {
        let (core, path) = (self.core(), path.clone());
        Box::pin(blocking("let VMs open", move |intent| {
            // SAFETY: it is a terminated text.
            let status = unsafe { (core.HcsGrantVmGroupAccess)(wide(path.as_str()).as_ptr()) };
            check(intent, path.as_str(), status, "")
        }))
    }
}

impl HvSockets for ComputeCore {
    fn listen(&self, vm: Guid, service: Guid) -> Result<Box<dyn PollAccept>, HcsError> {
        self.sockets.listen(vm, service)
    }

    fn connect(&self, vm: Guid, service: Guid) -> BoxFuture<'_, Result<GuestStream, HcsError>> {
        self.sockets.connect(vm, service)
    }
}

impl HostProcesses for ComputeCore {
    fn memory_process(&self, runtime_id: Guid) -> BoxFuture<'_, Result<Arc<dyn MemoryProcess>, HcsError>> {
        Box::pin(blocking("find the memory process of", move |intent| {
            let found = vmmem::find(runtime_id);
            let found = found.map_err(|error| system_error(intent, &runtime_id.to_string(), &error))?;
            Ok(Arc::new(OpenMemoryProcess { runtime_id, process: Arc::new(found) }) as Arc<dyn MemoryProcess>)
        }))
    }
}

/// The process that holds the memory of this VM.
struct OpenMemoryProcess {
    runtime_id: Guid,
    process: Arc<OwnedHandle>,
}

impl MemoryProcess for OpenMemoryProcess {
    fn working_set(&self) -> BoxFuture<'_, Result<u64, HcsError>> {
        let (runtime_id, process) = (self.runtime_id, Arc::clone(&self.process));
        Box::pin(blocking("read the working set of the memory process of", move |intent| {
            vmmem::working_set_of(&process).map_err(|error| system_error(intent, &runtime_id.to_string(), &error))
        }))
    }
}

impl Guids for ComputeCore {
    fn new_guid(&self) -> io::Result<Guid> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(io::Error::from)?;
        // Version 4, variant 1.
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Ok(Guid::from_bytes(bytes))
    }
}

/// An error of the system as one of the host.
fn system_error(intent: &'static str, object: &str, error: &io::Error) -> HcsError {
    let status = error.raw_os_error().map_or(Hresult::FAIL, |code| {
        // FACILITY_WIN32, as the system's own conversion has it.
        Hresult::from_bits(0x8007_0000 | code.cast_unsigned() & 0xffff)
    });
    HcsError::new(intent, object, status, &error.to_string())
}

/// A GUID in the system's shape: its first three parts in the byte order of the processor.
fn system_guid(guid: Guid) -> windows_sys::core::GUID {
    windows_sys::core::GUID::from_u128(u128::from_be_bytes(*guid.as_bytes()))
}
