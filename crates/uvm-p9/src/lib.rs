#![cfg(target_os = "linux")]
#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

mod error;
mod limits;
pub mod protocol;
mod server;
mod share;
pub mod tree;

pub use error::{Ended, ServeError};
pub use limits::Limits;
pub use server::serve;
pub use share::{Exports, Share, Shares};
