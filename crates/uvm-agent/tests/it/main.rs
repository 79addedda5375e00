//! The agent as its host sees it, without a VM: its library, driven over a real transport by bytes written by hand.
//!
//! Nothing here uses this project's encoder: each message stands in its test, header in hex and body in JSON, as the
//! protocol's description has it.

#![cfg(target_os = "linux")]

mod connection;
mod execute;
mod negotiate;
mod process;
mod refused;
mod replay;
mod support;
