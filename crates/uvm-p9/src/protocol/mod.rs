//! The codec of 9P2000.L: messages from and to bytes, without I/O. Any bytes are read without a panic.
//!
//! A message is a [`Header`] and fields. [`Request`] and [`Response`] are what the fields mean; they borrow names and data
//! from the bytes they were read from.

mod fields;
pub mod flags;
mod message;
mod wire;

pub use fields::{
    Attributes, Data, Entry, FileSystem, LockRange, MAX_NAME, MAX_TARGET, MAX_WALK, Name, Qid, SetAttributes, Target,
    Text, Time, WalkList,
};
pub(crate) use message::{
    FLUSH_REQUEST, READ_DIR_REQUEST, READ_DIR_RESPONSE, READ_REQUEST, READ_RESPONSE, VERSION_REQUEST, set_size,
};
pub use message::{HEADER_LEN, Header, Request, Response};
pub use wire::DecodeError;
