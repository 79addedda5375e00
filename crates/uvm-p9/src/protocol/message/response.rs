//! What a server answers.

#[cfg(doc)]
use super::Request;
use super::messages;
use crate::protocol::{Attributes, Data, FileSystem, LockRange, Name, Qid, Target, WalkList};

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
            /// Entries, as [`Entry`](crate::protocol::Entry) reads them.
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
