//! How a call over the bridge fails, and how the bridge ends.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use uvm_wire::{EncodeError, Failure, FrameError, Hresult, MessageType, ResponseError};

/// Why a call over the bridge failed. Only the call failed, unless it is [`Closed`](Self::Closed).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BridgeError {
    /// The guest refused, or tried and failed.
    #[error(transparent)]
    Failed(Box<Failure>),
    /// The guest did not answer in time. What was asked for may yet happen; a late answer is dropped.
    #[error("no answer to {call} within {waited:?}")]
    Timeout {
        /// The call.
        call: MessageType,
        /// How long was waited.
        waited: Duration,
    },
    /// The request cannot be sent. The guest knows nothing of it.
    #[error("{call} cannot be sent")]
    Encode {
        /// The call.
        call: MessageType,
        /// Why.
        source: EncodeError,
    },
    /// The answer makes no sense.
    #[error("the guest's answer to {call} makes no sense")]
    Answer {
        /// The call.
        call: MessageType,
        /// What is wrong with it.
        source: Box<ResponseError>,
    },
    /// The bridge is closed, before or while the call was open: each of its calls fails with the same cause.
    #[error("{call}: the bridge to the guest is closed")]
    Closed {
        /// The call.
        call: MessageType,
        /// Why it is closed.
        source: Arc<BridgeClosed>,
    },
}

impl BridgeError {
    /// The guest's failure, if it answered with one.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Failed(failure) => Some(failure),
            _ => None,
        }
    }

    /// Whether the guest answered with one of these results.
    pub(crate) fn is_any(&self, results: &[Hresult]) -> bool {
        self.failure().is_some_and(|failure| results.contains(&failure.result))
    }
}

/// Why a bridge is closed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BridgeClosed {
    /// The guest closed it: it powers off, or its agent ended.
    #[error("the guest closed it")]
    ByGuest,
    /// This end closed it.
    #[error("this end closed it")]
    ByHost,
    /// The connection was cut.
    #[error("the connection was cut")]
    Io(#[source] io::Error),
    /// The guest sent bytes that are no message.
    #[error("the guest broke the protocol")]
    Frame(#[source] FrameError),
}
