//! What an end of a mux can be told: its role, its limits, a stream's priority.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::frame::Nonce;

/// Which end this is.
#[derive(Clone, Debug)]
pub enum Role {
    /// The host's end: speaks first. When its channel ends, the link is down for good.
    Owner(Greeting),
    /// The guest's end: waits for a HELLO, and after a lost owner for the next one.
    Guest,
}

/// What an owner says first. Made for one link; a second use of the same nonce is refused by the guest.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Greeting {
    /// Names the epoch.
    pub nonce: Nonce,
    /// Wall clock for the guest, in ns since 1970.
    pub clock_ns: u64,
    /// Random bytes for the guest.
    pub entropy: [u8; 32],
    /// What the guest's end may have read before.
    pub guest: GuestState,
}

/// Whether the guest's end can be in the middle of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestState {
    /// It boots, or its former owner's end was seen to close: it is at the start of a frame.
    Fresh,
    /// The VM was restored from a saved one: filler goes first, to bring the guest to the start of a frame.
    Restored,
}

impl Greeting {
    /// A greeting with a random nonce, fresh entropy and the clock as it is now.
    ///
    /// # Errors
    /// When the operating system has no random bytes to give.
    pub fn new(guest: GuestState) -> io::Result<Self> {
        let (mut nonce, mut entropy) = ([0; 16], [0; 32]);
        getrandom::fill(&mut nonce)?;
        getrandom::fill(&mut entropy)?;
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let clock_ns = u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX);
        Ok(Self { nonce, clock_ns, entropy, guest })
    }
}

/// Which streams are sent first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Priority {
    /// After [`Control`](Self::Control), in turns.
    #[default]
    Bulk,
    /// Before all bulk: for a stream of small messages, such as the bridge.
    Control,
}

/// Limits of one end. Received and not yet read are at most `max_streams * window + 4 * (max_window - window)` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    max_streams: u32,
    window: u32,
    max_window: u32,
    backlog: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_streams: 1024, window: 64 * 1024, max_window: 1024 * 1024, backlog: 128 }
    }
}

impl Config {
    /// Streams at once, dialled by either end. Default 1024, kept within 1 to 65,536.
    #[must_use]
    pub fn with_max_streams(self, streams: u32) -> Self {
        Self { max_streams: streams.clamp(1, 65_536), ..self }
    }

    /// Bytes the other end may send on a stream beyond what was read. Default 64 KiB, kept within 4 KiB to 16 MiB.
    #[must_use]
    pub fn with_window(self, bytes: u32) -> Self {
        let window = bytes.clamp(4 * 1024, 16 * 1024 * 1024);
        Self { window, max_window: self.max_window.max(window), ..self }
    }

    /// The same for a stream that alone carries bulk while no other carries messages; several that carry bulk share it.
    /// Default 1 MiB, kept within the window and 64 MiB.
    #[must_use]
    pub fn with_max_window(self, bytes: u32) -> Self {
        Self { max_window: bytes.clamp(self.window, 64 * 1024 * 1024), ..self }
    }

    /// Streams that wait on one listener to be accepted. Default 128, at least 1.
    #[must_use]
    pub fn with_backlog(self, streams: u32) -> Self {
        Self { backlog: streams.max(1), ..self }
    }

    /// See [`with_max_streams`](Self::with_max_streams).
    pub fn max_streams(&self) -> u32 {
        self.max_streams
    }

    /// See [`with_window`](Self::with_window).
    pub fn window(&self) -> u32 {
        self.window
    }

    /// See [`with_max_window`](Self::with_max_window).
    pub fn max_window(&self) -> u32 {
        self.max_window
    }

    /// See [`with_backlog`](Self::with_backlog).
    pub fn backlog(&self) -> u32 {
        self.backlog
    }
}
