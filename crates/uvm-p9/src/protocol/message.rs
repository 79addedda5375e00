//! The messages: what a client asks and what a server answers.

use super::fields::{Attributes, Data, FileSystem, LockRange, Name, Qid, SetAttributes, Target, WalkList};
use super::wire::{DecodeError, Field, Reader};

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
            pub fn decode(kind: u8, body: &'a [u8]) -> Result<Self, DecodeError> {
                let mut reader = Reader::new(body);
                let message = match kind {
                    $($kind => Self::$Variant { $($field: Field::read(&mut reader)?,)* },)*
                    kind => return Err(DecodeError::UnknownType { kind }),
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
                out.extend_from_slice(&Header { size: 0, kind: self.kind(), tag }.encode());
                match self {
                    $(Self::$Variant { $($field,)* } => { $($field.write(out);)* })*
                }
                set_size(out);
            }
        }
    };
}

/// Writes the length of a message into its header.
pub(crate) fn set_size(message: &mut [u8]) {
    let size = (message.len() as u32).to_le_bytes();
    if let Some(place) = message.first_chunk_mut() {
        *place = size;
    }
}

messages! {
    /// What a client asks.
    pub enum Request {
        /// About the file system.
        StatFs = 8 {
            /// Of this file.
            fid: u32,
        },
        /// Open a file.
        Open = 12 {
            /// The file; opened from now on.
            fid: u32,
            /// Bits of `OPEN_`.
            flags: u32,
        },
        /// Make a file and open it.
        Create = 14 {
            /// The directory; from now on the file.
            fid: u32,
            /// Its name.
            name: Name<'a>,
            /// Bits of `OPEN_`.
            flags: u32,
            /// Permissions.
            mode: u32,
            /// Group.
            gid: u32,
        },
        /// Make a symbolic link.
        Symlink = 16 {
            /// The directory.
            directory: u32,
            /// Its name.
            name: Name<'a>,
            /// Where it points.
            target: Target<'a>,
            /// Group.
            gid: u32,
        },
        /// Make a special file.
        MakeNode = 18 {
            /// The directory.
            directory: u32,
            /// Its name.
            name: Name<'a>,
            /// Type and permissions.
            mode: u32,
            /// Of a device.
            major: u32,
            /// Of a device.
            minor: u32,
            /// Group.
            gid: u32,
        },
        /// Rename the file of a fid.
        Rename = 20 {
            /// The file.
            fid: u32,
            /// The directory it goes to.
            directory: u32,
            /// Its new name.
            name: Name<'a>,
        },
        /// Read a symbolic link.
        ReadLink = 22 {
            /// The link.
            fid: u32,
        },
        /// Read attributes.
        GetAttributes = 24 {
            /// Of this file.
            fid: u32,
            /// Which, as bits of `GETATTR_`.
            mask: u64,
        },
        /// Change attributes.
        SetAttributes = 26 {
            /// Of this file.
            fid: u32,
            /// To what.
            attributes: SetAttributes,
        },
        /// Have a fid for reading an extended attribute, or the list of their names.
        WalkXattr = 30 {
            /// Of this file.
            fid: u32,
            /// The fid to have.
            new_fid: u32,
            /// Which; empty for the list.
            name: Name<'a>,
        },
        /// Turn a fid into one for writing an extended attribute, which is set when the fid is let go.
        CreateXattr = 32 {
            /// Of this file.
            fid: u32,
            /// Which.
            name: Name<'a>,
            /// How many bytes will be written.
            size: u64,
            /// Bits of `XATTR_`.
            flags: u32,
        },
        /// Read a directory.
        ReadDir = 40 {
            /// An open directory.
            fid: u32,
            /// 0, or the offset of an entry after which to go on.
            offset: u64,
            /// Most bytes of entries.
            count: u32,
        },
        /// Wait until all is on the disk.
        Sync = 50 {
            /// Of this file.
            fid: u32,
            /// Not 0: the data suffice.
            data_only: u32,
        },
        /// Lock or unlock a range of a file.
        Lock = 52 {
            /// An open file.
            fid: u32,
            /// One of `LOCK_READ`, `LOCK_WRITE`, `LOCK_UNLOCK`.
            kind: u8,
            /// Bits of `LOCK_FLAG_`.
            flags: u32,
            /// Which bytes, and for whom.
            range: LockRange<'a>,
        },
        /// Ask for a lock that is in the way of one.
        GetLock = 54 {
            /// An open file.
            fid: u32,
            /// `LOCK_READ` or `LOCK_WRITE`.
            kind: u8,
            /// Which bytes, and for whom.
            range: LockRange<'a>,
        },
        /// Make a hard link.
        Link = 70 {
            /// The directory.
            directory: u32,
            /// The file.
            fid: u32,
            /// Its further name.
            name: Name<'a>,
        },
        /// Make a directory.
        MakeDirectory = 72 {
            /// The directory it comes into.
            directory: u32,
            /// Its name.
            name: Name<'a>,
            /// Permissions.
            mode: u32,
            /// Group.
            gid: u32,
        },
        /// Rename by name.
        RenameAt = 74 {
            /// The directory it is in.
            old_directory: u32,
            /// Its name.
            old_name: Name<'a>,
            /// The directory it goes to.
            new_directory: u32,
            /// Its new name.
            new_name: Name<'a>,
        },
        /// Remove by name.
        UnlinkAt = 76 {
            /// The directory.
            directory: u32,
            /// The name.
            name: Name<'a>,
            /// 0 or `UNLINK_DIRECTORY`.
            flags: u32,
        },
        /// Begin a session; ends the one before.
        Version = 100 {
            /// The longest message the client takes, in bytes.
            message_size: u32,
            /// What it speaks.
            version: Name<'a>,
        },
        /// Have a fid of the root of a share.
        Attach = 104 {
            /// The fid to have.
            fid: u32,
            /// Of an authentication, or `NO_FID`.
            auth_fid: u32,
            /// Who asks.
            user: Name<'a>,
            /// Which share.
            share: Name<'a>,
            /// Who asks, as a number, or `NO_UID`.
            uid: u32,
        },
        /// Forget a request.
        Flush = 108 {
            /// Its tag.
            old_tag: u16,
        },
        /// Have a fid of a file by its names.
        Walk = 110 {
            /// Where to start.
            fid: u32,
            /// The fid to have.
            new_fid: u32,
            /// The way.
            names: WalkList<Name<'a>>,
        },
        /// Read a file or an attribute.
        Read = 116 {
            /// It.
            fid: u32,
            /// From here.
            offset: u64,
            /// Most bytes.
            count: u32,
        },
        /// Write a file or an attribute.
        Write = 118 {
            /// It.
            fid: u32,
            /// From here.
            offset: u64,
            /// This.
            data: Data<'a>,
        },
        /// Let go of a fid.
        Clunk = 120 {
            /// It.
            fid: u32,
        },
        /// Remove the file of a fid, and let go of the fid.
        Remove = 122 {
            /// It.
            fid: u32,
        },
    }
}

