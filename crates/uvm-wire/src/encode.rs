//! From a message to the bytes of its frame.

use serde::Serialize;

use crate::frame::SizeLimit;
use crate::header::{Header, MessageType};
use crate::json::write_merged;

/// Who writes a message: the two originals end it differently, and so do we.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writer {
    /// Ends the JSON with a newline, and counts it.
    Host,
    /// Ends with the JSON.
    Guest,
}

/// A message cannot be sent. Nothing was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The peer would not take it.
    #[error("{message_type} takes {size} bytes, but at most {limit} may be sent")]
    TooLarge {
        /// What was to be sent.
        message_type: MessageType,
        /// The bytes it takes, header included.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// A value in it cannot be written as JSON.
    #[error("{message_type} cannot be written as JSON")]
    Json {
        /// What was to be sent.
        message_type: MessageType,
        /// What the JSON library says.
        source: serde_json::Error,
    },
}

/// Writes the frame whose JSON object has the members of `base`, then those of `body`.
pub(crate) fn encode(
    writer: Writer,
    limit: SizeLimit,
    message_type: MessageType,
    id: u64,
    base: &impl Serialize,
    body: &impl Serialize,
) -> Result<Vec<u8>, EncodeError> {
    // Room for the header, which is written last, when the size is known.
    let mut bytes = vec![0; Header::LEN];
    write_merged(&mut bytes, base, body).map_err(|source| EncodeError::Json { message_type, source })?;
    if writer == Writer::Host {
        bytes.push(b'\n');
    }
    let (size, limit) = (bytes.len(), limit.bytes());
    if size > limit {
        return Err(EncodeError::TooLarge { message_type, size, limit });
    }
    let header = Header { message_type, size: size as u32, id };
    bytes[..Header::LEN].copy_from_slice(&header.to_bytes());
    Ok(bytes)
}
