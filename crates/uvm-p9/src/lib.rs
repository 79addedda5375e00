//! x
#![cfg(target_os = "linux")]
#![forbid(unsafe_code)]
pub mod protocol;
