//! What the two ends of a test agree on: what is sent, how much of it, how the guest's end says how far it is, and how content
//! is compared.

pub mod digest;
pub mod pattern;
pub mod record;
