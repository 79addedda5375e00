//! Reading, writing, appending, cutting: by one handle and by two.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::{FallocateFlags, OFlags, fallocate, ftruncate};
use rustix::io::Errno;

use crate::kind::Kind;

use super::{Check, Outcome, Place, holds, open, refused, same};

pub(super) const CHECKS: &[Check] = &[
    ("two append", |p| {
        let path = p.file("f", "")?;
        let handle = || OpenOptions::new().append(true).open(&path);
        let (mut one, mut other) = (handle()?, handle()?);
        for _ in 0..3 {
            one.write_all(b"ab")?;
            other.write_all(b"cd")?;
        }
        same("abcdabcdabcd".to_owned(), fs::read_to_string(path)?)
    }),
    ("append after another cut it", |p| {
        let mut one = OpenOptions::new().append(true).open(p.file("f", "0123456789")?)?;
        one.write_all(b"a")?;
        OpenOptions::new().write(true).open(p.at("f"))?.set_len(2)?;
        one.write_all(b"b")?;
        same("01b".to_owned(), fs::read_to_string(p.at("f"))?)
    }),
    ("no longer append", no_longer_append),
    ("cut by opening", |p| {
        File::create(p.file("f", "content")?)?;
        same(0, p.at("f").metadata()?.len())
    }),
    ("cut by opening with a handle there", |p| {
        let mut old = File::open(p.file("f", "content")?)?;
        File::create(p.at("f"))?;
        let mut text = String::new();
        old.read_to_string(&mut text)?;
        same("", text.as_str())
    }),
    ("cut and grown", cut_and_grown),
    ("grown by path", |p| {
        let file = p.file("f", "x")?;
        OpenOptions::new().write(true).open(&file)?.set_len(10_000)?;
        let mut wanted = vec![0; 10_000];
        wanted[0] = b'x';
        holds("zeros after what was there", fs::read(file)? == wanted)
    }),
    ("cut of what is open to be read", |p| {
        refused(Errno::INVAL, ftruncate(open(&p.file("f", "")?, OFlags::RDONLY)?, 1))
    }),
    ("write of what is open to be read", |p| {
        refused(Errno::BADF, rustix::io::write(open(&p.file("f", "")?, OFlags::RDONLY)?, b"x"))
    }),
    ("read of what is open to be written", |p| {
        refused(Errno::BADF, rustix::io::read(open(&p.file("f", "x")?, OFlags::WRONLY)?, &mut [0; 1]))
    }),
    ("1 TiB on", far_away),
    ("read at the end and past it", |p| {
        let file = File::open(p.file("f", "abc")?)?;
        let mut back = [9; 8];
        same([3, 0, 0], [file.read_at(&mut back, 0)?, file.read_at(&mut back, 3)?, file.read_at(&mut back, 1 << 40)?])?;
        same(*b"abc\x09\x09\x09\x09\x09", back)
    }),
    ("written past the end", |p| {
        let file = OpenOptions::new().write(true).open(p.file("f", "a")?)?;
        file.write_all_at(b"z", 5)?;
        same("a\0\0\0\0z".to_owned(), fs::read_to_string(p.at("f"))?)
    }),
    ("the end by another handle", |p| {
        let mut one = File::open(p.file("f", "abc")?)?;
        same(3, one.seek(SeekFrom::End(0))?)?;
        OpenOptions::new().append(true).open(p.at("f"))?.write_all(b"def")?;
        same(6, one.seek(SeekFrom::End(0))?)
    }),
    ("two handles see each other", |p| {
        let handle = |path| OpenOptions::new().read(true).write(true).open(path);
        let (one, other) = (handle(p.file("f", "0000")?)?, handle(p.at("f"))?);
        let mut back = [0; 4];
        one.write_all_at(b"1", 0)?;
        other.write_all_at(b"2", 1)?;
        one.read_exact_at(&mut back, 0)?;
        same(*b"1200", back)?;
        other.read_exact_at(&mut back, 0)?;
        same(*b"1200", back)
    }),
    ("3 MiB and a little at an odd place", |p| {
        // More than a message of either protocol.
        let bytes: Vec<u8> = (0..3_145_777_u32).map(|n| (n % 253) as u8).collect();
        let file = OpenOptions::new().read(true).write(true).open(p.file("f", "")?)?;
        file.write_all_at(&bytes, 4093)?;
        let mut back = vec![0; bytes.len()];
        file.read_exact_at(&mut back, 4093)?;
        holds("the same bytes", back == bytes)
    }),
    ("written through", |p| {
        let file = OpenOptions::new().write(true).open(p.file("f", "")?)?;
        file.write_all_at(b"x", 0)?;
        file.sync_data()?;
        file.sync_all()?;
        Ok(File::open(&p.dir)?.sync_all()?)
    }),
    ("made to be read, open to be written", |p| {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
        let file = rustix::fs::open(p.at("f"), flags, rustix::fs::Mode::RUSR)?;
        same(1, rustix::io::write(&file, b"x")?)?;
        same(1, p.at("f").metadata()?.len())
    }),
    ("allocated", |p| {
        let file = open(&p.file("f", "x")?, OFlags::RDWR)?;
        let allocated = fallocate(&file, FallocateFlags::empty(), 0, 65_536);
        if !p.kind.is_complete() {
            return refused(Errno::OPNOTSUPP, allocated);
        }
        allocated?;
        same(65_536, p.at("f").metadata()?.len())
    }),
];

/// The flag is taken away from an open file: from then on a write goes where it is asked to. 9P2000.L has no message that
/// says so, and the server keeps what the file was opened with, so that guests and host can append to one file.
fn no_longer_append(p: &Place) -> Outcome {
    let file = open(&p.file("f", "0123")?, OFlags::WRONLY | OFlags::APPEND)?;
    rustix::io::write(&file, b"4")?;
    let flags = rustix::fs::fcntl_getfl(&file)?;
    rustix::fs::fcntl_setfl(&file, flags - OFlags::APPEND)?;
    rustix::io::pwrite(&file, b"x", 0)?;
    let wanted = if p.kind == Kind::Plan9 { "01234x" } else { "x1234" };
    same(wanted.to_owned(), fs::read_to_string(p.at("f"))?)
}

/// What was cut off does not come back.
fn cut_and_grown(p: &Place) -> Outcome {
    let file = OpenOptions::new().read(true).write(true).open(p.file("f", &"x".repeat(9000))?)?;
    for cut in [8999, 4097, 4096, 4095, 1, 0] {
        file.set_len(cut)?;
        file.set_len(9000)?;
        let mut wanted = vec![b'x'; cut as usize];
        wanted.resize(9000, 0);
        let mut back = vec![1; 9000];
        file.read_exact_at(&mut back, 0)?;
        holds(&format!("zeros after {cut} bytes"), back == wanted)?;
    }
    Ok(())
}

fn far_away(p: &Place) -> Outcome {
    let file = OpenOptions::new().read(true).write(true).open(p.file("f", "near")?)?;
    file.write_all_at(b"far", 1 << 40)?;
    let meta = file.metadata()?;
    same((1 << 40) + 3, meta.len())?;
    holds("little of it on disk", meta.blocks() < 4096)?;
    let mut back = [1; 3];
    file.read_exact_at(&mut back, 1 << 40)?;
    same(*b"far", back)?;
    // What an offset of 32 bits would have hit.
    file.read_exact_at(&mut back, 1 << 32)?;
    same([0; 3], back)?;
    file.read_exact_at(&mut back, 0)?;
    same(*b"nea", back)
}
