//! What a request may say, without I/O.

use std::ffi::CStr;
use std::io;

use libc::{S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK};
use uvm_p9::tree::{Component, is_user_attribute};
use virtiofsd::filesystem::FsOptions;

/// An error of the host's numbers.
pub(super) fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

/// Passes one name of a file in a directory: what leads elsewhere is none.
pub(super) fn name(name: &CStr) -> io::Result<()> {
    Component::new(name.to_bytes()).map(drop).map_err(Into::into)
}

/// Passes the name of an extended attribute that gives no rights.
pub(super) fn attribute(name: &CStr) -> io::Result<()> {
    if is_user_attribute(name.to_bytes()) { Ok(()) } else { Err(errno(libc::EOPNOTSUPP)) }
}

/// Of a list of attributes, each followed by a NUL, those that exist for guests.
pub(super) fn attributes(names: &[u8]) -> Vec<u8> {
    let each = names.split_inclusive(|&byte| byte == 0);
    each.filter(|name| is_user_attribute(name.strip_suffix(b"\0").unwrap_or(name))).flatten().copied().collect()
}

/// The longest value of an attribute, and the longest list of names, as in Linux.
pub(super) const ATTRIBUTE_MAX: u32 = 64 * 1024;

/// The most bytes that one request copies from file to file, which may be less than it asks for: others, and a host that wants to
/// stop the device, wait meanwhile.
pub(super) const COPY_MAX: u64 = 16 << 20;

/// Permissions of a new file: no set-user-id and no set-group-id.
pub(super) fn new_mode(mode: u32) -> u32 {
    mode & 0o1777
}

/// Permissions to give a file that has `now`. A directory keeps the set-group-id bit it has: that says whom new files
/// belong to, and gives nobody any rights.
pub(super) fn changed_mode(wanted: u32, now: u32) -> u32 {
    let kept = if now & S_IFMT == S_IFDIR { now & wanted & libc::S_ISGID } else { 0 };
    new_mode(wanted) | kept
}

/// The mode to make a file with: regular, a fifo or a socket. Devices are not made.
pub(super) fn made_mode(mode: u32) -> io::Result<u32> {
    match mode & S_IFMT {
        0 | S_IFREG => Ok(S_IFREG | new_mode(mode)),
        kind @ (S_IFIFO | S_IFSOCK) => Ok(kind | new_mode(mode)),
        S_IFCHR | S_IFBLK => Err(errno(libc::EPERM)),
        _ => Err(errno(libc::EINVAL)),
    }
}

/// What a file is, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Regular,
    Directory,
    Link,
    Device,
    Other,
}

impl Kind {
    pub(super) fn of(mode: u32) -> Self {
        match mode & S_IFMT {
            S_IFREG => Self::Regular,
            S_IFDIR => Self::Directory,
            S_IFLNK => Self::Link,
            S_IFCHR | S_IFBLK => Self::Device,
            _ => Self::Other,
        }
    }
}

/// Flags of `open` that are passed on: nothing that makes files, or opens without opening (`O_PATH`).
const OPEN_FLAGS: i32 = libc::O_ACCMODE
    | libc::O_APPEND
    | libc::O_TRUNC
    | libc::O_NONBLOCK
    | libc::O_SYNC
    | libc::O_DIRECT
    | libc::O_NOFOLLOW
    | libc::O_NOATIME;

/// The flags to open a file with. What the host has no use for is left out.
pub(super) fn open_flags(flags: u32, writable: bool) -> io::Result<u32> {
    let flags = flags.cast_signed();
    if flags & libc::O_ACCMODE == libc::O_ACCMODE {
        return Err(errno(libc::EINVAL));
    }
    let changes = flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0;
    if changes && !writable {
        return Err(errno(libc::EROFS));
    }
    Ok((flags & OPEN_FLAGS).cast_unsigned())
}

