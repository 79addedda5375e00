//! Tests that boot real guests. Each VM has a state directory of its own and is checked for leaks when it is closed.
#![cfg(target_os = "linux")]

mod boots;
mod campaign;
mod cli;
mod conformance;
mod console;
mod disk_options;
mod disks;
mod disks_many;
mod exchange;
mod faults;
mod full_disk;
mod images;
mod layers;
mod lifecycle;
mod original;
mod owner;
mod pipes;
mod plugging;
mod process;
mod qemu;
mod readme;
mod root_disk;
mod services;
mod share_programs;
mod share_suites;
mod shares;
mod sockets;
mod sockets_cut;
mod sockets_owner;
mod streams;
mod virtio_fs;
mod virtio_fs_faults;
mod volume;
mod vpci;
mod vpmem;
