//! The footer of a VHD: what it says of the file that it ends. Offsets as in the published format; numbers are big endian.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// How long it is.
pub(crate) const FOOTER_BYTES: u64 = 512;
const COOKIE: &[u8] = b"conectix";

/// A footer, read.
#[derive(Debug)]
pub(crate) struct Footer {
    /// How much the disk holds.
    bytes: u64,
    pub(crate) kind: Kind,
}

/// How a VHD keeps its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// As they are, with the footer behind them.
    Fixed,
    /// In blocks, with a copy of the footer before them.
    Dynamic,
    /// As what differs from another file.
    Differencing,
    Unknown(u64),
}

impl Footer {
    /// The one that ends a file of so many bytes, if there is one.
    pub(crate) fn at_end(file: &File, file_bytes: u64) -> Result<Option<Self>, String> {
        match file_bytes.checked_sub(FOOTER_BYTES) {
            Some(at) => Self::at(file, at),
            None => Ok(None),
        }
    }

    /// The one at this offset, if there is one.
    pub(crate) fn at(file: &File, offset: u64) -> Result<Option<Self>, String> {
        let mut footer = [0; FOOTER_BYTES as usize];
        file.read_exact_at(&mut footer, offset).map_err(|e| e.to_string())?;
        if !footer.starts_with(COOKIE) {
            return Ok(None);
        }
        let number = |at: std::ops::Range<usize>| {
            footer.get(at).unwrap_or_default().iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
        };
        let kind = match number(60..64) {
            2 => Kind::Fixed,
            3 => Kind::Dynamic,
            4 => Kind::Differencing,
            other => Kind::Unknown(other),
        };
        Ok(Some(Self { bytes: number(48..56), kind }))
    }

    /// How much a fixed one holds, which has to be there, in a file of so many bytes.
    pub(crate) fn fixed_bytes(&self, file_bytes: u64) -> Result<u64, String> {
        let (bytes, there) = (self.bytes, file_bytes.saturating_sub(FOOTER_BYTES));
        if bytes > 0 && bytes <= there {
            return Ok(bytes);
        }
        Err(format!("it is a VHD that says it holds {bytes} bytes, and has {there}"))
    }
}
