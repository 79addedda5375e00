//! What one client may take.

use std::time::Duration;

/// Limits of one client, which is one connection: who serves several for one guest multiplies them. What goes beyond fails
/// with an error, or waits. What is not limited here is what clients have in common: the descriptors of the budget that a
/// tree draws on ([`Descriptors`](crate::tree::Descriptors)), and the locks of a file, which keep other clients out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub(crate) message_size: u32,
    pub(crate) fids: usize,
    pub(crate) locks: usize,
    pub(crate) xattr_bytes: usize,
    pub(crate) requests: u32,
    pub(crate) memory: u32,
    pub(crate) threads: usize,
    pub(crate) drain: Duration,
}

/// The shortest message size a client may ask for, as in Linux.
pub(crate) const LEAST_MESSAGE_SIZE: u32 = 4096;

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_size: 1024 * 1024,
            fids: 8192,
            locks: 4096,
            xattr_bytes: 1024 * 1024,
            requests: 64,
            memory: 16 * 1024 * 1024,
            threads: 8,
            drain: Duration::from_secs(10),
        }
    }
}

impl Limits {
    /// Longest message, in bytes. The client may ask for less. Default 1 MiB, kept within 4 KiB to 16 MiB.
    #[must_use]
    pub fn with_message_size(self, bytes: u32) -> Self {
        Self { message_size: bytes.clamp(LEAST_MESSAGE_SIZE, 16 * 1024 * 1024), ..self }
    }

    /// Files the client knows at once; beyond, `EMFILE`. Default 8192, at least 1. Besides, all clients of a tree draw on
    /// its budget of descriptors ([`TreeOptions::with_descriptors`](crate::tree::TreeOptions::with_descriptors)).
    #[must_use]
    pub fn with_fids(self, fids: usize) -> Self {
        Self { fids: fids.max(1), ..self }
    }

    /// Locked ranges the client holds at once; beyond, `ENOLCK`. Default 4096.
    #[must_use]
    pub fn with_locks(self, locks: usize) -> Self {
        Self { locks, ..self }
    }

    /// Bytes of extended attributes that are being read or written at once; beyond, `ENOMEM`. Default 1 MiB. One attribute
    /// has at most 64 KiB.
    #[must_use]
    pub fn with_xattr_bytes(self, bytes: usize) -> Self {
        Self { xattr_bytes: bytes, ..self }
    }

    /// Requests that are not answered yet; the next waits unread. Default 64, at least 1.
    #[must_use]
    pub fn with_requests(self, requests: u32) -> Self {
        Self { requests: requests.max(1), ..self }
    }

    /// Bytes of messages on their way, in both directions, and of buffers that wait for the next ones. What goes beyond
    /// waits: the next message is read, and not served. Default 16 MiB, and never less than one request and its answer
    /// take.
    #[must_use]
    pub fn with_memory(self, bytes: u32) -> Self {
        Self { memory: bytes, ..self }
    }

    /// Threads that serve the client, each one request at a time. They are started as they are needed, and end when they
    /// are not. Default 8, at least 1.
    #[must_use]
    pub fn with_threads(self, threads: usize) -> Self {
        Self { threads: threads.max(1), ..self }
    }

    /// How long a session's end, or its restart by the client, waits for requests that run. Default 10 s.
    #[must_use]
    pub fn with_drain(self, drain: Duration) -> Self {
        Self { drain, ..self }
    }
}
