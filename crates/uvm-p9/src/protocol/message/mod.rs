//! The messages: what a client asks and what a server answers.

mod request;
mod response;

pub use request::Request;
pub use response::Response;

/// Bytes before a message's first field: size, type and tag.
pub const HEADER_LEN: usize = 7;

/// The beginning of each message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Of the whole message, in bytes, these four included.
    pub size: u32,
    /// The type.
    pub kind: u8,
    /// Tells which answer belongs to which request.
    pub tag: u16,
}

impl Header {
    /// Reads it. Whether the size makes sense is the caller's to check.
    pub fn decode([a, b, c, d, kind, low, high]: [u8; HEADER_LEN]) -> Self {
        Self { size: u32::from_le_bytes([a, b, c, d]), kind, tag: u16::from_le_bytes([low, high]) }
    }

    /// Writes it.
    pub fn encode(self) -> [u8; HEADER_LEN] {
        let [a, b, c, d] = self.size.to_le_bytes();
        let [low, high] = self.tag.to_le_bytes();
        [a, b, c, d, self.kind, low, high]
    }
}

/// Makes an enum of messages, each with its type and its fields, and its codec.
macro_rules! messages {
    (
        $(#[$doc:meta])*
        pub enum $Message:ident {
            $($(#[$variant_doc:meta])* $Variant:ident = $kind:literal { $($(#[$field_doc:meta])* $field:ident: $Field:ty,)* },)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum $Message<'a> {
            $($(#[$variant_doc])* $Variant { $($(#[$field_doc])* $field: $Field,)* },)*
        }

        impl<'a> $Message<'a> {
            /// Reads the fields of a message of this type. They borrow from `body`.
            ///
            /// # Errors
            /// Why they are none.
            pub fn decode(kind: u8, body: &'a [u8]) -> Result<Self, $crate::protocol::DecodeError> {
                let mut reader = $crate::protocol::wire::Reader::new(body);
                let message = match kind {
                    $($kind => Self::$Variant { $($field: $crate::protocol::wire::Field::read(&mut reader)?,)* },)*
                    kind => return Err($crate::protocol::DecodeError::UnknownType { kind }),
                };
                reader.finish()?;
                Ok(message)
            }

            /// The type.
            pub fn kind(&self) -> u8 {
                match self {
                    $(Self::$Variant { .. } => $kind,)*
                }
            }

            /// Puts the whole message into `out`, in place of what was there.
            pub fn encode(&self, tag: u16, out: &mut Vec<u8>) {
                out.clear();
                out.extend_from_slice(&$crate::protocol::Header { size: 0, kind: self.kind(), tag }.encode());
                match self {
                    $(Self::$Variant { $($field,)* } => { $($crate::protocol::wire::Field::write($field, out);)* })*
                }
                $crate::protocol::set_size(out);
            }
        }
    };
}
use messages;

/// Writes the length of a message into its header.
pub(crate) fn set_size(message: &mut [u8]) {
    let size = (message.len() as u32).to_le_bytes();
    if let Some(place) = message.first_chunk_mut() {
        *place = size;
    }
}

/// The types that are looked at before a message is decoded, or put together in place.
pub(crate) const READ_DIR_REQUEST: u8 = 40;
pub(crate) const READ_DIR_RESPONSE: u8 = 41;
pub(crate) const VERSION_REQUEST: u8 = 100;
pub(crate) const FLUSH_REQUEST: u8 = 108;
pub(crate) const READ_REQUEST: u8 = 116;
pub(crate) const READ_RESPONSE: u8 = 117;
