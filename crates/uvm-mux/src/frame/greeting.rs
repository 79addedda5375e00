//! The two frames that begin an epoch, and how the fields of a payload are read.

use super::{Nonce, VERSION};

/// The owner's first word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Names the epoch.
    pub nonce: Nonce,
    /// The owner's version. The fields below mean nothing if it is not [`VERSION`].
    pub version: u32,
    /// Bytes the guest may send on each stream before the first WINDOW.
    pub window: u32,
    /// OPENs the guest may have without an answer.
    pub max_streams: u32,
    /// The owner's wall clock when it made this HELLO, in ns since 1970.
    pub clock_ns: u64,
    /// Random bytes for the guest's kernel; a clone has the RNG state of its template.
    pub entropy: [u8; 32],
}

/// The guest's answer to a [`Hello`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelloAck {
    /// The HELLO's.
    pub nonce: Nonce,
    /// The guest's version. The fields below mean nothing if it is not [`VERSION`].
    pub version: u32,
    /// Bytes the owner may send on each stream before the first WINDOW.
    pub window: u32,
    /// OPENs the owner may have without an answer.
    pub max_streams: u32,
}

impl Hello {
    pub(super) fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        let (nonce, version) = (fields.bytes()?, fields.u32()?);
        if version != VERSION {
            return Some(Self { nonce, version, window: 0, max_streams: 0, clock_ns: 0, entropy: [0; 32] });
        }
        Some(Self {
            nonce,
            version,
            window: fields.u32()?,
            max_streams: fields.u32()?,
            clock_ns: u64::from_le_bytes(fields.bytes()?),
            entropy: fields.bytes()?,
        })
    }
}

impl HelloAck {
    pub(super) fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        let (nonce, version) = (fields.bytes()?, fields.u32()?);
        if version != VERSION {
            return Some(Self { nonce, version, window: 0, max_streams: 0 });
        }
        Some(Self { nonce, version, window: fields.u32()?, max_streams: fields.u32()? })
    }
}

/// What is left of a payload.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    pub(super) fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.bytes().map(u32::from_le_bytes)
    }
}
