//! The protocol's numbers. Most are Linux's own on x86, whatever the client or the host runs on.

/// The version spoken here.
pub const VERSION: &[u8] = b"9P2000.L";
/// What a server answers whom it does not understand.
pub const VERSION_UNKNOWN: &[u8] = b"unknown";
/// No fid: of an authentication that does not take place.
pub const NO_FID: u32 = u32::MAX;
/// The tag of a version request.
pub const NO_TAG: u16 = u16::MAX;
/// No user id: the client tells its user by name only.
pub const NO_UID: u32 = u32::MAX;

/// A directory.
pub const QID_DIRECTORY: u8 = 0x80;
/// A symbolic link.
pub const QID_SYMLINK: u8 = 0x02;
/// Anything else.
pub const QID_FILE: u8 = 0x00;

/// Bits that say how a file is opened for reading or writing.
pub const OPEN_ACCESS_MASK: u32 = 0o3;
/// To read.
pub const OPEN_READ: u32 = 0o0;
/// To write.
pub const OPEN_WRITE: u32 = 0o1;
/// To read and write.
pub const OPEN_READ_WRITE: u32 = 0o2;
/// Make it; said by a create request anyway.
pub const OPEN_CREATE: u32 = 0o100;
/// Fail if it is there.
pub const OPEN_EXCLUSIVE: u32 = 0o200;
/// Irrelevant here: no terminal is ever opened.
pub const OPEN_NO_TERMINAL: u32 = 0o400;
/// Empty it.
pub const OPEN_TRUNCATE: u32 = 0o1000;
/// Write at the end.
pub const OPEN_APPEND: u32 = 0o2000;
/// The client's own matter.
pub const OPEN_NON_BLOCKING: u32 = 0o4000;
/// Every write reaches the disk.
pub const OPEN_DATA_SYNC: u32 = 0o10000;
/// The client's own matter.
pub const OPEN_ASYNC: u32 = 0o20000;
/// Not through the client's cache: its own matter.
pub const OPEN_DIRECT: u32 = 0o40000;
/// Always so.
pub const OPEN_LARGE_FILE: u32 = 0o100_000;
/// Fail if it is no directory.
pub const OPEN_DIRECTORY: u32 = 0o200_000;
/// Always so: the client follows links itself.
pub const OPEN_NO_FOLLOW: u32 = 0o400_000;
/// Not honoured: it takes rights the owner may lack.
pub const OPEN_NO_ATIME: u32 = 0o1_000_000;
/// The client's own matter.
pub const OPEN_CLOSE_ON_EXEC: u32 = 0o2_000_000;
/// Every write reaches the disk, with its attributes. Linux sends it together with [`OPEN_DATA_SYNC`].
pub const OPEN_SYNC: u32 = 0o4_000_000;

/// Those of `GETATTR_` that Linux's `stat` needs: all but the birth time, the generation and the data version.
pub const GETATTR_BASIC: u64 = 0x7ff;
/// When the file was made.
pub const GETATTR_BIRTH: u64 = 0x800;

/// Change the permissions.
pub const SETATTR_MODE: u32 = 0x1;
/// Change the owner.
pub const SETATTR_UID: u32 = 0x2;
/// Change the group.
pub const SETATTR_GID: u32 = 0x4;
/// Change the size.
pub const SETATTR_SIZE: u32 = 0x8;
/// Change the last access: to now, or as [`SETATTR_ACCESSED_SET`] says.
pub const SETATTR_ACCESSED: u32 = 0x10;
/// Change the last modification: to now, or as [`SETATTR_MODIFIED_SET`] says.
pub const SETATTR_MODIFIED: u32 = 0x20;
/// Change the last change: it always is, to now.
pub const SETATTR_CHANGED: u32 = 0x40;
/// The access time is given.
pub const SETATTR_ACCESSED_SET: u32 = 0x80;
/// The modification time is given.
pub const SETATTR_MODIFIED_SET: u32 = 0x100;
/// All of them.
pub const SETATTR_ALL: u32 = 0x1ff;

/// Remove a directory, not a file.
pub const UNLINK_DIRECTORY: u32 = 0x200;

/// Fail if the attribute is there.
pub const XATTR_CREATE: u32 = 1;
/// Fail if it is not there.
pub const XATTR_REPLACE: u32 = 2;

/// Shared, to read.
pub const LOCK_READ: u8 = 0;
/// Exclusive, to write.
pub const LOCK_WRITE: u8 = 1;
/// No lock.
pub const LOCK_UNLOCK: u8 = 2;
/// The client waits for the lock, by asking again.
pub const LOCK_FLAG_BLOCK: u32 = 1;
/// The client takes back what it held before the server's restart.
pub const LOCK_FLAG_RECLAIM: u32 = 2;

/// Locked.
pub const LOCK_SUCCESS: u8 = 0;
/// Somebody else's lock is in the way.
pub const LOCK_BLOCKED: u8 = 1;
/// Refused.
pub const LOCK_ERROR: u8 = 2;
