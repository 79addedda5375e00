//! Modes, owners, times, extended attributes, types, and what the file system says of itself.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, XattrFlags, getxattr, listxattr,
    makedev, mknodat, removexattr, setxattr, statvfs, utimensat,
};
use rustix::io::Errno;
use rustix::process::umask;

use crate::kind::Kind;

use super::{Check, Failure, Outcome, Place, holds, refused, same};

pub(super) const CHECKS: &[Check] = &[
    ("modes of a file", |p| modes(&p.file("f", "")?)),
    ("modes of a directory", |p| modes(&p.directory("d")?)),
    ("modes of new ones", |p| {
        let before = umask(Mode::from_raw_mode(0o027));
        let made = (File::create(p.at("f")), fs::create_dir(p.at("d")));
        umask(before);
        made.0.and(made.1)?;
        same((0o640, 0o750), (mode(&p.at("f"))?, mode(&p.at("d"))?))
    }),
    ("set-id bits", |p| {
        let file = p.file("f", "")?;
        fs::set_permissions(&file, Permissions::from_mode(0o6755))?;
        same(if p.kind.is_share() { 0o755 } else { 0o6755 }, mode(&file)?)
    }),
    ("sticky directory", |p| {
        let dir = p.directory("d")?;
        fs::set_permissions(&dir, Permissions::from_mode(0o1777))?;
        same(0o1777, mode(&dir)?)
    }),
    ("mode by handle", |p| {
        let file = File::open(p.file("f", "")?)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        same(0o600, mode(&p.at("f"))?)
    }),
    ("device", |p| {
        let made = mknodat(CWD, p.at("null"), FileType::CharacterDevice, Mode::RUSR, makedev(1, 3));
        if p.kind.is_share() { refused(Errno::PERM, made) } else { Ok(made?) }
    }),
    ("fifo and socket", |p| {
        mknodat(CWD, p.at("fifo"), FileType::Fifo, Mode::RWXU, 0)?;
        mknodat(CWD, p.at("socket"), FileType::Socket, Mode::RWXU, 0)?;
        let kind = |name: &str| Ok::<_, std::io::Error>(p.at(name).symlink_metadata()?.file_type());
        same((true, true), (kind("fifo")?.is_fifo(), kind("socket")?.is_socket()))
    }),
    ("another owner", |p| {
        let file = p.file("f", "")?;
        let given = rustix::fs::chown(&file, Some(rustix::fs::Uid::from_raw(4711)), None);
        if p.kind.is_share() { refused(Errno::PERM, given) } else { Ok(given?) }
    }),
    ("the same owner", |p| {
        let meta = p.file("f", "")?.metadata()?;
        same(p.dir.metadata()?.uid(), meta.uid())?;
        Ok(std::os::unix::fs::chown(p.at("f"), Some(meta.uid()), Some(meta.gid()))?)
    }),
    ("times of a file", |p| times(p.kind, &p.file("f", "")?)),
    ("times of a directory", |p| times(p.kind, &p.directory("d")?)),
    ("times of a link", |p| {
        let target = p.file("f", "")?.metadata()?.mtime();
        let link = p.link("l", "f")?;
        set_times(&link, time(5), time(6))?;
        same(6, link.symlink_metadata()?.mtime())?;
        same(target, p.at("f").metadata()?.mtime())
    }),
    ("one time alone", |p| {
        let file = p.file("f", "")?;
        set_times(&file, time(5), time(6))?;
        set_times(&file, omitted(), time(8))?;
        same((5, 8), (file.metadata()?.atime(), file.metadata()?.mtime()))?;
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        set_times(&file, now, omitted())?;
        holds("a time of this century", is_recent(file.metadata()?.atime()))?;
        same(8, file.metadata()?.mtime())
    }),
    ("times before 1970", |p| {
        let file = p.file("f", "")?;
        set_times(&file, time(-1000), time(-2000))?;
        // Linux's client for 9P takes no earlier time than 1970.
        let wanted = if p.kind == Kind::Plan9 { (0, 0) } else { (-1000, -2000) };
        same(wanted, (file.metadata()?.atime(), file.metadata()?.mtime()))
    }),
    ("a write moves the time", |p| {
        let mut file = File::create(p.at("f"))?;
        set_times(&p.at("f"), time(5), time(6))?;
        file.write_all(b"x")?;
        file.sync_all()?;
        holds("a time of this century", is_recent(p.at("f").metadata()?.mtime()))
    }),
    ("a new name moves its directory's time", |p| {
        set_times(&p.dir, time(5), time(6))?;
        p.file("f", "")?;
        holds("a time of this century", is_recent(p.dir.metadata()?.mtime()))
    }),
    ("attributes", attributes),
    ("attributes of a directory", |p| {
        let dir = p.directory("d")?;
        setxattr(&dir, "user.note", b"x", XattrFlags::CREATE)?;
        same(1, getxattr(&dir, "user.note", &mut [0; 8])?)
    }),
    ("attributes by flags", |p| {
        let file = p.file("f", "")?;
        refused(Errno::NODATA, setxattr(&file, "user.note", b"x", XattrFlags::REPLACE))?;
        setxattr(&file, "user.note", b"x", XattrFlags::CREATE)?;
        refused(Errno::EXIST, setxattr(&file, "user.note", b"y", XattrFlags::CREATE))?;
        Ok(setxattr(&file, "user.note", b"z", XattrFlags::REPLACE)?)
    }),
    ("attributes that do not fit", |p| {
        let file = p.file("f", "")?;
        setxattr(&file, "user.note", &[b'x'; 1000], XattrFlags::empty())?;
        refused(Errno::RANGE, getxattr(&file, "user.note", &mut [0; 999]))?;
        refused(Errno::RANGE, listxattr(&file, &mut [0; 3]))?;
        same(1000, getxattr(&file, "user.note", &mut [0; 1000])?)
    }),
    ("attributes that are not there", |p| {
        let file = p.file("f", "")?;
        refused(Errno::NODATA, getxattr(&file, "user.none", &mut [0; 8]))?;
        refused(Errno::NODATA, removexattr(&file, "user.none"))
    }),
    ("attributes that give rights", |p| {
        let set = setxattr(p.file("f", "")?, "trusted.note", b"x", XattrFlags::empty());
        if p.kind.is_share() { refused(Errno::OPNOTSUPP, set) } else { Ok(set?) }
    }),
    ("types", |p| {
        let (file, dir, link) = (p.file("f", "")?, p.directory("d")?, p.link("l", "f")?);
        let kinds = (file.metadata()?.is_file(), dir.metadata()?.is_dir(), link.symlink_metadata()?.is_symlink());
        same((true, true, true), kinds)
    }),
    ("each file is another", |p| {
        let (one, other) = (p.file("f", "")?.metadata()?, p.file("g", "")?.metadata()?);
        same(one.dev(), other.dev())?;
        holds("two numbers", one.ino() != other.ino())
    }),
    ("the file system", |p| {
        let all = statvfs(&p.dir)?;
        same(255, all.f_namemax)?;
        holds("sizes that go together", all.f_bsize > 0 && all.f_blocks >= all.f_bfree && all.f_bfree >= all.f_bavail)
    }),
];

