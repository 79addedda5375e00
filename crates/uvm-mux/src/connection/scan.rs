//! Finds the one `HELLO_ACK` that answers this owner in a stream of bytes that may begin with another owner's.

use crate::frame::{HEADER_LEN, Header, Kind, Nonce};

/// A header and the nonce behind it.
const PATTERN_LEN: usize = HEADER_LEN + 16;

/// Looks for `HELLO_ACK` with a given nonce, whatever comes before it and however it is cut.
#[derive(Debug)]
pub(super) struct Scanner {
    /// The last bytes seen: the candidate.
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
        for (i, &byte) in data.iter().enumerate() {
            self.last.copy_within(1.., 0);
            self.last[PATTERN_LEN - 1] = byte;
            if byte == self.nonce[15]
                && let Some(header) = self.found()
            {
                return (Some(header), i + 1);
            }
        }
        (None, data.len())
    }

    fn found(&self) -> Option<Header> {
        let (header, nonce) = self.last.split_first_chunk::<HEADER_LEN>()?;
        let header = Header::decode(*header).ok()?;
        (header.kind == Kind::HelloAck && nonce == self.nonce).then_some(header)
    }
}
