//! Names, and the errors that they give.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Mode, OFlags, link, mkdir, readlink, rename, rmdir, stat, symlink, unlink};
use rustix::io::Errno;

use super::{Check, Outcome, Place, open, refused, same};

const MODE: Mode = Mode::RWXU;
const NEW: OFlags = OFlags::CREATE.union(OFlags::EXCL).union(OFlags::WRONLY);

pub(super) const CHECKS: &[Check] = &[
    ("open of nothing", |p| refused(Errno::NOENT, open(&p.at("x"), OFlags::RDONLY))),
    ("stat of nothing", |p| refused(Errno::NOENT, stat(p.at("x")))),
    ("unlink of nothing", |p| refused(Errno::NOENT, unlink(p.at("x")))),
    ("rmdir of nothing", |p| refused(Errno::NOENT, rmdir(p.at("x")))),
    ("rename of nothing", |p| refused(Errno::NOENT, rename(p.at("x"), p.at("y")))),
    ("link of nothing", |p| refused(Errno::NOENT, link(p.at("x"), p.at("y")))),
    ("readlink of nothing", |p| refused(Errno::NOENT, readlink(p.at("x"), Vec::new()))),
    ("file in nothing", |p| refused(Errno::NOENT, open(&p.at("x/y"), NEW))),
    ("directory in nothing", |p| refused(Errno::NOENT, mkdir(p.at("x/y"), MODE))),
    ("rename into nothing", |p| refused(Errno::NOENT, rename(p.file("f", "")?, p.at("x/y")))),
    ("new file over a file", |p| refused(Errno::EXIST, open(&p.file("f", "")?, NEW))),
    ("new file over a directory", |p| refused(Errno::EXIST, open(&p.directory("d")?, NEW))),
    ("new file over a dangling link", |p| refused(Errno::EXIST, open(&p.link("l", "x")?, NEW))),
    ("directory over a file", |p| refused(Errno::EXIST, mkdir(p.file("f", "")?, MODE))),
    ("directory over a directory", |p| refused(Errno::EXIST, mkdir(p.directory("d")?, MODE))),
    ("directory over a dangling link", |p| refused(Errno::EXIST, mkdir(p.link("l", "x")?, MODE))),
    ("symlink over a file", |p| refused(Errno::EXIST, symlink("x", p.file("f", "")?))),
    ("symlink over a directory", |p| refused(Errno::EXIST, symlink("x", p.directory("d")?))),
    ("link over a file", |p| refused(Errno::EXIST, link(p.file("f", "")?, p.file("g", "")?))),
    ("link over itself", |p| refused(Errno::EXIST, link(p.file("f", "")?, p.at("f")))),
    ("open below a file", |p| refused(Errno::NOTDIR, open(&p.file("f", "")?.join("x"), OFlags::RDONLY))),
    ("create below a file", |p| refused(Errno::NOTDIR, open(&p.file("f", "")?.join("x"), NEW))),
    ("mkdir below a file", |p| refused(Errno::NOTDIR, mkdir(p.file("f", "")?.join("x"), MODE))),
    ("unlink below a file", |p| refused(Errno::NOTDIR, unlink(p.file("f", "")?.join("x")))),
    ("rmdir of a file", |p| refused(Errno::NOTDIR, rmdir(p.file("f", "")?))),
    ("rmdir of a link to a directory", rmdir_of_a_link),
    ("a file as a directory", |p| refused(Errno::NOTDIR, open(&p.file("f", "")?, OFlags::RDONLY | OFlags::DIRECTORY))),
    ("a directory for writing", |p| refused(Errno::ISDIR, open(&p.directory("d")?, OFlags::WRONLY))),
    ("a directory for both", |p| refused(Errno::ISDIR, open(&p.directory("d")?, OFlags::RDWR))),
    ("a directory to create", |p| refused(Errno::ISDIR, open(&p.directory("d")?, OFlags::CREATE | OFlags::RDWR))),
    ("read of a directory", |p| {
        refused(Errno::ISDIR, rustix::io::read(open(&p.directory("d")?, OFlags::RDONLY)?, &mut [0; 8]))
    }),
    ("truncate of a directory", |p| {
        let made = open(&p.directory("d")?, OFlags::WRONLY | OFlags::TRUNC);
        refused(Errno::ISDIR, made)
    }),
    ("unlink of a directory", |p| refused(Errno::ISDIR, unlink(p.directory("d")?))),
    ("rmdir of a full directory", |p| {
        p.directory("d")?;
        p.file("d/f", "")?;
        refused(Errno::NOTEMPTY, rmdir(p.at("d")))
    }),
    ("rmdir of the directory itself", |p| refused(Errno::INVAL, rmdir(p.directory("d")?.join(".")))),
    ("rmdir of the one above", |p| {
        p.directory("d")?;
        refused(Errno::NOTEMPTY, rmdir(p.directory("d/e")?.join("..")))
    }),
    ("links in a circle", |p| {
        p.link("a", "b")?;
        refused(Errno::LOOP, open(&p.link("b", "a")?, OFlags::RDONLY))
    }),
    ("a link not followed", |p| {
        p.file("f", "")?;
        refused(Errno::LOOP, open(&p.link("l", "f")?, OFlags::RDONLY | OFlags::NOFOLLOW))
    }),
    ("readlink of a file", |p| refused(Errno::INVAL, readlink(p.file("f", "")?, Vec::new()))),
    ("the longest name of a file", |p| {
        p.file(&LONG, "long")?;
        same("long".to_owned(), fs::read_to_string(p.at(&LONG))?)?;
        same(vec![LONG.clone()], listed(p)?)
    }),
    ("the longest name of a directory", |p| {
        p.directory(&LONG)?;
        Ok(p.file(&format!("{}/{}", *LONG, *LONG), "").map(|_| ())?)
    }),
    ("open of too long a name", |p| refused(Errno::NAMETOOLONG, open(&p.at(&LONGER), OFlags::RDONLY))),
    ("stat of too long a name", |p| refused(Errno::NAMETOOLONG, stat(p.at(&LONGER)))),
    ("file of too long a name", |p| refused(Errno::NAMETOOLONG, open(&p.at(&LONGER), NEW))),
    ("directory of too long a name", |p| refused(Errno::NAMETOOLONG, mkdir(p.at(&LONGER), MODE))),
    ("symlink of too long a name", |p| refused(Errno::NAMETOOLONG, symlink("x", p.at(&LONGER)))),
    ("link of too long a name", |p| refused(Errno::NAMETOOLONG, link(p.file("f", "")?, p.at(&LONGER)))),
    ("rename to too long a name", |p| refused(Errno::NAMETOOLONG, rename(p.file("f", "")?, p.at(&LONGER)))),
    // `/dev` is another file system on every Linux.
    ("rename to another file system", |p| refused(Errno::XDEV, rename(p.file("f", "")?, "/dev/uvm-test-of-names"))),
    ("link to another file system", |p| refused(Errno::XDEV, link(p.file("f", "")?, "/dev/uvm-test-of-names"))),
    ("names of odd bytes", odd_names),
    ("names by case", |p| {
        p.file("name", "small")?;
        p.file("NAME", "large")?;
        same("small".to_owned(), fs::read_to_string(p.at("name"))?)
    }),
    ("a slash after a directory", |p| Ok(mkdir(p.at("d/"), MODE)?)),
    ("a slash after a file", |p| refused(Errno::NOTDIR, open(&p.file("f", "")?.join(""), OFlags::RDONLY))),
];

static LONG: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| "n".repeat(255));
static LONGER: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| "n".repeat(256));

fn listed(p: &Place) -> std::io::Result<Vec<String>> {
    fs::read_dir(&p.dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

fn rmdir_of_a_link(p: &Place) -> Outcome {
    p.directory("d")?;
    refused(Errno::NOTDIR, rmdir(p.link("l", "d")?))
}

/// Linux takes every byte but the slash and zero.
fn odd_names(p: &Place) -> Outcome {
    let names: [&[u8]; 8] = [b" ", b"...", b"-rf", b"a\nb", b"\\", b"\xff\xfe", b"\xc3\xa4", b"*?\"'\x01"];
    for name in names {
        fs::write(p.dir.join(OsStr::from_bytes(name)), name)?;
    }
    let mut seen = Vec::new();
    for entry in fs::read_dir(&p.dir)? {
        let name = entry?.file_name();
        same(name.as_bytes().to_vec(), fs::read(p.dir.join(&name))?)?;
        seen.push(name.as_bytes().to_vec());
    }
    seen.sort();
    let mut wanted: Vec<Vec<u8>> = names.iter().map(|name| name.to_vec()).collect();
    wanted.sort();
    same(wanted, seen)
}
