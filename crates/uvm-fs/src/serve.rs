//! Serving one share: the order in which the process gives up what it does not need.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal};
use vhost::vhost_user::Listener;
use vhost_user_backend::VhostUserDaemon;
use virtiofsd::filesystem::FileSystem;
use virtiofsd::passthrough::{CachePolicy, Config, PassthroughFs};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

use crate::backend::{Backend, Queues};
use crate::command::{Command, Namespaces};
use crate::confine::{self, ConfineError, Place};
use crate::gone::Gone;
use crate::guard::{Guarded, Owners};
use crate::sys;

/// Why a share is not served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// A descriptor is not what it is said to be, or the directory cannot be used.
    #[error("{step}")]
    Start {
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// Capabilities could not be given up.
    #[error("the process cannot be confined")]
    Confine {
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The device failed.
    #[error("the device failed: {0}")]
    Device(String),
}

/// The most descriptors that a guest is given: each file it knows and each it has open is one.
const DESCRIPTORS: u64 = 1_000_000;
/// What the process itself has open, or is about to open and to count.
const OWN_DESCRIPTORS: u64 = 64;
/// How long a guest may take names and attributes as it knows them. Its files are read anew with each opening.
const CACHED: Duration = Duration::from_secs(1);

/// Serves a share until the device is closed.
///
/// To be called first thing in a process of its own: it takes descriptors by their numbers and closes all others, and
/// confines the process, and all threads it has later.
///
/// # Errors
/// [`ServeError`]: nothing is served, or no more.
pub fn serve(command: &Command) -> Result<(), ServeError> {
    let at = |step| move |source: io::Error| ServeError::Start { step, source };
    let taken = sys::take_descriptors([command.directory, command.socket]);
    let [directory, socket] = taken.map_err(at("take the descriptors"))?;
    let owner = rustix::fs::fstat(&directory).map_err(|e| at("look at the directory")(e.into()))?;
    if rustix::fs::fstatfs(&directory).is_ok_and(|of| of.f_type == PROC_SUPER_MAGIC) {
        return Err(at("look at the directory")(io::Error::other("files of processes are not shared")));
    }
    sys::outlive_limit_of_files().map_err(at("ignore a signal"))?;
    let limit = raise_limit();
    let owners =
        if command.passthrough { Owners::Passthrough } else { Owners::One { uid: owner.st_uid, gid: owner.st_gid } };
    let Place { directory, own_files } = confine(command, directory)?;
    if command.gone {
        tell(confine::filter_calls());
        return run(Gone, socket, Queues::TakenOver);
    }
    let file_system = PassthroughFs::new(config(own_files, limit)).map_err(at("open the share"))?;
    let file_system = Guarded::new(file_system, command.access, owners);
    tell(confine::filter_calls());
    // Its tree is found by the working directory.
    drop(directory);
    run(file_system, socket, Queues::Own)
}

const PROC_SUPER_MAGIC: rustix::fs::FsWord = 0x9fa0;

fn raise_limit() -> u64 {
    let had = rustix::process::getrlimit(Resource::Nofile);
    let most = had.maximum.unwrap_or(DESCRIPTORS).min(DESCRIPTORS).max(had.current.unwrap_or(0));
    let wanted = Rlimit { current: Some(most), maximum: had.maximum };
    match rustix::process::setrlimit(Resource::Nofile, wanted) {
        Ok(()) => most,
        Err(_) => had.current.unwrap_or(most),
    }
}

/// Confines the process to the directory, which is its working directory then.
fn confine(command: &Command, directory: OwnedFd) -> Result<Place, ServeError> {
    let fatal = |source: ConfineError| ServeError::Confine { source: source.into() };
    let start = |step| move |source: rustix::io::Errno| ServeError::Start { step, source: source.into() };
    rustix::process::fchdir(&directory).map_err(start("enter the directory"))?;
    // For a process that stays where it is. One that gets a root of its own must not keep it, nor the directory that it was
    // started with: both lead out, by `..`, to the root that it was started in.
    let own_files = confine::open_own_files()
        .map_err(|source| ServeError::Start { step: "open its own files in /proc", source })?;
    let place = match command.namespaces {
        Namespaces::Shared => Place { directory, own_files },
        Namespaces::Own => match confine::enter(&directory, command.access) {
            Ok(place) => place,
            Err(error) => {
                tell(Err(error));
                // Some step may have come first.
                rustix::process::fchdir(&directory).map_err(start("enter the directory"))?;
                Place { directory, own_files }
            }
        },
    };
    let root = rustix::process::geteuid().is_root();
    let kept = match (root, command.passthrough) {
        (true, true) => confine::of_passthrough(),
        (true, false) => confine::of_owner(),
        // What a user namespace gave is of use for its making only.
        (false, _) => rustix::thread::CapabilitySet::empty(),
    };
    confine::keep_only(kept).map_err(fatal)?;
    tell(confine::restrict_to(&place.directory, command.access));
    // Others of this user must not reach into a process that has the memory of a guest.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(start("keep others out of the process"))?;
    // Where credentials change, the kernel forgets it.
    let parent = rustix::process::getppid();
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(start("end with its owner"))?;
    if parent != rustix::process::getppid() {
        return Err(start("end with its owner")(rustix::io::Errno::SRCH));
    }
    Ok(place)
}

/// What is missing, for those who read the process's output.
fn tell(confined: Result<(), ConfineError>) {
    if let Err(error) = confined {
        eprintln!("not confined as far as possible: {error}: {}", error.source);
    }
}

/// As `virtiofsd --cache auto` has it, with the user's attributes.
fn config(own_files: OwnedFd, limit: u64) -> Config {
    Config {
        entry_timeout: CACHED,
        attr_timeout: CACHED,
        cache_policy: CachePolicy::Auto,
        root_dir: ".".into(),
        xattr: true,
        proc_sfd_rawfd: Some(File::from(own_files)),
        announce_submounts: true,
        readdirplus: true,
        // The guest leaves it to the host to take set-user-id bits from what is written, and need not ask each time.
        killpriv_v2: true,
        guest_fd_limit: limit.saturating_sub(OWN_DESCRIPTORS),
        ..Config::default()
    }
}

fn run<F>(file_system: F, socket: OwnedFd, queues: Queues) -> Result<(), ServeError>
where
    F: FileSystem + Send + Sync + 'static,
{
    let device = |e: &dyn std::fmt::Display| ServeError::Device(e.to_string());
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let mut daemon = VhostUserDaemon::new("uvm-fs".into(), Arc::new(Backend::new(file_system, queues)), memory)
        .map_err(|e| device(&e))?;
    let mut listener = Listener::from(UnixListener::from(socket));
    daemon.start(&mut listener).map_err(|e| device(&e))?;
    match daemon.wait() {
        Ok(()) | Err(vhost_user_backend::Error::HandleRequest(vhost::vhost_user::Error::Disconnected)) => Ok(()),
        Err(e) => Err(device(&e)),
    }
}
