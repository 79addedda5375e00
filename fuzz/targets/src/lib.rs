//! What is fuzzed: functions that take any bytes and must neither panic, nor hang, nor use memory without a bound.
//!
//! `fuzz/` runs them under libFuzzer; `tests/corpus.rs` runs them over the stored corpus with an ordinary compiler.

pub mod image;

/// A function to fuzz.
pub type Target = fn(&[u8]);

/// All of them, by the names of their corpus directories.
pub const TARGETS: &[(&str, Target)] = &[("image_deb", image::image_deb), ("image_kernel", image::image_kernel)];
