//! Hard and symbolic links, counts of names, and files without one.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::{AtFlags, CWD, link, linkat, symlink};
use rustix::io::Errno;

use super::{Check, Outcome, Place, holds, refused, same};

pub(super) const CHECKS: &[Check] = &[
    ("links are counted", |p| {
        p.file("a", "")?;
        for (number, name) in ["b", "c", "d"].into_iter().enumerate() {
            link(p.at("a"), p.at(name))?;
            same(number as u64 + 2, p.at("a").metadata()?.nlink())?;
        }
        fs::remove_file(p.at("a"))?;
        same(3, p.at("d").metadata()?.nlink())
    }),
    ("links are one file", |p| {
        link(p.file("a", "")?, p.at("b"))?;
        fs::write(p.at("a"), "by a")?;
        same("by a".to_owned(), fs::read_to_string(p.at("b"))?)?;
        same(p.at("a").metadata()?.ino(), p.at("b").metadata()?.ino())
    }),
    ("link of a directory", |p| refused(Errno::PERM, link(p.directory("d")?, p.at("e")))),
    ("link of a link", |p| {
        linkat(CWD, p.link("l", "nowhere")?, CWD, p.at("m"), AtFlags::empty())?;
        same("nowhere", fs::read_link(p.at("m"))?.to_str().unwrap_or_default())
    }),
    ("symlinks keep their text", |p| {
        let long = "t".repeat(1000);
        for (name, target) in [("a", "../../x"), ("b", "/absolute"), ("c", long.as_str()), ("d", "with space/ä")] {
            symlink(target, p.at(name))?;
            same(target, fs::read_link(p.at(name))?.to_str().unwrap_or_default())?;
            same(target.len() as u64, p.at(name).symlink_metadata()?.len())?;
        }
        Ok(())
    }),
    ("a symlink is followed", |p| {
        p.directory("d")?;
        p.file("d/f", "in")?;
        same("in".to_owned(), fs::read_to_string(p.link("l", "d")?.join("f"))?)
    }),
    ("a dangling link makes its target", |p| {
        fs::write(p.link("l", "made")?, "x")?;
        holds("the target", p.at("made").is_file())
    }),
    ("unlink of a link", |p| {
        p.file("f", "")?;
        fs::remove_file(p.link("l", "f")?)?;
        holds("its target untouched", p.at("f").exists())
    }),
    ("unlinked and open", unlinked),
    ("unlinked and made again", |p| {
        let old = File::options().read(true).write(true).open(p.file("f", "old")?)?;
        fs::remove_file(p.at("f"))?;
        p.file("f", "new one")?;
        old.write_all_at(b"OLD", 0)?;
        same("new one".to_owned(), fs::read_to_string(p.at("f"))?)?;
        let mut back = [0; 3];
        old.read_exact_at(&mut back, 0)?;
        same(b"OLD", &back)
    }),
    ("many unlinked and open", |p| {
        let mut files = Vec::new();
        for number in 0_u32..50 {
            let path = p.file(&number.to_string(), &number.to_string())?;
            files.push((number, File::open(&path)?));
            fs::remove_file(path)?;
        }
        same(0, fs::read_dir(&p.dir)?.count())?;
        files.into_iter().try_for_each(|(number, file)| same(number.to_string(), std::io::read_to_string(file)?))
    }),
];

fn unlinked(p: &Place) -> Outcome {
    let file = File::options().read(true).write(true).open(p.file("f", "still here")?)?;
    fs::remove_file(p.at("f"))?;
    same(0, file.metadata()?.nlink())?;
    file.write_all_at(b"there", 6)?;
    let mut back = [0; 11];
    file.read_exact_at(&mut back, 0)?;
    same(b"still there", &back)?;
    file.set_len(5)?;
    same(5, file.metadata()?.len())
}
