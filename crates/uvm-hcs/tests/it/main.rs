//! What this crate sends, compared with what was recorded from the original, and the platform over a recording host.

mod cases;
mod create;
mod modify;
mod platform;
mod scratch;
mod specs;
