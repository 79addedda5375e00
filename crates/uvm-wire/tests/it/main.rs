//! The crate seen from outside: recorded conversations, documented bytes, round trips, hostile input.

mod frames;
mod golden;
mod hostile;
mod roundtrip;
mod strategies;
mod support;
mod transcripts;