/// The flags to make a file with, or to open it where it is there. That it is to be made, the request says.
pub(super) fn create_flags(flags: u32) -> io::Result<u32> {
    Ok(open_flags(flags, true)? | flags & libc::O_EXCL.cast_unsigned())
}

/// Passes the flags of a rename that only move names. A whiteout would be a device.
pub(super) fn rename_flags(flags: u32) -> io::Result<()> {
    match flags {
        0 | libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE => Ok(()),
        _ => Err(errno(libc::EINVAL)),
    }
}

/// Where something is read or written: an offset of a file is a signed number, and the file system behind takes that for
/// granted.
pub(super) fn range(offset: u64, size: u32) -> io::Result<()> {
    let end = offset.checked_add(size.into()).filter(|end| i64::try_from(*end).is_ok());
    end.map(drop).ok_or_else(|| errno(libc::EINVAL))
}

/// Nanoseconds of a time: two numbers beyond them mean something to the host.
pub(super) fn nanoseconds(nanoseconds: u32) -> io::Result<()> {
    if nanoseconds < 1_000_000_000 { Ok(()) } else { Err(errno(libc::EINVAL)) }
}

/// What a guest may negotiate.
const OPTIONS: FsOptions = FsOptions::ASYNC_READ
    .union(FsOptions::BIG_WRITES)
    .union(FsOptions::ATOMIC_O_TRUNC)
    .union(FsOptions::AUTO_INVAL_DATA)
    .union(FsOptions::ASYNC_DIO)
    .union(FsOptions::DO_READDIRPLUS)
    .union(FsOptions::READDIRPLUS_AUTO)
    .union(FsOptions::PARALLEL_DIROPS)
    .union(FsOptions::MAX_PAGES)
    .union(FsOptions::SUBMOUNTS)
    .union(FsOptions::HANDLE_KILLPRIV_V2)
    .union(FsOptions::INIT_EXT);

