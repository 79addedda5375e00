//! How a link, a dial and a stream fail.

use std::io;

use thiserror::Error;

use crate::frame::{FrameError, Kind, Refusal};

/// Whether the link is up. Each time it comes up is a new epoch: streams of an older one have ended in reset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// Not yet up, or lost.
    Down {
        /// Why.
        why: Down,
    },
    /// Both ends have shaken hands.
    Up {
        /// Counts from 1.
        epoch: u64,
    },
}

/// Why a link is down.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Down {
    /// The owner has said HELLO; the guest has not answered yet.
    #[error("no answer from the guest yet")]
    NoAnswerYet,
    /// The guest waits for its first owner.
    #[error("no owner yet")]
    NoOwnerYet,
    /// The other end closed the channel. Final for an owner; a guest waits for the next one.
    #[error("the other end closed the channel")]
    Closed,
    /// The other end broke the protocol. Final for an owner; a guest waits for the next one.
    #[error("the other end broke the protocol")]
    Protocol(#[source] ProtocolError),
    /// The ends speak different versions. Final for an owner; a guest waits for the next one.
    #[error("this end speaks version {ours} of the mux, the other version {theirs}")]
    Version {
        /// This end's.
        ours: u32,
        /// The other's.
        theirs: u32,
    },
    /// Reading or writing the channel failed. Final.
    #[error("the channel failed: {message}")]
    Channel {
        /// What kind of failure.
        kind: io::ErrorKind,
        /// The operating system's words.
        message: String,
    },
    /// This end was closed, or its driver dropped. Final.
    #[error("closed at this end")]
    ClosedHere,
    /// The code that runs this end panicked. Final.
    #[error("panic in the mux")]
    Panicked,
}

impl Down {
    /// `true` if a guest's link can come up again after this.
    pub(crate) fn guest_recovers(&self) -> bool {
        match self {
            Self::NoAnswerYet | Self::NoOwnerYet | Self::Closed | Self::Protocol(_) | Self::Version { .. } => true,
            Self::Channel { .. } | Self::ClosedHere | Self::Panicked => false,
        }
    }
}

/// What the other end did that no honest end does. The link is down; all streams have ended in reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// Bytes that are no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame that the other end must not send now, or never.
    #[error("unexpected {kind:?} frame for stream {id}")]
    Unexpected {
        /// The frame's kind.
        kind: Kind,
        /// Its stream.
        id: u32,
    },
    /// A frame for a stream that was never opened.
    #[error("{kind:?} frame for stream {id}, which was never opened")]
    NeverOpened {
        /// The frame's kind.
        kind: Kind,
        /// Its stream.
        id: u32,
    },
    /// An OPEN whose id is not the next of the other end's.
    #[error("stream {id} opened where {expected} is next")]
    WrongId {
        /// The OPEN's.
        id: u32,
        /// The only one allowed.
        expected: u64,
    },
    /// More OPENs without an answer than this end announced.
    #[error("more than {limit} streams opened without waiting for an answer")]
    TooManyUnanswered {
        /// What was announced.
        limit: u32,
    },
    /// DATA beyond the window.
    #[error("{excess} bytes beyond the window of stream {id}")]
    WindowExceeded {
        /// The stream.
        id: u32,
        /// Bytes too many.
        excess: u32,
    },
    /// A WINDOW of nothing, or one that takes the credit past 32 bits.
    #[error("bad credit {credit} for stream {id}")]
    BadCredit {
        /// The stream.
        id: u32,
        /// The WINDOW's.
        credit: u32,
    },
    /// A HELLO with the nonce of the epoch it would end.
    #[error("nonce of a greeting used twice")]
    NonceReused,
}

/// Why a dial, a listen or a wait failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MuxError {
    /// The link is not up. Nothing was sent.
    #[error("the link is down")]
    LinkDown {
        /// Why.
        #[source]
        why: Down,
    },
    /// Somebody listens on the port already.
    #[error("port {port} is taken")]
    PortTaken {
        /// The port.
        port: u32,
    },
    /// As many streams are open here, or as many dials unanswered there, as an end takes. Nothing was sent.
    #[error("{limit} streams are open already")]
    TooManyStreams {
        /// The limit that was met.
        limit: u32,
    },
    /// This epoch has no ids left: 2,147,483,648 streams were dialled. Only a new owner helps.
    #[error("no stream ids are left")]
    IdsExhausted,
    /// The stream ended before the other end accepted it.
    #[error("port {port} was not reached")]
    NotAccepted {
        /// The port.
        port: u32,
        /// Why.
        #[source]
        why: StreamError,
    },
}

/// Why a stream was cut. In an [`io::Error`] of a stream this is the source.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The other end refused it.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// The other end dropped or reset it.
    #[error("reset by the other end")]
    ResetByPeer,
    /// This end reset it.
    #[error("reset by this end")]
    ResetHere,
    /// The link went down under it.
    #[error("the link went down")]
    LinkDown(#[source] Down),
    /// A new owner began a new epoch.
    #[error("a new epoch began")]
    NewEpoch,
}

impl From<StreamError> for io::Error {
    fn from(error: StreamError) -> Self {
        let kind = match error {
            StreamError::Refused(_) => io::ErrorKind::ConnectionRefused,
            StreamError::ResetByPeer | StreamError::ResetHere | StreamError::LinkDown(_) | StreamError::NewEpoch => {
                io::ErrorKind::ConnectionReset
            }
        };
        Self::new(kind, error)
    }
}
