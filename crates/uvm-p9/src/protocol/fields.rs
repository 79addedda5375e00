//! What messages are made of, beyond integers. Every length has a cap.

use super::wire::{DecodeError, Field, Reader, plain_struct};

/// A text of at most `MAX` bytes. The protocol calls for UTF-8; Linux sends the bytes of its names as they are, and so do
/// we.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Text<'a, const MAX: usize>(&'a [u8]);

impl<'a, const MAX: usize> Text<'a, MAX> {
    /// `None` for more than `MAX` bytes.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        const { assert!(MAX <= u16::MAX as usize, "a text's length has 16 bits") };
        (bytes.len() <= MAX).then_some(Self(bytes))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.0
    }
}

impl<const MAX: usize> std::fmt::Debug for Text<'_, MAX> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl<'a, const MAX: usize> Field<'a> for Text<'a, MAX> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let length = usize::from(u16::read(reader)?);
        let bytes = reader.bytes(length)?;
        Self::new(bytes).ok_or(DecodeError::TextTooLong { length, most: MAX })
    }

    fn write(&self, out: &mut Vec<u8>) {
        (self.0.len() as u16).write(out);
        out.extend_from_slice(self.0);
    }
}

/// Longest name of a file, an extended attribute, a share, a user or a lock's client, in bytes.
pub const MAX_NAME: usize = 255;
/// Longest target of a symbolic link, in bytes: the longest path of Linux.
pub const MAX_TARGET: usize = 4095;
/// Most names of one walk.
pub const MAX_WALK: usize = 16;

/// A name.
pub type Name<'a> = Text<'a, MAX_NAME>;
/// The target of a symbolic link.
pub type Target<'a> = Text<'a, MAX_TARGET>;

/// Bytes of a file, a directory or an attribute. The frame bounds them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Data<'a>(pub &'a [u8]);

impl std::fmt::Debug for Data<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Data({} bytes)", self.0.len())
    }
}

impl<'a> Field<'a> for Data<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let length = u32::read(reader)?;
        Ok(Self(reader.bytes(length as usize)?))
    }

    fn write(&self, out: &mut Vec<u8>) {
        (self.0.len() as u32).write(out);
        out.extend_from_slice(self.0);
    }
}

/// Up to [`MAX_WALK`] elements of a walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalkList<T>(Vec<T>);

impl<T> WalkList<T> {
    /// `None` for more than [`MAX_WALK`].
    pub fn new(elements: Vec<T>) -> Option<Self> {
        (elements.len() <= MAX_WALK).then_some(Self(elements))
    }

    /// The elements.
    pub fn as_slice(&self) -> &[T] {
        &self.0
    }
}

impl<'a, T: Field<'a>> Field<'a> for WalkList<T> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let count = usize::from(u16::read(reader)?);
        if count > MAX_WALK {
            return Err(DecodeError::ListTooLong { count, most: MAX_WALK });
        }
        (0..count).map(|_| T::read(reader)).collect::<Result<_, _>>().map(Self)
    }

    fn write(&self, out: &mut Vec<u8>) {
        (self.0.len() as u16).write(out);
        for element in &self.0 {
            element.write(out);
        }
    }
}

plain_struct! {
    /// What a file is to the protocol: its type, its version and its identity.
    pub struct Qid {
        /// One of the `QID_` bits of [`flags`](super::flags).
        pub kind: u8,
        /// Changes when the file does. Never 0 but in entries of directories: Linux takes 0 for a file not to be cached.
        pub version: u32,
        /// Identifies the file within the share.
        pub path: u64,
    }
}

plain_struct! {
    /// Seconds and nanoseconds since 1970.
    pub struct Time {
        /// Seconds. Before 1970 they wrap, as in Linux.
        pub seconds: u64,
        /// Nanoseconds, below 1,000,000,000.
        pub nanoseconds: u64,
    }
}

