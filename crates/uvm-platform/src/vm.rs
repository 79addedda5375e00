//! The traits a host implements, and the events of a VM's life.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::BoxFuture;
use crate::capabilities::Capabilities;
use crate::error::{LastWords, PlatformError};
pub use crate::figures::{HostGuestConnection, MemoryStatistics, VmProperties, VmStatistics};
use crate::files::PlatformFiles;
use crate::hosted::HostedGuest;
use crate::hvsocket::{HvSocketServiceConfig, HvSocketServiceId};
use crate::network::PlatformNetwork;
use crate::requests::{Change, HostFile, LayerPlace, PciAssignment, VmAccess};
use crate::spec::VmSpec;
use crate::stream::{GuestListener, GuestStream, Port};
use crate::windows::WcowSpec;

/// A host that runs utility VMs: the Host Compute Service on Windows, QEMU on Linux, an in-memory fake for tests.
pub trait Platform: Send + Sync + 'static {
    /// What this host can do. Callers ask first; they never probe by provoking errors.
    fn capabilities(&self) -> &Capabilities;

    /// How many processors a VM can be given at most.
    fn host_processors(&self) -> u32;

    /// The host's files, as far as guests boot from them.
    fn files(&self) -> &dyn PlatformFiles;

    /// The host's networks.
    ///
    /// # Errors
    /// [`PlatformError::Unsupported`] where VMs cannot be attached to any.
    fn network(&self) -> Result<&dyn PlatformNetwork, PlatformError>;

    /// A new random GUID (version 4) as text without braces, drawn by the host's own means; `None`: it has none.
    fn new_guid(&self) -> Option<Result<String, PlatformError>>;

    /// Creates a VM with a Linux guest, powered off, with its ports ready to be listened on. Dropping the VM ends it:
    /// nothing outlives its owner.
    ///
    /// Cancel-safe: what was begun is undone.
    fn create<'a>(&'a self, spec: &'a VmSpec) -> BoxFuture<'a, Result<CreatedVm, PlatformError>>;

    /// The same with a Windows guest.
    ///
    /// # Errors
    /// [`PlatformError::Unsupported`] where there are no such guests.
    fn create_wcow<'a>(&'a self, spec: &'a WcowSpec) -> BoxFuture<'a, Result<CreatedVm, PlatformError>>;
}

/// A VM that was just created, and the events of its life.
pub type CreatedVm = (Arc<dyn PlatformVm>, VmEvents);

