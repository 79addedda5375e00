//! Utility VMs: light VMs that host containers or single processes behind a hardware boundary.
#![doc = include_str!("../README.md")]
//!
//! | module | concept |
//! | --- | --- |
//! | [`LcowOptions`], [`WcowOptions`] | everything needed to create one VM |
//! | [`UtilityVm`] | a VM: create, start, use, end |
//! | [`Process`] | a process in it |
//! | [`Container`] | a container in it |
//! | [`ScsiMount`], [`VpmemMount`], [`Plan9Share`], [`PipeMount`], [`CombinedLayers`], [`NetworkEndpoints`] | what is plugged into it |
//! | [`OutputHandler`] | what is done with the guest's log |
//! | [`gc`](fn@gc) | what VMs left whose owner was killed |
//! | [`UvmError`] | how it fails |
//! | [`platform`] | what a host must offer, and a host in memory for tests |

mod bridge;
mod container;
mod device_id;
mod error;
mod host;
mod options;
mod output;
pub mod paths;
mod process;
mod resources;
mod vm;

pub use uvm_platform as platform;
pub use uvm_platform::network::Endpoint;
pub use uvm_platform::requests::CpuLimits;
pub use uvm_platform::spec::Console;
pub use uvm_platform::{
    Accelerator, Deadlines, ExitStatus, GuestListener, GuestStream, HvSocketServiceConfig, HvSocketServiceId,
    InvalidUvmId, LastWords, MemoryStatistics, UvmId, VmProperties, VmStatistics,
};
pub use uvm_wire as wire;

pub use bridge::{BridgeClosed, BridgeError, ContainerEnd};
pub use container::{Container, ContainerOptions, ContainerProcesses, ContainerStdio};
pub use device_id::{DeviceIdType, UnknownDeviceIdType};
pub use error::{ContainerError, ErrorKind, ProgramError, StartError, StartPhase, UvmError};
pub use host::{Gc, Reclaimed, gc};
#[cfg(target_os = "linux")]
pub use host::{image, qemu};
pub use options::{
    DEFAULT_VPMEM_COUNT, DEFAULT_VPMEM_SIZE_BYTES, GuestConnection, INITRD_FILE, KERNEL_FILE, KernelBoot, LcowOptions,
    MAX_PCI_PORTS, MAX_SCSI_CONTROLLERS, MAX_VPMEM_COUNT, MemoryBacking, MemoryMib, OptionsError, ProcessorCount,
    RootFsType, UNCOMPRESSED_KERNEL_FILE, VHD_FILE, WcowOptions,
};
pub use output::{GuestLogEntry, GuestLogParser, LogLevel, NotALog, OutputHandler};
pub use process::{Output, Process, ProcessExit, ProcessInput, ProcessOutput, ProcessSpec, TerminalSize};
pub use resources::{
    CombinedLayers, ContainerPipeMapping, FileSystem, Grow, LayerMechanism, NetworkEndpoints, PipeMount, Plan9Share,
    Plan9ShareOptions, ResourceError, ScsiDisk, ScsiMount, Share, ShareKind, ShareOptions, ShareWay, VpciDevice,
    VpmemMount, VsmbShare, is_pipe,
};
pub use uvm_platform::requests::{BlockSize, ImageFormat, ScsiKind, ScsiSettings, ShareOwners, VmAccess, VsmbOptions};
pub use vm::{Refusal, UtilityVm};
