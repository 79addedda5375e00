//! A host of utility VMs on Linux: one QEMU process a VM, with KVM or without.
//!
//! [`QemuHost`] implements [`Platform`](uvm_platform::Platform). Below it, one module one concept:
//!
//! | module | concept |
//! | --- | --- |
//! | `host`, `create`, `vm`, `platform_vm` | the host, making a VM, its life |
//! | `accel` | which accelerator, and why |
//! | `command`, `kernel_line`, `boot_file`, `root_disk` | what QEMU is told and given |
//! | `spawn`, `user`, `cgroup` | processes that die with their owner, whom they run as, what confines them |
//! | `qmp` | the QEMU machine protocol |
//! | `console`, `ring`, `sink` | the serial console, its last lines, its copy for somebody who may be slow |
//! | `transport`, `sockets` | guest streams over the multiplexed serial port or by virtual sockets; the latter plugged |
//! | `disks`, `disk_image`, `vhd`, `devices` | disks that are plugged in and out, what they are on the host; removing devices |
//! | `layers` | read-only images that the guest has as memory, or as disks |
//! | `shares`, `virtio_fs` | directories of the host, served to the guest: by 9P in this process, as devices by processes of their own |
//! | `pipes` | sockets of the host, offered in the guest |
//! | `pci`, `vfio` | PCI devices of the host, plugged into ports; whether one can be |
//! | `slots` | the slots that devices are plugged into, and which is next |
//! | `turns`, `step_limit` | what is done to one device, one after the other; how long the steps of a change may take |
//! | `full_disk` | a guest that waits for room on the host |
//! | `file_users` | who has a file open |
//! | `short_path` | paths that fit a socket's address |
//! | `state`, `residue` | what a VM has on the host, written down before it is made, and who removes it |
//! | `exit`, `process_info` | how a VM ended, what its process does |

#![cfg(target_os = "linux")]

mod accel;
mod block_claim;
mod boot_file;
mod cgroup;
mod command;
mod console;
mod create;
mod devices;
mod disk_image;
mod disks;
mod exit;
mod file_key;
mod file_users;
mod full_disk;
mod host;
mod kernel_line;
mod kill_point;
mod layers;
mod pci;
mod pipes;
mod platform_vm;
mod process_info;
mod qcow2;
mod qmp;
mod residue;
mod ring;
mod root_disk;
mod shares;
mod short_path;
mod sink;
mod slots;
mod sockets;
mod spawn;
mod state;
mod step_limit;
#[cfg(test)]
mod test_listener;
#[cfg(test)]
mod test_spec;
mod transport;
mod turns;
mod user;
mod vfio;
mod vhd;
mod virtio_fs;
mod vm;

pub use accel::{AcceleratorChoice, Chosen};
pub use host::{QemuHost, QemuOptions};
#[cfg(feature = "kill-points")]
pub use kill_point::{KILL_POINTS, KILL_POINTS_OF_SHARES};
pub use qmp::{QemuVersion, QmpError};
pub use state::{LiveVm, Reclaimed, StateRoot, gc};
#[doc(hidden)]
pub use vfio::Vfio;
