//! Fuzz targets as plain functions of the input. `fuzz/` wraps each for libFuzzer; `tests/corpus.rs` replays the corpus.

pub mod mux;

/// Takes one input; panics at a finding.
pub type Target = fn(&[u8]);

/// Every target, by the name of its folder in `fuzz/corpus`.
pub const TARGETS: &[(&str, Target)] = &[("mux_owner", mux::mux_owner), ("mux_guest", mux::mux_guest)];
