//! What this crate sends, compared with what was recorded from the original, and the platform over a recording host.

mod cases;
#[cfg(windows)]
mod compute_core;
mod create;
mod creation;
mod hosted_containers;
mod hosted_faults;
mod hosted_processes;
mod modify;
mod network;
mod platform;
mod scratch;
mod specs;
