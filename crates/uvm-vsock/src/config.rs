//! What a device can be told.

use crate::error::VsockError;
use crate::header::FIRST_GUEST_CID;

/// Which streams are sent first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Priority {
    /// After [`Control`](Self::Control), in turns.
    #[default]
    Bulk,
    /// Before all bulk: for a stream of small messages, such as the bridge.
    Control,
}

/// Limits of a device. Received and not yet read are at most `max_streams * window + 8 * (max_window - window)` bytes; the
/// same again may wait to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    pub(crate) cid: u64,
    pub(crate) max_streams: u32,
    pub(crate) window: u32,
    pub(crate) max_window: u32,
    pub(crate) backlog: u32,
}

impl Config {
    /// A device whose guest has the context id `cid`. Ids need not differ between VMs: each device knows its own guest
    /// only.
    ///
    /// # Errors
    /// [`VsockError::BadCid`] outside of 3 to 4,294,967,294.
    pub fn new(cid: u64) -> Result<Self, VsockError> {
        if !(FIRST_GUEST_CID..u64::from(u32::MAX)).contains(&cid) {
            return Err(VsockError::BadCid { cid });
        }
        Ok(Self { cid, max_streams: 2048, window: 64 * 1024, max_window: 256 * 1024, backlog: 1024 })
    }

    /// Streams at once, dialled by either end. One that the guest has closed counts until it is dropped here: it keeps what
    /// was not read. Default 2048, kept within 1 to 65,536.
    #[must_use]
    pub fn with_max_streams(self, streams: u32) -> Self {
        Self { max_streams: streams.clamp(1, 65_536), ..self }
    }

    /// Bytes the guest may send on a stream beyond what was read, and bytes written here that wait for the guest to have
    /// room. Default 64 KiB, kept within 4 KiB to 16 MiB.
    #[must_use]
    pub fn with_window(self, bytes: u32) -> Self {
        let window = bytes.clamp(4 * 1024, 16 * 1024 * 1024);
        Self { window, max_window: self.max_window.max(window), ..self }
    }

    /// The same for up to eight streams that carry bulk. Default 256 KiB, kept within the window and 64 MiB.
    #[must_use]
    pub fn with_max_window(self, bytes: u32) -> Self {
        Self { max_window: bytes.clamp(self.window, 64 * 1024 * 1024), ..self }
    }

    /// Streams that wait on one listener to be accepted. Default 1024, at least 1: a program that dials hundreds at once
    /// does so before a task of the host runs, and whoever finds no room is refused.
    #[must_use]
    pub fn with_backlog(self, streams: u32) -> Self {
        Self { backlog: streams.max(1), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_context_ids_are_refused_with_the_range() {
        for cid in [0, 1, 2, u64::from(u32::MAX), u64::MAX] {
            let error = Config::new(cid).expect_err("reserved").to_string();
            assert_eq!(error, format!("context id {cid} is reserved: a guest's is 3 to 4294967294"));
        }
        assert!(Config::new(3).is_ok());
    }
}
