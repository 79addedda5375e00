//! A 9P2000.L file server in the process that owns a VM.

#![cfg(target_os = "linux")]
#![forbid(unsafe_code)]

pub mod protocol;
pub mod tree;