/// What of a guest's abilities is told to the file system behind: no writing back late, no access lists, no security
/// contexts, no exporting. With `groups`, a guest may name one group of whoever makes a file.
///
/// Other file systems within a share are always told apart, whether or not the guest wants to know: see [`super::Guarded`].
pub(super) fn options(capable: FsOptions, groups: bool) -> FsOptions {
    let groups = if groups { FsOptions::CREATE_SUPP_GROUP } else { FsOptions::empty() };
    (capable & (OPTIONS | groups)) | FsOptions::SUBMOUNTS
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;

    use proptest::prelude::*;

    use super::*;

    fn raw<T>(result: io::Result<T>) -> Option<i32> {
        result.err().and_then(|error| error.raw_os_error())
    }

    #[test]
    fn names_that_lead_elsewhere_are_none() {
        for bad in ["", ".", "..", "/", "/etc/passwd", "../secret", "a/b", "a/"] {
            let text = CString::new(bad).expect("no zero");
            assert_eq!(raw(name(&text)), Some(libc::EINVAL), "{bad:?}");
        }
        let long = CString::new(vec![b'a'; 256]).expect("no zero");
        assert_eq!(raw(name(&long)), Some(libc::ENAMETOOLONG));
        name(c"...").expect("a name");
    }

    #[test]
    fn devices_and_set_id_bits_are_not_made() {
        for kind in [S_IFCHR, S_IFBLK] {
            assert_eq!(raw(made_mode(kind | 0o666)), Some(libc::EPERM));
        }
        assert_eq!(raw(made_mode(S_IFDIR | 0o777)), Some(libc::EINVAL));
        assert_eq!(raw(made_mode(S_IFLNK | 0o777)), Some(libc::EINVAL));
        assert_eq!(made_mode(0o6755).expect("a file"), S_IFREG | 0o755);
        assert_eq!(made_mode(S_IFIFO | 0o7644).expect("a fifo"), S_IFIFO | 0o1644);
        assert_eq!(changed_mode(0o100_7755, S_IFREG | 0o6755), 0o1755);
        assert_eq!(changed_mode(0o2755, S_IFDIR | 0o2700), 0o2755);
        assert_eq!(changed_mode(0o6755, S_IFDIR | 0o700), 0o755);
    }

    #[test]
    fn nothing_is_opened_for_writing_where_nothing_may_be_written() {
        for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_TRUNC, libc::O_RDWR | libc::O_APPEND] {
            assert_eq!(raw(open_flags(flags.cast_unsigned(), false)), Some(libc::EROFS), "{flags:o}");
        }
        assert_eq!(raw(open_flags(libc::O_ACCMODE.cast_unsigned(), true)), Some(libc::EINVAL));
    }

    #[test]
    fn offsets_are_those_of_files() {
        let most = i64::MAX.cast_unsigned();
        range(most - 1, 1).expect("the end");
        for (offset, size) in [(most, 1), (most + 1, 0), (u64::MAX, 0), (u64::MAX, u32::MAX)] {
            assert_eq!(raw(range(offset, size)), Some(libc::EINVAL), "{offset} {size}");
        }
    }

    #[test]
    fn what_a_guest_cannot_have_is_not_negotiated() {
        let all = options(FsOptions::all(), false);
        for refused in [
            FsOptions::WRITEBACK_CACHE,
            FsOptions::POSIX_ACL,
            FsOptions::SECURITY_CTX,
            FsOptions::EXPORT_SUPPORT,
            FsOptions::CREATE_SUPP_GROUP,
        ] {
            assert!(!all.contains(refused), "{refused:?}");
        }
        assert!(options(FsOptions::empty(), false).contains(FsOptions::SUBMOUNTS));
        assert!(options(FsOptions::all(), true).contains(FsOptions::CREATE_SUPP_GROUP));
    }

    #[test]
    fn only_attributes_that_give_no_rights_exist() {
        for bad in [c"security.capability", c"trusted.overlay.opaque", c"system.posix_acl_access", c"user.", c"user"] {
            assert_eq!(raw(attribute(bad)), Some(libc::EOPNOTSUPP), "{bad:?}");
        }
        attribute(c"user.note").expect("the user's own");
        assert_eq!(attributes(b"user.a\0security.selinux\0user.b\0trusted.c\0"), b"user.a\0user.b\0");
    }

    proptest! {
        #[test]
        fn flags_and_modes_never_let_more_through(flags in any::<u32>(), mode in any::<u32>(), now in any::<u32>()) {
            if let Ok(opened) = open_flags(flags, true) {
                let forbidden = libc::O_CREAT | libc::O_EXCL | libc::O_PATH | libc::O_DIRECTORY;
                prop_assert_eq!(opened.cast_signed() & forbidden, 0);
                prop_assert_eq!(opened.cast_signed() & libc::O_TMPFILE & !libc::O_DIRECTORY, 0);
            }
            if let Ok(opened) = open_flags(flags, false) {
                prop_assert_eq!(opened.cast_signed() & (libc::O_ACCMODE | libc::O_TRUNC), 0);
            }
            if let Ok(made) = made_mode(mode) {
                prop_assert_eq!(made & 0o6000, 0);
                prop_assert!(Kind::of(made) != Kind::Device);
            }
            prop_assert_eq!(changed_mode(mode, now) & libc::S_ISUID, 0);
            prop_assert!(changed_mode(mode, now) & libc::S_ISGID == 0 || Kind::of(now) == Kind::Directory);
        }

        #[test]
        fn names_are_single_components(bytes in prop::collection::vec(1_u8.., 0..300)) {
            let text = CString::new(bytes.clone()).expect("no zero");
            if name(&text).is_ok() {
                prop_assert!(!bytes.contains(&b'/') && bytes != b"." && bytes != b".." && (1..=255).contains(&bytes.len()));
            }
        }

        #[test]
        fn lists_are_filtered_whole(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for name in attributes(&bytes).split(|&b| b == 0).filter(|name| !name.is_empty()) {
                prop_assert!(name.starts_with(b"user."));
            }
        }
    }
}
