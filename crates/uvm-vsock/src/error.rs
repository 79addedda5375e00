//! How a device, a dial and a stream fail.

use std::io;

use thiserror::Error;

use crate::header::Op;

/// Whether the guest's driver is there. Each time it comes up is a new epoch: streams of an older one have ended in
/// reset.
///
/// A driver that goes away and is not followed by another is known only if the VM's process tells of resets (vhost-user's
/// `RESET_DEVICE`), which QEMU 7.2 does not: it stops the rings, as it does for a VM that is paused, and nothing tells the
/// two apart. There the link stays up and streams stay open until the next driver starts or the process ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// Not yet up, or lost.
    Down {
        /// Why.
        why: Down,
    },
    /// The driver has given buffers to the device.
    Up {
        /// Counts from 1.
        epoch: u64,
    },
}

/// Why a link is down.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Down {
    /// The guest's driver has not taken the device yet.
    #[error("the guest has no vsock driver running yet")]
    NoDriverYet,
    /// The guest, or its restart, has reset the device, and no driver has taken it since. Known only where the VM's process
    /// tells of it, as [`Link`] says.
    #[error("the vsock device was reset, and no driver has taken it since")]
    Reset,
    /// The VM's process closed the device's socket: it ended, or the device was removed. Final.
    #[error("the VM's process let go of the device")]
    Detached,
    /// The VM's process broke the vhost-user protocol. Final.
    #[error("the VM's process broke the vhost-user protocol: {message}")]
    Protocol {
        /// What was wrong.
        message: String,
    },
    /// The guest's driver made a ring that is none. Final.
    #[error("the guest's driver broke its ring: {message}")]
    BadRing {
        /// What was wrong.
        message: String,
    },
    /// This end was closed. Final.
    #[error("closed at this end")]
    ClosedHere,
    /// The code that runs the device panicked. Final.
    #[error("panic in the vsock device")]
    Panicked,
}

/// Why a device cannot be made, or a dial, a listen or a wait failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum VsockError {
    /// A context id that no guest can have.
    #[error("context id {cid} is reserved: a guest's is 3 to 4294967294")]
    BadCid {
        /// The value given.
        cid: u64,
    },
    /// The device could not be started. Nothing is left of it.
    #[error("cannot start the vsock device")]
    Start {
        /// What the operating system or the vhost-user library says.
        source: io::Error,
    },
    /// The link is not up. Nothing was sent.
    #[error("the vsock link is down")]
    LinkDown {
        /// Why.
        #[source]
        why: Down,
    },
    /// Somebody listens on the port already.
    #[error("vsock port {port} is taken")]
    PortTaken {
        /// The port.
        port: u32,
    },
    /// As many streams are open, or closed by the guest and still held here, as the device takes. Nothing was sent.
    #[error("{limit} vsock streams are open already")]
    TooManyStreams {
        /// The limit that was met.
        limit: u32,
    },
    /// The stream ended before the guest accepted it.
    #[error("vsock port {port} of the guest was not reached")]
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
    /// The guest refused it: nobody listens there.
    #[error("refused by the guest")]
    Refused,
    /// The guest reset it.
    #[error("reset by the guest")]
    ResetByPeer,
    /// The guest broke the protocol on it; it was reset.
    #[error("the guest broke the protocol: {0}")]
    Misuse(Misuse),
    /// This end reset it.
    #[error("reset by this end")]
    ResetHere,
    /// The link went down under it.
    #[error("the vsock link went down")]
    LinkDown(#[source] Down),
    /// The guest's driver started anew.
    #[error("the guest's vsock driver started anew")]
    NewEpoch,
}

/// What no honest guest does on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Misuse {
    /// A packet that does not fit what came before.
    #[error("unexpected {0:?}")]
    Unexpected(Op),
    /// An operation that does not exist.
    #[error("unknown operation")]
    UnknownOp,
    /// More bytes than there was room for.
    #[error("{excess} bytes beyond the window")]
    WindowExceeded {
        /// Bytes too many.
        excess: u32,
    },
    /// A payload that is longer than its descriptors, or than a packet can be.
    #[error("payload of {length} bytes in descriptors of {available}")]
    BadLength {
        /// The header's.
        length: u32,
        /// What the descriptors hold.
        available: usize,
    },
    /// Its descriptors point to where there is no memory.
    #[error("payload outside of the guest's memory")]
    BadMemory,
}

impl From<StreamError> for io::Error {
    fn from(error: StreamError) -> Self {
        let kind = match error {
            StreamError::Refused => io::ErrorKind::ConnectionRefused,
            StreamError::ResetByPeer
            | StreamError::Misuse(_)
            | StreamError::ResetHere
            | StreamError::LinkDown(_)
            | StreamError::NewEpoch => io::ErrorKind::ConnectionReset,
        };
        Self::new(kind, error)
    }
}
