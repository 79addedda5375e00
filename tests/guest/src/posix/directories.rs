//! Lists of names, whole and while they change; trees.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::DirEntryExt;

use rustix::fs::{Dir, Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;

use super::{Check, Failure, Outcome, Place, holds, open, refused, same};

pub(super) const CHECKS: &[Check] = &[
    ("an empty directory", |p| same(0, fs::read_dir(&p.dir)?.count())),
    ("itself and the one above", |p| {
        let mut names: Vec<Vec<u8>> = Vec::new();
        for entry in Dir::read_from(File::open(&p.dir)?)? {
            names.push(entry?.file_name().to_bytes().to_vec());
        }
        names.sort();
        same(vec![b".".to_vec(), b"..".to_vec()], names)
    }),
    ("listed and removed meanwhile", |p| {
        let mut seen = filled(p)?;
        for entry in fs::read_dir(&p.dir)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            fs::remove_file(p.at(&name))?;
            *seen.entry(name).or_default() += 1;
        }
        each_once(p, &seen)?;
        same(0, fs::read_dir(&p.dir)?.count())
    }),
    ("listed and added to meanwhile", |p| {
        let mut seen = filled(p)?;
        for (number, entry) in fs::read_dir(&p.dir)?.enumerate().take(p.names as usize * 2) {
            if number < 100 {
                p.file(&format!("new-{number}"), "")?;
            }
            let name = entry?.file_name().to_string_lossy().into_owned();
            // Whether new ones are listed is left open.
            if let Some(times) = seen.get_mut(&name) {
                *times += 1;
            }
        }
        each_once(p, &seen)?;
        same(p.names as usize + 100, fs::read_dir(&p.dir)?.count())
    }),
    ("listed again", |p| {
        p.file("a", "")?;
        let mut list = Dir::read_from(File::open(&p.dir)?)?;
        same(3, list.by_ref().count())?;
        p.file("b", "")?;
        list.rewind();
        same(4, list.count())
    }),
    ("two lists at once", |p| {
        for number in 0..100 {
            p.file(&number.to_string(), "")?;
        }
        let (mut one, mut other) = (fs::read_dir(&p.dir)?, fs::read_dir(&p.dir)?);
        let first = one.by_ref().take(30).count();
        same(100, other.by_ref().count())?;
        same(100, first + one.count())
    }),
    ("types in lists", |p| {
        let made = (p.file("file", "")?, p.directory("dir")?, p.link("link", "file")?);
        for entry in fs::read_dir(&p.dir)? {
            let (kind, meta) =
                (entry.as_ref().map(fs::DirEntry::file_type), entry.as_ref().map(fs::DirEntry::metadata));
            let (Ok(kind), Ok(meta)) = (kind, meta) else { return Err(Failure(format!("came {entry:?}"))) };
            same(meta?.file_type(), kind?)?;
        }
        holds("what was made", made.0.is_file() && made.1.is_dir() && made.2.is_symlink())
    }),
    ("numbers in lists", |p| {
        use std::os::unix::fs::MetadataExt;
        p.file("f", "")?;
        for entry in fs::read_dir(&p.dir)? {
            let entry = entry?;
            same(entry.metadata()?.ino(), entry.ino())?;
        }
        Ok(())
    }),
    ("removed and open", |p| {
        let dir = open(&p.directory("d")?, OFlags::RDONLY | OFlags::DIRECTORY)?;
        fs::remove_dir(p.at("d"))?;
        let flags = OFlags::CREATE | OFlags::WRONLY;
        refused(Errno::NOENT, openat(&dir, "f", flags, Mode::RUSR))?;
        refused(Errno::NOENT, mkdirat(&dir, "e", Mode::RWXU))
    }),
    ("removed and made again", |p| {
        for _ in 0..10 {
            p.directory("d")?;
            p.file("d/f", "")?;
            fs::remove_dir_all(p.at("d"))?;
        }
        holds("nothing left", !p.at("d").exists())
    }),
    ("a deep tree", |p| {
        // Without a cache, Linux walks the whole way anew for each level: 64 levels by 9P took a minute under the translator.
        let deep = (0..24).fold(p.at("0"), |path, level| path.join(format!("level-{level}")));
        fs::create_dir_all(&deep)?;
        fs::write(deep.join("f"), "deep")?;
        same("deep".to_owned(), fs::read_to_string(deep.join("f"))?)?;
        Ok(fs::remove_dir_all(p.at("0"))?)
    }),
    ("a wide tree", |p| {
        for outer in 0..10 {
            p.directory(&outer.to_string())?;
            for inner in 0..10 {
                p.file(&format!("{outer}/{inner}"), "")?;
            }
        }
        fs::rename(p.at("7"), p.at("8/moved"))?;
        same(11, fs::read_dir(p.at("8"))?.count())?;
        same(10, fs::read_dir(p.at("8/moved"))?.count())
    }),
];

/// Makes many files. How often each was seen: not yet.
fn filled(p: &Place) -> std::io::Result<BTreeMap<String, u32>> {
    (0..p.names)
        .map(|number| {
            // Long, so that fewer make a list of several messages: some 4000 by 9P, 20 by virtio-fs.
            let name = format!("{number:0>240}");
            File::create(p.at(&name))?;
            Ok((name, 0))
        })
        .collect()
}

/// What was there all the time is listed once.
fn each_once(p: &Place, seen: &BTreeMap<String, u32>) -> Outcome {
    let others: Vec<_> = seen.iter().filter(|(_, times)| **times != 1).take(5).collect();
    if others.is_empty() && seen.len() == p.names as usize {
        return Ok(());
    }
    Err(Failure(format!(
        "wanted each of {} names once, came {} names, among them {others:?} times",
        p.names,
        seen.len()
    )))
}