fn mode(path: &Path) -> std::io::Result<u32> {
    Ok(path.symlink_metadata()?.permissions().mode() & 0o7777)
}

fn modes(path: &Path) -> Outcome {
    for wanted in [0o000, 0o444, 0o200, 0o111, 0o755, 0o777, 0o640] {
        fs::set_permissions(path, Permissions::from_mode(wanted))?;
        same(wanted, mode(path)?)?;
    }
    Ok(())
}

fn time(seconds: i64) -> Timespec {
    Timespec { tv_sec: seconds, tv_nsec: 0 }
}

fn omitted() -> Timespec {
    Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }
}

fn set_times(path: &Path, accessed: Timespec, modified: Timespec) -> Result<(), Failure> {
    let times = Timestamps { last_access: accessed, last_modification: modified };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// After 2020: the clock's, not one that a check has set.
fn is_recent(seconds: i64) -> bool {
    seconds > 1_577_836_800
}

/// Times of 1970, of now, and past 32 bits. To the nanosecond, but for 9P: Linux's client sends whole seconds.
fn times(kind: Kind, path: &Path) -> Outcome {
    let kept = |nanos| if kind == Kind::Plan9 { 0 } else { nanos };
    for seconds in [0, 1, 1_700_000_000, 1 << 32] {
        let stamp = |nanos| Timespec { tv_sec: seconds, tv_nsec: nanos };
        set_times(path, stamp(123_456_789), stamp(987_654_321))?;
        let meta = path.metadata()?;
        same((seconds, kept(987_654_321)), (meta.mtime(), meta.mtime_nsec()))?;
        same((seconds, kept(123_456_789)), (meta.atime(), meta.atime_nsec()))?;
    }
    Ok(())
}

fn attributes(p: &Place) -> Outcome {
    let file = p.file("f", "")?;
    let mut back = [0; 64];
    for value in ["seen", "", "a longer one"] {
        setxattr(&file, "user.note", value.as_bytes(), XattrFlags::empty())?;
        let length = getxattr(&file, "user.note", &mut back)?;
        same(value.as_bytes(), &back[..length])?;
    }
    let length = listxattr(&file, &mut back)?;
    same(&b"user.note\0"[..], &back[..length])?;
    removexattr(&file, "user.note")?;
    same(0, listxattr(&file, &mut back)?)
}
