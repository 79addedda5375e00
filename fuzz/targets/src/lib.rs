//! What the fuzzers run: one function a target, which panics when a promise is broken.
//!
//! Each target has a wrapper in `fuzz/fuzz_targets` and a corpus in `fuzz/corpus`, both under its name. The corpora are
//! replayed by an ordinary test, so that a case once found stays found.

pub mod fs;
pub mod image;
pub mod log;
pub mod mux;
pub mod p9;
mod place;
pub mod vsock;
pub mod wire;

/// A target: given any bytes, it returns.
pub type Target = fn(&[u8]);

/// Every target under its name.
pub const TARGETS: &[(&str, Target)] = &[
    ("fs_requests", fs::fs_requests),
    ("image_deb", image::image_deb),
    ("image_kernel", image::image_kernel),
    ("log_parser", log::log_parser),
    ("mux_guest", mux::mux_guest),
    ("mux_owner", mux::mux_owner),
    ("p9_codec", p9::p9_codec),
    ("p9_session", p9::p9_session),
    ("vsock_guest", vsock::vsock_guest),
    ("vsock_ring", vsock::vsock_ring),
    ("wire_guest", wire::wire_guest),
    ("wire_host", wire::wire_host),
];
