//! The library on the fake host, whose guest the tests play: the whole life of VMs, processes and containers, and what
//! goes wrong at each step.
//!
//! A test whose name begins with `d` and a number covers that defect of the original.

// Which agent boot files hold is read by `uvm-image`, which is for Linux hosts.
#![cfg(target_os = "linux")]

mod bridge;
mod cancel;
mod changes;
mod closing;
mod container;
mod container_calls;
mod container_handles;
mod create;
mod guest_faults;
mod guest_request;
mod handshake;
mod hosted;
mod injection;
mod layers;
mod lifecycle;
mod model;
mod network;
mod network_faults;
mod networked;
mod obedient;
mod output;
mod pipes;
mod process;
mod process_undone;
mod random;
mod resize;
mod resources;
mod scene;
mod shares;
mod sockets;
mod start;
mod support;
mod undoing;
mod vpci;
mod vsmb;
mod wcow;
