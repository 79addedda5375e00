//! How the library's operations fail.

mod container;
mod kind;
mod program;
mod start;
mod witness;

use std::path::PathBuf;
use std::time::Duration;

use uvm_platform::{ExitStatus, LastWords, PlatformError, UvmId};

pub use container::ContainerError;
pub use kind::ErrorKind;
pub use program::ProgramError;
pub use start::{StartError, StartPhase};
pub(crate) use witness::Witness;

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
