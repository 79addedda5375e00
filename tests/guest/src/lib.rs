//! What the two ends of a test's streams agree on: what is sent, how much of it, and how the guest's end says how far it is.

pub mod pattern;
pub mod record;