messages! {
    /// What a server answers.
    pub enum Response {
        /// It failed.
        Error = 7 {
            /// Why, as an error number of Linux.
            errno: u32,
        },
        /// To [`Request::StatFs`].
        StatFs = 9 {
            /// It.
            file_system: FileSystem,
        },
        /// To [`Request::Open`].
        Open = 13 {
            /// The file.
            qid: Qid,
            /// Most bytes read or written at once; 0 for what fits a message.
            io_unit: u32,
        },
        /// To [`Request::Create`].
        Create = 15 {
            /// The file.
            qid: Qid,
            /// As that of `Open`.
            io_unit: u32,
        },
        /// To [`Request::Symlink`].
        Symlink = 17 {
            /// The link.
            qid: Qid,
        },
        /// To [`Request::MakeNode`].
        MakeNode = 19 {
            /// The file.
            qid: Qid,
        },
        /// To [`Request::Rename`].
        Rename = 21 {},
        /// To [`Request::ReadLink`].
        ReadLink = 23 {
            /// Where it points.
            target: Target<'a>,
        },
        /// To [`Request::GetAttributes`].
        GetAttributes = 25 {
            /// They.
            attributes: Attributes,
        },
        /// To [`Request::SetAttributes`].
        SetAttributes = 27 {},
        /// To [`Request::WalkXattr`].
        WalkXattr = 31 {
            /// Bytes of it.
            size: u64,
        },
        /// To [`Request::CreateXattr`].
        CreateXattr = 33 {},
        /// To [`Request::ReadDir`].
        ReadDir = 41 {
            /// Entries, as [`Entry`](super::Entry) reads them.
            data: Data<'a>,
        },
        /// To [`Request::Sync`].
        Sync = 51 {},
        /// To [`Request::Lock`].
        Lock = 53 {
            /// One of `LOCK_SUCCESS`, `LOCK_BLOCKED`, `LOCK_ERROR`.
            status: u8,
        },
        /// To [`Request::GetLock`].
        GetLock = 55 {
            /// The kind of the lock in the way, or `LOCK_UNLOCK`.
            kind: u8,
            /// Which bytes, and for whom.
            range: LockRange<'a>,
        },
        /// To [`Request::Link`].
        Link = 71 {},
        /// To [`Request::MakeDirectory`].
        MakeDirectory = 73 {
            /// The directory.
            qid: Qid,
        },
        /// To [`Request::RenameAt`].
        RenameAt = 75 {},
        /// To [`Request::UnlinkAt`].
        UnlinkAt = 77 {},
        /// To [`Request::Version`].
        Version = 101 {
            /// The longest message from now on, in bytes.
            message_size: u32,
            /// What is spoken.
            version: Name<'a>,
        },
        /// To [`Request::Attach`].
        Attach = 105 {
            /// The root.
            qid: Qid,
        },
        /// To [`Request::Flush`].
        Flush = 109 {},
        /// To [`Request::Walk`].
        Walk = 111 {
            /// As many as names were found.
            qids: WalkList<Qid>,
        },
        /// To [`Request::Read`].
        Read = 117 {
            /// What was read; fewer bytes than asked for at the end, none behind it.
            data: Data<'a>,
        },
        /// To [`Request::Write`].
        Write = 119 {
            /// Bytes written.
            count: u32,
        },
        /// To [`Request::Clunk`].
        Clunk = 121 {},
        /// To [`Request::Remove`].
        Remove = 123 {},
    }
}

/// The types that are looked at before a message is decoded, or put together in place.
pub(crate) const READ_DIR_REQUEST: u8 = 40;
pub(crate) const READ_DIR_RESPONSE: u8 = 41;
pub(crate) const VERSION_REQUEST: u8 = 100;
pub(crate) const FLUSH_REQUEST: u8 = 108;
pub(crate) const READ_REQUEST: u8 = 116;
pub(crate) const READ_RESPONSE: u8 = 117;
