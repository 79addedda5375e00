//! How the library's operations fail.

use std::path::PathBuf;
use std::time::Duration;

use uvm_platform::{ExitStatus, GuestFault, LastWords, PlatformError, PlatformVm, UvmId};
use uvm_wire::{Failure, Hresult};

use crate::bridge::BridgeError;
use crate::options::OptionsError;
use crate::resources::ResourceError;
use crate::vm::Refusal;

/// Why an operation failed. Each variant's doc says in what state things are left; the causes are in
/// [`source`](std::error::Error::source).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UvmError {
    /// The options make no sense, or name something that is not there. Nothing was made.
    #[error("UVM options incorrect")]
    Options(#[from] OptionsError),
    /// This host cannot run utility VMs. Nothing was made.
    #[error("this host cannot run utility VMs")]
    Host(#[source] PlatformError),
    /// The boot files cannot be had. Nothing was made.
    #[error("cannot get boot files{}", at(path.as_ref()))]
    BootFiles {
        /// Where they were looked for, if a place was named.
        path: Option<PathBuf>,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The host could not create the VM. What was begun has been undone.
    #[error("cannot create utility VM {id}")]
    Create {
        /// The VM.
        id: UvmId,
        /// Why.
        source: PlatformError,
    },
    /// The VM did not start. It has been terminated; close it.
    #[error("utility VM {id} did not start: {phase}{last_words}")]
    Start {
        /// The VM.
        id: UvmId,
        /// How far it came.
        phase: StartPhase,
        /// What it said and did meanwhile.
        last_words: Box<LastWords>,
        /// Why.
        source: Box<StartError>,
    },
    /// The operation does not fit what the VM is doing. Nothing was changed.
    #[error("cannot {intent} utility VM {id}: {why}")]
    Refused {
        /// The VM.
        id: UvmId,
        /// What was tried, as the object of "cannot", of which the VM is the object: "pause", "signal a process of".
        intent: &'static str,
        /// What it is doing.
        why: Refusal,
    },
    /// The VM ended before the operation did.
    #[error("cannot {intent} utility VM {id}: it has ended: {status}{last_words}")]
    Exited {
        /// The VM.
        id: UvmId,
        /// What was tried.
        intent: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// What it said and did before.
        last_words: Box<LastWords>,
    },
    /// The host failed at something. The variant of the cause says how things are left.
    #[error("cannot {intent} utility VM {id}")]
    Operation {
        /// The VM.
        id: UvmId,
        /// What was tried.
        intent: &'static str,
        /// Why.
        source: PlatformError,
    },
    /// The VM did not do something in time. It is still there.
    #[error("utility VM {id}: {what}: nothing within {waited:?}{last_words}")]
    Timeout {
        /// The VM.
        id: UvmId,
        /// What was waited for.
        what: &'static str,
        /// How long.
        waited: Duration,
        /// What it said and did meanwhile.
        last_words: Box<LastWords>,
    },
    /// The guest failed at something, or did not answer. The VM goes on.
    #[error("cannot {intent} utility VM {id}{last_words}")]
    Guest {
        /// The VM.
        id: UvmId,
        /// What was tried, as in [`Refused`](Self::Refused).
        intent: &'static str,
        /// What the VM said and did meanwhile, if the guest did not answer.
        last_words: Box<LastWords>,
        /// Why.
        source: BridgeError,
    },
    /// Something could not be plugged in, unplugged or found. The cause says how things are left.
    #[error("cannot {intent} {what} of utility VM {id}")]
    Resource {
        /// The VM.
        id: UvmId,
        /// What was tried, as the object of "cannot".
        intent: &'static str,
        /// The thing.
        what: String,
        /// Why.
        source: Box<ResourceError>,
    },
    /// A program could not be started. The VM goes on; nothing of the process is left.
    #[error("cannot run {program} in utility VM {id}{last_words}")]
    Program {
        /// The VM.
        id: UvmId,
        /// The program's name in quotes, or what it is to a container.
        program: String,
        /// What the VM said and did meanwhile, if the guest did not answer.
        last_words: Box<LastWords>,
        /// Why.
        source: Box<ProgramError>,
    },
    /// A container could not be made, or did not do what it was asked. For one that could not be made the id is free again,
    /// or will be once the guest answers if that is what it did not do.
    #[error("cannot {intent} container {container:?} of utility VM {id}{last_words}")]
    Container {
        /// The VM.
        id: UvmId,
        /// The container.
        container: String,
        /// What was tried, as the object of "cannot", of which the container is the object.
        intent: &'static str,
        /// What the VM said and did meanwhile, if the guest did not answer.
        last_words: Box<LastWords>,
        /// Why.
        source: ContainerError,
    },
    /// There is no sense in a request to the guest. It was not sent.
    #[error("cannot modify {resource:?} of utility VM {id}: {why}")]
    GuestRequest {
        /// The VM.
        id: UvmId,
        /// The resource, as it is named on the wire.
        resource: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The guest's agent, or the guest connection, cannot do this. Nothing was changed.
    #[error("utility VM {id}: {what}: the guest agent does not support it")]
    GuestUnsupported {
        /// The VM.
        id: UvmId,
        /// What was asked for.
        what: &'static str,
    },
    /// Something given as JSON is none. Nothing was changed.
    #[error("{what} for utility VM {id} is no JSON")]
    NotJson {
        /// The VM.
        id: UvmId,
        /// What it is.
        what: &'static str,
        /// What is wrong with it.
        source: uvm_wire::JsonError,
    },
    /// Reading or writing a process's standard streams failed.
    #[error("utility VM {id}: a standard stream of process {process} was cut")]
    Stream {
        /// The VM.
        id: UvmId,
        /// The process.
        process: u32,
        /// Why.
        source: std::io::Error,
    },
}

/// An error with all of its causes in one line, for logs; one that only repeats its cause is left out.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut texts: Vec<String> = std::iter::successors(Some(error), |e| e.source()).map(ToString::to_string).collect();
    texts.dedup();
    texts.join(": ")
}

fn at(path: Option<&PathBuf>) -> String {
    path.map(|path| format!(" from {}", path.display())).unwrap_or_default()
}

/// How far a start came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartPhase {
    /// The host powers it on.
    PowerOn,
    /// The guest boots, until its init asks for entropy.
    Entropy,
    /// The guest boots, until its agent connects its log.
    Log,
    /// The guest boots, until its agent connects the bridge.
    Bridge,
    /// Host and guest agree on the protocol, the guest brings its processors online.
    Negotiation,
}

impl std::fmt::Display for StartPhase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::PowerOn => "the host did not power it on",
            Self::Entropy => "its init did not connect for entropy",
            Self::Log => "its agent did not connect its log",
            Self::Bridge => "its agent did not connect",
            Self::Negotiation => "its agent did not complete the handshake",
        })
    }
}

