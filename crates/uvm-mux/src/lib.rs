#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]
pub mod channel;
mod config;
pub mod connection;
mod driver;
mod error;
pub mod frame;
mod mux;
#[cfg(all(target_os = "linux", not(loom)))]
pub mod relay;
mod shared;
mod stream;

#[cfg(all(test, loom))]
mod interleavings;

pub use config::{Config, Greeting, GuestState, Priority, Role};
pub use driver::Driver;
pub use error::{Down, Link, MuxError, ProtocolError, StreamError};
pub use frame::Refusal;
pub use mux::{HelloInfo, Mux, MuxListener};
pub use stream::{MuxReadHalf, MuxStream, MuxWriteHalf};