/// One VM on a [`Platform`]. A default says what holds for every host but one, and never hides a missing feature.
pub trait PlatformVm: Send + Sync + 'static {
    /// What runs the guest's instructions. Known from creation on; deadlines scale with it.
    fn accelerator(&self) -> Accelerator;

    /// Powers the VM on; returns once the host reports it running.
    fn start(&self) -> BoxFuture<'_, Result<(), PlatformError>>;

    /// Stops the guest's processors. Idempotent.
    fn pause(&self) -> BoxFuture<'_, Result<(), PlatformError>>;

    /// Lets the guest's processors go on. Idempotent.
    fn resume(&self) -> BoxFuture<'_, Result<(), PlatformError>>;

    /// Ends the VM at once, without asking the guest; returns when it has ended. Idempotent.
    fn terminate(&self) -> BoxFuture<'_, Result<(), PlatformError>>;

    /// Ends the VM if it still runs and removes everything it left on the host. Idempotent. `ended` is called once the VM
    /// has ended, or could not be ended, and before what is left of it is removed: the moment to let go of streams.
    fn close_after(&self, ended: Box<dyn FnOnce() + Send>) -> BoxFuture<'_, Result<(), PlatformError>>;

    /// The same, where nobody holds streams.
    fn close(&self) -> BoxFuture<'_, Result<(), PlatformError>> {
        self.close_after(Box::new(|| {}))
    }

    /// The GUID, as text without braces, that the VM's own virtual sockets are addressed by; `None` where they are
    /// addressed otherwise.
    fn runtime_id(&self) -> Option<String>;

    /// As [`Platform::new_guid`].
    fn new_guid(&self) -> Option<Result<String, PlatformError>>;

    /// What the host's service learnt from the guest, where it holds the guest connection.
    ///
    /// # Errors
    /// [`PlatformError::Unsupported`] where it does not.
    fn guest_connection(&self) -> BoxFuture<'_, Result<HostGuestConnection, PlatformError>>;

    /// What the host knows of the VM. Never asks the guest.
    fn properties(&self) -> BoxFuture<'_, Result<VmProperties, PlatformError>>;

    /// Figures of the VM's processors and memory, as the host's service tells them.
    ///
    /// # Errors
    /// [`PlatformError::Unsupported`] where it does not.
    fn statistics(&self) -> BoxFuture<'_, Result<VmStatistics, PlatformError>>;

    /// How much of the host's memory the VM has, in bytes; right after a start it may be 0. Never asks the guest.
    ///
    /// # Errors
    /// The host does not tell.
    fn assigned_memory(&self) -> BoxFuture<'_, Result<u64, PlatformError>>;

    /// Lets the guest dial `port`.
    ///
    /// # Errors
    /// The port is taken, or the VM has ended.
    fn listen(&self, port: Port) -> Result<GuestListener, PlatformError>;

    /// Dials `port` in the guest. Cancel-safe.
    fn dial(&self, port: Port) -> BoxFuture<'_, Result<GuestStream, PlatformError>>;

    /// Gives the VM a device for virtual sockets, if it has none; in a running one, returns once the guest's driver has it.
    /// Idempotent.
    ///
    /// # Errors
    /// [`PlatformError::Timeout`]: the guest did not take it. It is taken out again.
    fn add_sockets(&self) -> BoxFuture<'_, Result<(), PlatformError>>;

    /// Takes that device out: its streams end in reset, its listeners in an error. Its services stay. Idempotent.
    ///
    /// # Errors
    /// [`PlatformError::NotAllowed`]: it carries the agent's own streams. [`PlatformError::Timeout`]: the guest does not let
    /// go of it; it is still there, and can be removed later.
    fn remove_sockets(&self) -> BoxFuture<'_, Result<(), PlatformError>>;

    /// Whether [`update_socket_service`](Self::update_socket_service) would take it.
    ///
    /// # Errors
    /// [`PlatformError::BadInput`].
    fn check_socket_service(
        &self,
        service: &HvSocketServiceId,
        config: &HvSocketServiceConfig,
    ) -> Result<(), PlatformError>;

    /// Creates, changes or removes the service that allows one port of the virtual sockets to be used. Listeners that are
    /// not allowed any more end in an error, and whoever dials them is refused; streams go on.
    ///
    /// # Errors
    /// [`PlatformError::BadInput`].
    fn update_socket_service<'a>(
        &'a self,
        service: &'a HvSocketServiceId,
        config: &'a HvSocketServiceConfig,
    ) -> BoxFuture<'a, Result<(), PlatformError>>;

    /// Removes that service, if it is there.
    ///
    /// # Errors
    /// [`PlatformError::BadInput`].
    fn remove_socket_service<'a>(&'a self, service: &'a HvSocketServiceId) -> BoxFuture<'a, Result<(), PlatformError>>;

    /// Lets programs in the guest dial `port` by a virtual socket. The ports of [`listen`](Self::listen), which are the
    /// agent's, are others, unless the agent itself uses virtual sockets.
    ///
    /// # Errors
    /// [`PlatformError::NotAllowed`] without a service that lets the guest dial it; [`PlatformError::Unsupported`] without
    /// a device; the port is taken, or the VM has ended.
    fn listen_socket(&self, port: Port) -> Result<GuestListener, PlatformError>;

    /// Dials a program in the guest that listens on `port` of a virtual socket. Waits as long as the guest does not answer.
    /// Cancel-safe.
    ///
    /// # Errors
    /// As [`listen_socket`](Self::listen_socket), of a service that lets the host dial it; nobody listens there.
    fn dial_socket(&self, port: Port) -> BoxFuture<'_, Result<GuestStream, PlatformError>>;

    /// Changes the running VM: the host's half. `guest` is the guest's half as JSON, for a host whose service holds the
    /// guest connection and passes it on; elsewhere it is `None`.
    ///
    /// # Errors
    /// [`PlatformError::Unsupported`], or that the host refuses: nothing was changed.
    fn change<'a>(&'a self, change: &'a Change, guest: Option<&'a str>) -> BoxFuture<'a, Result<(), PlatformError>>;

    /// Whether the host's service takes the guest's half of a change along with its own and passes it on: also before the
    /// VM is started, and where nobody else holds the guest connection.
    fn passes_on(&self) -> bool {
        false
    }

    /// Whether a Linux guest notices by itself a disk that is attached to it; one that does not is told to look.
    fn guest_notices_disks(&self) -> bool {
        true
    }

    /// Whether guests reach a named pipe of the host by themselves; one whose guest does not has its agent offer a socket, and
    /// carries each connection on a port.
    fn guest_reaches_pipes(&self) -> bool {
        true
    }

    /// The ports that PCI devices are plugged into, by the PCI addresses that the guest knows them by; `None` on a host that
    /// needs none, whose devices come on channels with GUIDs.
    fn pci_ports(&self) -> Option<Vec<String>> {
        None
    }

    /// The guest's PCI address of a device that is plugged in, as far as the host knows it.
    ///
    /// # Errors
    /// The host does not tell.
    fn pci_address<'a>(&'a self, device: &'a PciAssignment) -> BoxFuture<'a, Result<Option<String>, PlatformError>> {
        let _ = device;
        Box::pin(async { Ok(None) })
    }

    /// Where a Linux guest finds the layer in this slot, while it is attached; `None`: at the number of its slot.
    fn layer_place(&self, _slot: u32) -> Option<LayerPlace> {
        None
    }

    /// Has the host's service pass `request`, JSON, on to the guest.
    ///
    /// # Errors
    /// [`PlatformError::Unsupported`] where the service does not hold the guest connection.
    fn pass_on<'a>(&'a self, request: &'a str) -> BoxFuture<'a, Result<(), PlatformError>>;

    /// Containers and processes in the guest, where the host's service holds the guest connection.
    ///
    /// # Errors
    /// [`PlatformError::Unsupported`] where there is no such service.
    fn hosted(&self) -> Result<&dyn HostedGuest, PlatformError>;

    /// As [`Platform::network`].
    ///
    /// # Errors
    /// As there.
    fn network(&self) -> Result<&dyn PlatformNetwork, PlatformError>;

    /// What is at a path of the host. Links are followed.
    ///
    /// # Errors
    /// Nothing is there, it cannot be looked at, or is neither a directory nor a regular file.
    fn look_at<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, Result<HostFile, PlatformError>>;

    /// Whether files of this directory can be mapped into the memory of a guest it is shared with.
    ///
    /// # Errors
    /// The directory cannot be opened; [`PlatformError::Unsupported`] where none is shared so.
    fn can_map_files_of<'a>(&'a self, directory: &'a Path) -> BoxFuture<'a, Result<bool, PlatformError>>;

    /// The same text for every spelling of a path of the host, as far as can be told without looking at it.
    fn path_key(&self, path: &Path) -> String;

    /// Lets the VM open a file of the host.
    ///
    /// # Errors
    /// The host does not change the file's access.
    fn grant<'a>(&'a self, path: &'a Path, access: VmAccess) -> BoxFuture<'a, Result<(), PlatformError>>;

    /// Takes back what [`grant`](Self::grant) gave this VM alone.
    ///
    /// # Errors
    /// The host does not change the file's access.
    fn revoke<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, Result<(), PlatformError>>;

    /// What the VM said and did last, for error messages. Never waits.
    fn last_words(&self) -> LastWords;

    /// Runs `task` where the VM's own I/O runs, until it ends or this VM object is dropped. So a VM's tasks neither end
    /// with the runtime that happened to create it nor need one.
    fn spawn(&self, task: BoxFuture<'static, ()>);
}

