#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]
#[cfg(target_os = "linux")]
mod backend;
mod config;
pub mod device;
mod error;
pub mod header;
#[cfg(target_os = "linux")]
pub mod rings;
#[cfg(target_os = "linux")]
mod shared;
#[cfg(target_os = "linux")]
mod stream;
#[cfg(target_os = "linux")]
mod vsock;

pub use config::{Config, Priority};
pub use error::{Down, Link, Misuse, StreamError, VsockError};
#[cfg(target_os = "linux")]
pub use stream::VsockStream;
#[cfg(target_os = "linux")]
pub use vsock::{Vsock, VsockListener};
