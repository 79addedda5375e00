//! Finds the one `HELLO_ACK` that answers this owner in a stream of bytes that may begin with another owner's.

use crate::frame::{HEADER_LEN, Header, Kind, Nonce};

/// A header and the nonce behind it.
const PATTERN_LEN: usize = HEADER_LEN + 16;

/// Looks for `HELLO_ACK` with a given nonce, whatever comes before it and however it is cut.
#[derive(Debug)]
pub(super) struct Scanner {
    /// The last bytes of what was fed before.
    last: [u8; PATTERN_LEN],
    nonce: Nonce,
}

impl Scanner {
    pub(super) fn new(nonce: &Nonce) -> Self {
        Self { last: [0; PATTERN_LEN], nonce: *nonce }
    }

    /// Takes bytes up to the end of the nonce. Returns the header in front of it, if it was found, and how many bytes were
    /// taken.
    pub(super) fn feed(&mut self, data: &[u8]) -> (Option<Header>, usize) {
        let mut from = 0;
        while let Some(i) = data[from..].iter().position(|&byte| byte == self.nonce[15]) {
            from += i + 1;
            if let Some(header) = self.matches(&self.tail(&data[..from])) {
                return (Some(header), from);
            }
        }
        self.last = self.tail(data);
        (None, data.len())
    }

    /// The last bytes of what was fed before and `data` together.
    fn tail(&self, data: &[u8]) -> [u8; PATTERN_LEN] {
        if let Some(tail) = data.last_chunk() {
            return *tail;
        }
        let mut tail = [0; PATTERN_LEN];
        let (old, new) = tail.split_at_mut(PATTERN_LEN - data.len());
        old.copy_from_slice(&self.last[data.len()..]);
        new.copy_from_slice(data);
        tail
    }

    fn matches(&self, candidate: &[u8; PATTERN_LEN]) -> Option<Header> {
        let (header, nonce) = candidate.split_first_chunk::<HEADER_LEN>()?;
        let header = Header::decode(*header).ok()?;
        (header.kind == Kind::HelloAck && nonce == self.nonce).then_some(header)
    }
}
