//! Stands in for `computecore.dll` in tests: gives handles, finishes operations by callbacks on other threads, tells
//! events, and writes down whatever is done to it that the real one would not bear.
//!
//! Its VMs have a guest (`guest.rs`), which dials the host by Hyper-V sockets as a real one does. Where the system has none, as
//! under wine, `sockets.rs` puts the loopback interface in their place, below the host's own calls.
//!
//! A test asks for the books by a query of the service for `StandIn`: what is open, texts that were not freed,
//! violations. A program's books are also written when it ends, to the file that `UVM_STAND_IN_BOOKS` names. What a
//! system is to do beyond the ordinary is asked by a change of it: `{"Fail":true}`, `{"Disconnect":true}`,
//! `{"Exit":true}`.

#[cfg(windows)]
mod books;
#[cfg(windows)]
mod guest;
#[cfg(windows)]
mod imports;
#[cfg(windows)]
mod operation;
#[cfg(windows)]
mod process;
#[cfg(windows)]
mod service;
#[cfg(windows)]
mod sockets;
#[cfg(windows)]
mod system;
#[cfg(windows)]
mod text;

/// A number in the shape of a handle. It points at nothing.
#[cfg(windows)]
fn as_handle(number: usize) -> *mut std::ffi::c_void {
    std::ptr::without_provenance_mut(number)
}
