//! The crate seen from outside: recorded conversations, documented bytes, round trips, hostile input.

mod golden;
mod support;
mod transcripts;