/// Why a start failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The time given to all of the start has passed.
    #[error("not done within {0:?}")]
    Timeout(Duration),
    /// The VM ended.
    #[error("the VM ended: {0}")]
    Exited(ExitStatus),
    /// It was terminated or closed meanwhile.
    #[error("it was given up meanwhile")]
    Cancelled,
    /// The host failed.
    #[error(transparent)]
    Host(PlatformError),
    /// A stream to the guest broke.
    #[error("the connection broke")]
    Io(#[source] std::io::Error),
    /// The guest did not answer as it must.
    #[error(transparent)]
    Bridge(BridgeError),
    /// The guest chose a protocol that was not offered.
    #[error(transparent)]
    Version(uvm_wire::negotiate::UnexpectedVersion),
    /// The agent in the boot files is not of this library's version.
    #[error("the boot files hold agent version {theirs:?}, this library needs {ours:?}: make them anew")]
    AgentVersion {
        /// What the library needs.
        ours: &'static str,
        /// What the boot files hold; empty for an agent that does not say, as the original.
        theirs: String,
    },
}

/// Why a program could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// The guest refused, or did not answer.
    #[error(transparent)]
    Guest(BridgeError),
    /// The host's service, which holds the guest connection, refused, or did not answer.
    #[error(transparent)]
    Host(PlatformError),
    /// A port for its standard streams cannot be opened.
    #[error("no port for its {stream}")]
    Port {
        /// Which stream.
        stream: &'static str,
        /// Why.
        source: PlatformError,
    },
    /// The guest started it but did not connect a standard stream. The process has been killed.
    #[error("the guest did not connect its {stream} within {waited:?}")]
    StreamNotDialled {
        /// Which stream.
        stream: &'static str,
        /// How long was waited.
        waited: Duration,
    },
}