plain_struct! {
    /// The attributes of a file.
    pub struct Attributes {
        /// Which of those below hold, as bits of `GETATTR_`.
        pub valid: u64,
        /// The file.
        pub qid: Qid,
        /// Type and permissions, as `st_mode` of Linux.
        pub mode: u32,
        /// Owner.
        pub uid: u32,
        /// Group.
        pub gid: u32,
        /// Hard links.
        pub links: u64,
        /// Of a device: which.
        pub rdev: u64,
        /// Bytes.
        pub size: u64,
        /// Preferred size of a request, in bytes.
        pub block_size: u64,
        /// Blocks of 512 bytes.
        pub blocks: u64,
        /// Last access.
        pub accessed: Time,
        /// Last change of the content.
        pub modified: Time,
        /// Last change of the attributes.
        pub changed: Time,
        /// When it was made.
        pub born: Time,
        /// Not used: 0.
        pub generation: u64,
        /// Not used: 0.
        pub data_version: u64,
    }
}

plain_struct! {
    /// Attributes to change.
    pub struct SetAttributes {
        /// Which, as bits of `SETATTR_`.
        pub valid: u32,
        /// Permissions.
        pub mode: u32,
        /// Owner.
        pub uid: u32,
        /// Group.
        pub gid: u32,
        /// Bytes.
        pub size: u64,
        /// Last access.
        pub accessed: Time,
        /// Last change of the content.
        pub modified: Time,
    }
}

plain_struct! {
    /// A file system, as `statfs` of Linux tells it.
    pub struct FileSystem {
        /// Its type.
        pub kind: u32,
        /// Bytes of a block.
        pub block_size: u32,
        /// All blocks.
        pub blocks: u64,
        /// Free blocks.
        pub free: u64,
        /// Free blocks for users other than root.
        pub available: u64,
        /// All inodes.
        pub files: u64,
        /// Free inodes.
        pub free_files: u64,
        /// Identifies it.
        pub id: u64,
        /// Longest name, in bytes.
        pub max_name: u32,
    }
}

/// A range of a file that is locked, or asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockRange<'a> {
    /// First byte.
    pub start: u64,
    /// Bytes; 0 for all to the end of the file, however it grows.
    pub length: u64,
    /// The process in the client.
    pub process: u32,
    /// The client's own name.
    pub client: Name<'a>,
}

impl<'a> Field<'a> for LockRange<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self {
            start: u64::read(reader)?,
            length: u64::read(reader)?,
            process: u32::read(reader)?,
            client: Text::read(reader)?,
        })
    }

    fn write(&self, out: &mut Vec<u8>) {
        self.start.write(out);
        self.length.write(out);
        self.process.write(out);
        self.client.write(out);
    }
}

/// One entry of the data of a [`Response::ReadDir`](super::Response::ReadDir).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The file.
    pub qid: Qid,
    /// Where a later `ReadDir` continues after this entry.
    pub offset: u64,
    /// The type, as `d_type` of Linux.
    pub kind: u8,
    /// The name.
    pub name: Name<'a>,
}

impl<'a> Entry<'a> {
    /// Bytes it takes.
    pub fn encoded_len(&self) -> usize {
        24 + self.name.as_bytes().len()
    }

    /// Appends it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.qid.write(out);
        self.offset.write(out);
        self.kind.write(out);
        self.name.write(out);
    }

    /// All entries of `data`.
    ///
    /// # Errors
    /// Why the data are no entries.
    pub fn decode_all(data: &'a [u8]) -> Result<Vec<Self>, DecodeError> {
        let mut reader = Reader::new(data);
        let mut entries = Vec::new();
        while !reader.is_empty() {
            entries.push(Self {
                qid: Qid::read(&mut reader)?,
                offset: u64::read(&mut reader)?,
                kind: u8::read(&mut reader)?,
                name: Text::read(&mut reader)?,
            });
        }
        Ok(entries)
    }
}