/// What runs a guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Accelerator {
    /// The Linux kernel's hypervisor.
    Kvm,
    /// QEMU's translator: no hardware support, everything works, slowly.
    Tcg,
    /// Hyper-V.
    HyperV,
    /// There are no instructions: the host is a fake.
    None,
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
            Self::HyperV => "hyper-v",
            Self::None => "none",
        })
    }
}

/// How a VM ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExitStatus {
    /// The guest powered itself off.
    PoweredOff,
    /// The guest asked for a reset, which ends a utility VM (a panicking kernel does so).
    Reset,
    /// The guest's kernel panicked.
    Panicked,
    /// It was terminated by its owner.
    Terminated,
    /// The host's process for it ended with this code, by itself.
    HostProcessExited(i32),
    /// The host's process for it was killed by this signal, not by us.
    HostProcessKilled(i32),
    /// The host says it ended abnormally.
    Abnormal(String),
}

impl ExitStatus {
    /// `true` for an end that the guest or the owner asked for.
    pub fn is_clean(&self) -> bool {
        matches!(self, Self::PoweredOff | Self::Terminated)
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PoweredOff => f.write_str("the guest powered off"),
            Self::Reset => f.write_str("the guest reset itself"),
            Self::Panicked => f.write_str("the guest's kernel panicked"),
            Self::Terminated => f.write_str("terminated by its owner"),
            Self::HostProcessExited(code) => write!(f, "its host process exited with code {code}"),
            Self::HostProcessKilled(9) => {
                f.write_str("its host process was killed by signal 9 (by someone else, or for want of memory)")
            }
            Self::HostProcessKilled(31) => {
                f.write_str("its host process was killed by signal 31: the system call sandbox forbade a call")
            }
            Self::HostProcessKilled(signal) => write!(f, "its host process was killed by signal {signal}"),
            Self::Abnormal(why) => f.write_str(why),
        }
    }
}

/// Something that happened to a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum VmEvent {
    /// The guest's kernel panicked; the exit follows.
    GuestPanicked,
    /// Transport or host state is lost. The VM can only be terminated.
    Broken {
        /// Why.
        why: String,
    },
    /// The VM has ended. The last event.
    Exited(ExitStatus),
}

/// The life-cycle events of one VM, in order. A value of its own, so that a VM can be terminated while someone waits for
/// the next one.
#[derive(Debug)]
pub struct VmEvents {
    receiver: mpsc::Receiver<VmEvent>,
    ended: bool,
}

impl VmEvents {
    /// The receiving end of `receiver`. Hosts send [`VmEvent::Exited`] exactly once, last.
    pub fn new(receiver: mpsc::Receiver<VmEvent>) -> Self {
        Self { receiver, ended: false }
    }

    /// The next event, or `None` after `Exited`. Cancel-safe.
    pub async fn next(&mut self) -> Option<VmEvent> {
        if self.ended {
            return None;
        }
        let event = self.receiver.recv().await;
        self.ended = matches!(event, None | Some(VmEvent::Exited(_)));
        event
    }
}