/// Why something about a container failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContainerError {
    /// The id cannot be that of a container.
    #[error(transparent)]
    Id(uvm_wire::ids::InvalidContainerId),
    /// This VM has a container with this id, whose handle is open.
    #[error("it already exists")]
    Exists,
    /// What describes it, or a part of it, is no JSON object. The guest was not asked.
    #[error("its {what} must be a JSON object")]
    Document {
        /// Which document: "specification", ...
        what: &'static str,
        /// What it is.
        source: uvm_wire::JsonError,
    },
    /// The specification lacks something without which no agent can make a container, and some fail themselves. The
    /// guest was not asked.
    #[error("its specification has no object {missing:?}")]
    Incomplete {
        /// The key.
        missing: &'static str,
    },
    /// The guest answered with something that was not asked for.
    #[error("the guest's answer makes no sense")]
    Answer(#[source] uvm_wire::JsonError),
    /// The guest refused, or did not answer.
    #[error(transparent)]
    Guest(BridgeError),
    /// The host's service, which holds the guest connection, refused, or did not answer.
    #[error(transparent)]
    Host(Box<PlatformError>),
}

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

impl BridgeError {
    /// Whether the guest did not answer: what keeps it is for its VM to tell.
    pub(crate) fn is_silence(&self) -> bool {
        matches!(self, Self::Timeout { .. })
    }
}

impl ProgramError {
    /// As [`BridgeError::is_silence`].
    fn is_silence(&self) -> bool {
        match self {
            Self::Guest(source) => source.is_silence(),
            Self::StreamNotDialled { .. } => true,
            // The host's own errors say what the VM did meanwhile.
            Self::Host(_) | Self::Port { .. } => false,
        }
    }
}

/// Makes the errors that quote a VM whose guest does not answer.
pub(crate) struct Witness<'a> {
    /// The VM.
    pub(crate) id: &'a UvmId,
    /// The same.
    pub(crate) vm: &'a dyn PlatformVm,
}

impl Witness<'_> {
    pub(crate) fn guest(&self, intent: &'static str, source: BridgeError) -> UvmError {
        let last_words = Box::new(self.last_words_if(source.is_silence()));
        UvmError::Guest { id: self.id.clone(), intent, last_words, source }
    }

    pub(crate) fn program(&self, program: String, source: ProgramError) -> UvmError {
        let last_words = Box::new(self.last_words_if(source.is_silence()));
        UvmError::Program { id: self.id.clone(), program, last_words, source: Box::new(source) }
    }

    pub(crate) fn container(&self, container: String, intent: &'static str, source: ContainerError) -> UvmError {
        let is_silent = matches!(&source, ContainerError::Guest(source) if source.is_silence());
        let last_words = Box::new(self.last_words_if(is_silent));
        UvmError::Container { id: self.id.clone(), container, intent, last_words, source }
    }

    fn last_words_if(&self, is_silent: bool) -> LastWords {
        if is_silent { self.vm.last_words() } else { LastWords::default() }
    }
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
