//! The agent as its host sees it, without a VM: its library, driven over the multiplexer and over sockets by bytes written
//! by hand.
//!
//! Nothing here uses this project's encoder: each message stands in its test, body in JSON and mostly header in hex, as the
//! protocol's description has it.

#![cfg(target_os = "linux")]

mod connection;
mod execute;
mod negotiate;
mod not_yet;
mod process;
mod program;
mod refused;
mod replay;
mod support;
