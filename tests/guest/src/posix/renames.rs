//! Renaming files and directories, over others and while they are open.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;

use rustix::fs::{CWD, RenameFlags, rename, renameat_with};
use rustix::io::Errno;

use super::{Check, Outcome, Place, holds, refused, same};

pub(super) const CHECKS: &[Check] = &[
    ("rename over a file", over_a_file),
    ("rename over a file that is open", over_an_open_file),
    ("rename over itself", |p| {
        p.file("f", "kept")?;
        rename(p.at("f"), p.at("f"))?;
        same("kept".to_owned(), fs::read_to_string(p.at("f"))?)
    }),
    ("rename over another name of itself", |p| {
        fs::hard_link(p.file("a", "same")?, p.at("b"))?;
        rename(p.at("a"), p.at("b"))?;
        same(2, p.at("a").metadata()?.nlink())
    }),
    ("rename of a directory over an empty one", |p| {
        p.directory("a")?;
        p.file("a/f", "in")?;
        rename(p.at("a"), p.directory("b")?)?;
        same("in".to_owned(), fs::read_to_string(p.at("b/f"))?)?;
        holds("the old name gone", !p.at("a").exists())
    }),
    ("rename over a full directory", |p| {
        p.directory("b")?;
        p.file("b/f", "")?;
        refused(Errno::NOTEMPTY, rename(p.directory("a")?, p.at("b")))
    }),
    ("rename of a file over a directory", |p| refused(Errno::ISDIR, rename(p.file("f", "")?, p.directory("d")?))),
    ("rename of a directory over a file", |p| refused(Errno::NOTDIR, rename(p.directory("d")?, p.file("f", "")?))),
    ("rename of a directory into itself", |p| refused(Errno::INVAL, rename(p.directory("d")?, p.at("d/e")))),
    ("rename of a link", |p| {
        p.file("f", "")?;
        rename(p.link("l", "f")?, p.at("m"))?;
        same("f", fs::read_link(p.at("m"))?.to_str().unwrap_or_default())?;
        holds("its target untouched", p.at("f").exists())
    }),
    ("rename over a link", |p| {
        p.file("target", "old")?;
        rename(p.file("f", "new")?, p.link("l", "target")?)?;
        holds("a file in the link's place", p.at("l").symlink_metadata()?.is_file())?;
        same("old".to_owned(), fs::read_to_string(p.at("target"))?)
    }),
    ("rename keeps the file", |p| {
        let before = p.file("a", "x")?.metadata()?;
        p.directory("d")?;
        rename(p.at("a"), p.at("d/b"))?;
        let after = p.at("d/b").metadata()?;
        same((before.ino(), before.mode(), before.len()), (after.ino(), after.mode(), after.len()))
    }),
    ("rename while it is open", while_open),
    ("rename of a directory with open files", below_an_open_directory),
    ("rename by flags", by_flags),
    ("many renames of one file", |p| {
        p.file("0", "moved")?;
        for number in 0..50 {
            rename(p.at(&number.to_string()), p.at(&(number + 1).to_string()))?;
        }
        same("moved".to_owned(), fs::read_to_string(p.at("50"))?)?;
        same(1, fs::read_dir(&p.dir)?.count())
    }),
];

fn over_a_file(p: &Place) -> Outcome {
    let moved = p.file("a", "new")?.metadata()?.ino();
    rename(p.at("a"), p.file("b", "old and longer")?)?;
    same("new".to_owned(), fs::read_to_string(p.at("b"))?)?;
    same(moved, p.at("b").metadata()?.ino())?;
    holds("the old name gone", !p.at("a").exists())
}

fn over_an_open_file(p: &Place) -> Outcome {
    let mut old = File::open(p.file("b", "old")?)?;
    rename(p.file("a", "new")?, p.at("b"))?;
    let mut text = String::new();
    old.read_to_string(&mut text)?;
    same("old", text.as_str())?;
    same(0, old.metadata()?.nlink())
}

fn while_open(p: &Place) -> Outcome {
    let mut file = File::options().append(true).open(p.file("a", "one")?)?;
    rename(p.at("a"), p.at("b"))?;
    // Another file takes the name: nothing of what follows is its.
    p.file("a", "other")?;
    file.write_all(b", two")?;
    file.sync_all()?;
    same("one, two".to_owned(), fs::read_to_string(p.at("b"))?)?;
    same("other".to_owned(), fs::read_to_string(p.at("a"))?)
}

fn below_an_open_directory(p: &Place) -> Outcome {
    p.directory("a")?;
    let mut file = File::options().append(true).open(p.file("a/f", "one")?)?;
    let dir = File::open(p.at("a"))?;
    rename(p.at("a"), p.at("b"))?;
    file.write_all(b", two")?;
    same("one, two".to_owned(), fs::read_to_string(p.at("b/f"))?)?;
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
    rustix::fs::openat(&dir, "g", flags, rustix::fs::Mode::RUSR)?;
    holds("a file made by the handle under the new name", p.at("b/g").exists())
}

/// Not to replace, and to exchange. The protocol 9P2000.L has no flags: Linux refuses.
fn by_flags(p: &Place) -> Outcome {
    let (a, b) = (p.file("a", "a")?, p.file("b", "b")?);
    if !p.kind.is_complete() {
        return refused(Errno::INVAL, renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE));
    }
    refused(Errno::EXIST, renameat_with(CWD, &a, CWD, &b, RenameFlags::NOREPLACE))?;
    renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE)?;
    same(("b".to_owned(), "a".to_owned()), (fs::read_to_string(&a)?, fs::read_to_string(&b)?))
}
