//! Errors as people read them.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::io;

use uvm_wire::Failure;

/// An error with its causes, from the outermost on.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

/// The failure, with the number that the kernel gave.
pub(crate) fn with_errno(failure: Failure, error: &io::Error) -> Failure {
    match error.raw_os_error() {
        Some(errno) => failure.with_errno(errno),
        None => failure,
    }
}

/// The agent cannot go on. The text names the step and its causes.
pub(crate) struct Fatal(String);

impl Fatal {
    /// `step` cannot be done because of `cause`.
    pub(crate) fn new(step: impl fmt::Display, cause: impl Error) -> Self {
        Self(format!("{step}: {}", with_causes(&cause)))
    }
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::DialError;

    #[test]
    fn causes_are_named_in_their_order() {
        let error = DialError::Socket { port: 1, source: rustix::io::Errno::CONNRESET.into() };
        let text = Fatal::new("entropy", error).to_string();
        assert!(text.starts_with("entropy: cannot connect to port 1 of the host: Connection reset by peer"), "{text}");
    }
}
