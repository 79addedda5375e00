//! The bridge protocol between a utility VM's host and its guest agent: messages and codec, without I/O.
//!
//! A message is a [`header`] of 16 bytes and a JSON object. The host sends requests, the guest answers each with one
//! response, in any order, and sends a notification when a container has ended. This crate is both ends of it, byte for
//! byte as the originals speak it (hcsshim's host side, the opengcs agent), of January 2021 and of August 2026.
//!
//! Nothing here trusts the peer: no size, depth or text of it makes this code allocate beyond the frame it came in, or
//! panic.

mod object;

pub mod frame;
pub mod guid;
pub mod header;
pub mod hresult;
pub mod ids;
pub mod json;
pub mod ports;

pub use frame::{Frame, FrameDecoder, FrameError, SizeLimit};
pub use guid::Guid;
pub use header::{Header, MessageType};
pub use hresult::Hresult;
pub use ids::ContainerId;
pub use json::{JsonError, RawJson};
