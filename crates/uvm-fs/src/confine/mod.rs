//! What keeps the process, should the guest get hold of it, from doing more than serve its share.
//!
//! Each part is used where the system has it. What is missing is told on standard error, and nothing else relies on it.

mod capabilities;
mod filter;
mod namespaces;
mod tree;

use std::io;

pub(crate) use self::capabilities::{keep_only, of_owner, of_passthrough};
pub(crate) use self::filter::filter_calls;
pub(crate) use self::namespaces::{Place, enter, open_own_files};
pub(crate) use self::tree::restrict_to;

/// A step of confinement that could not be done.
#[derive(Debug, thiserror::Error)]
#[error("{step}")]
pub(crate) struct ConfineError {
    pub(crate) step: &'static str,
    pub(crate) source: io::Error,
}

/// For `map_err`: this step failed.
pub(crate) fn at<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> ConfineError {
    move |source| ConfineError { step, source: source.into() }
}
