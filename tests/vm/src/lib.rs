//! Tests that boot real guests: see `tests/vm/main.rs`.
