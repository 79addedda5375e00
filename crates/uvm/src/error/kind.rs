//! What kind of failure an error is.

use uvm_platform::{GuestFault, PlatformError};
use uvm_wire::{Failure, Hresult};

use super::{ContainerError, ProgramError, StartError, UvmError};
use crate::bridge::BridgeError;
use crate::resources::ResourceError;

/// What kind of failure it is. Stable across versions, unlike the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller gave something that cannot be used.
    InvalidInput,
    /// Something with this name exists, on the host or in the guest.
    AlreadyExists,
    /// This host or guest cannot do it.
    Unsupported,
    /// It does not fit the VM's state, or the container's.
    WrongState,
    /// The VM has ended.
    Exited,
    /// Something took too long.
    Timeout,
    /// A program, a file or a container in the guest is not there.
    NotFound,
    /// A file in the guest may not be used so, or is no program.
    PermissionDenied,
    /// The guest failed.
    Guest,
    /// The host failed.
    Host,
}

impl UvmError {
    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Options(_) | Self::GuestRequest { .. } | Self::NotJson { .. } => ErrorKind::InvalidInput,
            Self::Host(source) | Self::Create { source, .. } | Self::Operation { source, .. } => host_kind(source),
            Self::BootFiles { .. } | Self::Stream { .. } => ErrorKind::Host,
            Self::Start { source, .. } => match &**source {
                StartError::Timeout(_) => ErrorKind::Timeout,
                StartError::Exited(_) => ErrorKind::Exited,
                StartError::Cancelled => ErrorKind::WrongState,
                StartError::Host(source) => host_kind(source),
                StartError::Bridge(source) => bridge_kind(source),
                StartError::Io(_) | StartError::Version(_) | StartError::AgentVersion { .. } => ErrorKind::Guest,
            },
            Self::Refused { .. } => ErrorKind::WrongState,
            Self::Exited { .. } => ErrorKind::Exited,
            Self::Timeout { .. } => ErrorKind::Timeout,
            Self::Guest { source, .. } => bridge_kind(source),
            Self::Program { source, .. } => match &**source {
                ProgramError::Guest(source) => bridge_kind(source),
                ProgramError::Host(source) | ProgramError::Port { source, .. } => host_kind(source),
                ProgramError::StreamNotDialled { .. } => ErrorKind::Timeout,
            },
            Self::Container { source, .. } => match source {
                ContainerError::Id(_) | ContainerError::Document { .. } | ContainerError::Incomplete { .. } => {
                    ErrorKind::InvalidInput
                }
                ContainerError::Exists => ErrorKind::AlreadyExists,
                ContainerError::Answer(_) => ErrorKind::Guest,
                ContainerError::Guest(source) => bridge_kind(source),
                ContainerError::Host(source) => host_kind(source),
            },
            Self::GuestUnsupported { .. } => ErrorKind::Unsupported,
            Self::Resource { source, .. } => resource_kind(source),
        }
    }
}

fn resource_kind(error: &ResourceError) -> ErrorKind {
    match error {
        ResourceError::NoScsiControllers
        | ResourceError::NoPciPorts
        | ResourceError::NotForThisGuest { .. }
        | ResourceError::NotForThisAgent { .. }
        | ResourceError::NoGuestConnection => ErrorKind::Unsupported,
        ResourceError::NoAvailableLocation { .. }
        | ResourceError::NamespaceInUse { .. }
        | ResourceError::Pinned { .. }
        | ResourceError::Broken { .. } => ErrorKind::WrongState,
        ResourceError::AttachedOtherwise { .. } | ResourceError::NamespaceAlreadyAdded => ErrorKind::AlreadyExists,
        ResourceError::NotAttached | ResourceError::NamespaceNotFound | ResourceError::NotOnHost { .. } => {
            ErrorKind::NotFound
        }
        ResourceError::LayerTooLarge { .. } | ResourceError::BadInput { .. } => ErrorKind::InvalidInput,
        ResourceError::Host(source) => host_kind(source),
        ResourceError::Guest(source) | ResourceError::Silent { source, .. } => bridge_kind(source),
    }
}

fn host_kind(error: &PlatformError) -> ErrorKind {
    match error {
        PlatformError::Unsupported { .. } => ErrorKind::Unsupported,
        PlatformError::AlreadyExists { .. } => ErrorKind::AlreadyExists,
        PlatformError::BadInput { .. } => ErrorKind::InvalidInput,
        PlatformError::Timeout { .. } => ErrorKind::Timeout,
        PlatformError::Ended { .. } => ErrorKind::Exited,
        PlatformError::WrongState { .. } => ErrorKind::WrongState,
        PlatformError::InGuest { fault, .. } => match fault {
            GuestFault::NotFound => ErrorKind::NotFound,
            GuestFault::AlreadyExists => ErrorKind::AlreadyExists,
            GuestFault::PermissionDenied => ErrorKind::PermissionDenied,
            GuestFault::WrongState => ErrorKind::WrongState,
            GuestFault::Unsupported => ErrorKind::Unsupported,
            // The enum may grow: whatever comes is the guest's affair.
            _ => ErrorKind::Guest,
        },
        // The enum may grow: whatever comes is the host's affair.
        _ => ErrorKind::Host,
    }
}

fn bridge_kind(error: &BridgeError) -> ErrorKind {
    match error {
        BridgeError::Timeout { .. } => ErrorKind::Timeout,
        BridgeError::Encode { .. } => ErrorKind::InvalidInput,
        // Where it was the end of the VM that closed the bridge, the error is another.
        BridgeError::Closed { .. } | BridgeError::Answer { .. } => ErrorKind::Guest,
        BridgeError::Failed(failure) => failure_kind(failure),
    }
}

fn failure_kind(failure: &Failure) -> ErrorKind {
    // A working directory that is not there, for one: the errno would say that it is the program.
    if failure.result == Hresult::INVALID_ARGUMENT {
        return ErrorKind::InvalidInput;
    }
    // Errno values of Linux, whose guest this is; the host may be another system.
    match failure.errno {
        Some(2 | 20) => return ErrorKind::NotFound,
        Some(1 | 8 | 13 | 26) => return ErrorKind::PermissionDenied,
        _ => {}
    }
    match failure.result {
        Hresult::NOT_IMPLEMENTED => ErrorKind::Unsupported,
        Hresult::TIMEOUT => ErrorKind::Timeout,
        Hresult::SYSTEM_NOT_FOUND => ErrorKind::NotFound,
        Hresult::SYSTEM_ALREADY_EXISTS => ErrorKind::AlreadyExists,
        Hresult::SYSTEM_ALREADY_STOPPED | Hresult::INVALID_STATE => ErrorKind::WrongState,
        _ => ErrorKind::Guest,
    }
}
