//! The QEMU machine protocol: a line of JSON a message, commands answered by id, events at any time.

mod client;
mod codec;

pub(crate) use client::{CallError, Qmp};
pub(crate) use codec::QmpEvent;
pub use codec::{QemuVersion, QmpError};
