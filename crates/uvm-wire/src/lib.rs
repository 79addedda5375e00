//! The bridge protocol between a utility VM's host and its guest agent: messages and codec, without I/O.
//!
//! A message is a [`header`] of 16 bytes and a JSON object. The host sends requests, the guest answers each with one
//! response, in any order, and sends a notification when a container has ended. This crate is both ends of it, byte for
//! byte as the originals speak it (hcsshim's host side, the opengcs agent), of January 2021 and of August 2026.
//!
//! As a host: cut what arrives into frames with a [`FrameDecoder`], write calls with [`encode_request`], read answers
//! with [`decode_response`] and notifications with [`ContainerNotification::decode`].
//! As a guest: read requests with [`decode_request`], answer with [`encode_response`], or with [`encode_failure`] what
//! could not be read.
//!
//! Nothing here trusts the peer: no bytes of it make this code panic or recurse without bound, and what is allocated is
//! bounded by the length of the frame that has arrived. (Arrays of empty objects take most: up to a hundred times their
//! text, a few MiB for the largest frame a host takes.)
//!
//! | module | concept |
//! | --- | --- |
//! | [`header`] | message types, the header |
//! | [`frame`] | where messages begin and end, and how long they may be |
//! | [`request`], [`response`] | what all requests, all responses have in common; how they are read and written |
//! | [`call`] | every call with its body and its reply |
//! | [`negotiate`] | protocol version, capabilities |
//! | [`create`] | a new container |
//! | [`execute`], [`process`] | run a process; wait, signal, resize |
//! | [`properties`], [`metrics`] | what runs in a container, what it uses |
//! | [`modify`] | disks, shares, layers, adapters, policy |
//! | [`system`] | start, shutdown, clean-up, limits, stacks |
//! | [`notification`] | a container has ended |
//! | [`hresult`], [`failure`] | result codes, and how a call fails |
//! | [`guid`], [`ids`], [`ports`], [`trace`] | identifiers, ports, trace context |
//! | [`json`] | the protocol's JSON |
//!
//! Keys that agents of January 2021 do not know are marked "newer", with the month they came where it is known.

mod encode;
mod object;

pub mod call;
pub mod create;
pub mod execute;
pub mod failure;
pub mod frame;
pub mod guid;
pub mod header;
pub mod hresult;
pub mod ids;
pub mod json;
pub mod metrics;
pub mod modify;
pub mod negotiate;
pub mod notification;
pub mod ports;
pub mod process;
pub mod properties;
pub mod request;
pub mod response;
pub mod system;
pub mod trace;

pub use call::{Call, Reply, Rpc};
pub use encode::EncodeError;
pub use failure::{ErrorRecord, Failure};
pub use frame::{Frame, FrameDecoder, FrameError, SizeLimit};
pub use guid::Guid;
pub use header::{Header, MessageType};
pub use hresult::Hresult;
pub use ids::ContainerId;
pub use json::{JsonError, RawJson};
pub use notification::{ContainerNotification, NotificationError};
pub use request::{Request, RequestBase, RequestError, decode_request, encode_request};
pub use response::{Response, ResponseError, decode_response, encode_failure, encode_response};
