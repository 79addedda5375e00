#![cfg(target_os = "linux")]
#![doc = include_str!("../README.md")]

mod backend;
mod command;
mod confine;
mod gone;
pub mod guard;
#[cfg(feature = "raw")]
pub mod raw;
mod ring;
mod serve;
mod sys;

pub use command::{Command, CommandError, Namespaces, USAGE};
pub use serve::{ServeError, serve};
