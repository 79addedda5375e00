//! What a client asks.

use super::messages;
use crate::protocol::{Data, LockRange, Name, SetAttributes, Target, WalkList};

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
