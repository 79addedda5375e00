//! How serving a client ends.

use std::io;
use std::time::Duration;

use thiserror::Error;

/// Why a client is not served any more, when nothing went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ended {
    /// The client closed its connection between two messages.
    Disconnected,
    /// The caller of [`serve`](crate::serve) asked for it.
    Shutdown,
    /// A share that the client had attached to was closed.
    ShareClosed,
}

/// Why a client could not be served any further. What it held is released all the same.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The connection failed, or ended within a message.
    #[error("the connection of a 9P client failed")]
    Connection {
        /// How.
        source: io::Error,
    },
    /// A message that cannot be one: where the next begins is not known.
    #[error("9P message of {size} bytes where 7 to {most} are allowed")]
    BadSize {
        /// What it says of itself.
        size: u32,
        /// The session's message size.
        most: u32,
    },
    /// The client has not said what it speaks.
    #[error("9P message of type {kind} before a version was agreed on")]
    NoVersion {
        /// The type.
        kind: u8,
    },
    /// Two requests that are not answered have one tag.
    #[error("tag {tag} of a 9P request is that of another, which is not answered yet")]
    TagInUse {
        /// The tag.
        tag: u16,
    },
    /// The client began a new session while a request of the old one did not end, or without reading its answer, or while
    /// its files took long to close.
    #[error(
        "a 9P request was not answered, or a file not closed, after {waited:?}, when the client began a new session"
    )]
    Stuck {
        /// [`Limits::with_drain`](crate::Limits::with_drain).
        waited: Duration,
    },
    /// No thread could be started.
    #[error("cannot start a thread for a 9P client")]
    Thread {
        /// What the operating system says.
        source: io::Error,
    },
    /// The code that serves requests panicked.
    #[error("panic while serving a 9P request")]
    Panicked,
}
