//! How fields lie in a message: little-endian, one after the other.

use thiserror::Error;

/// Why bytes are no message. The connection can go on: the frame around them was whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The message ends within a field.
    #[error("message ends within a field")]
    Truncated,
    /// There is more after the last field.
    #[error("{count} bytes after the last field")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
    /// A text is longer than any of its kind may be.
    #[error("text of {length} bytes where {most} are allowed")]
    TextTooLong {
        /// Its length, in bytes.
        length: usize,
        /// The most.
        most: usize,
    },
    /// A list has more elements than the protocol allows.
    #[error("list of {count} elements where {most} are allowed")]
    ListTooLong {
        /// How many.
        count: usize,
        /// The most.
        most: usize,
    },
    /// A message type that this end does not know.
    #[error("message type {kind} is not known")]
    UnknownType {
        /// The type.
        kind: u8,
    },
}

/// Reads fields off the front of a message.
#[derive(Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn finish(self) -> Result<(), DecodeError> {
        if self.0.is_empty() { Ok(()) } else { Err(DecodeError::TrailingBytes { count: self.0.len() }) }
    }
}

/// A field of a message.
pub(super) trait Field<'a>: Sized {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError>;
    fn write(&self, out: &mut Vec<u8>);
}

macro_rules! integers {
    ($($integer:ty),*) => {$(
        impl<'a> Field<'a> for $integer {
            fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
                Ok(Self::from_le_bytes(reader.array()?))
            }

            fn write(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}

integers!(u8, u16, u32, u64);

/// Makes a struct of plain fields a field itself.
macro_rules! plain_struct {
    ($(#[$doc:meta])* pub struct $name:ident { $($(#[$field_doc:meta])* pub $field:ident: $kind:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $kind,)*
        }

        impl<'a> Field<'a> for $name {
            fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
                Ok(Self { $($field: Field::read(reader)?,)* })
            }

            fn write(&self, out: &mut Vec<u8>) {
                $(self.$field.write(out);)*
            }
        }
    };
}

pub(super) use plain_struct;
