//! What a file system of a guest has to do, done in a directory of it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, RenameFlags, XattrFlags, renameat_with};
use rustix::io::Errno;

fn check(holds: bool, what: &str) -> io::Result<()> {
    if holds { Ok(()) } else { Err(io::Error::other(what.to_owned())) }
}

/// Does it, and cleans up. An error names what does not hold.
pub(crate) fn exercise(dir: &Path) -> io::Result<()> {
    for (name, part) in PARTS {
        let place = dir.join(name);
        fs::create_dir(&place)?;
        part(&place).map_err(|e| io::Error::new(e.kind(), format!("{name}: {e}")))?;
        fs::remove_dir_all(&place)?;
    }
    println!("{} parts hold", PARTS.len());
    Ok(())
}

type Part = fn(&Path) -> io::Result<()>;

const PARTS: &[(&str, Part)] = &[
    ("content", content),
    ("unlinked", unlinked),
    ("renames", renames),
    ("attributes", attributes),
    ("modes", modes),
    ("holes", holes),
    ("many", many),
];

fn content(dir: &Path) -> io::Result<()> {
    let path = dir.join("f");
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    let block: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
    file.write_all(&block)?;
    file.write_all_at(b"middle", 50_000)?;
    file.seek(SeekFrom::Start(0))?;
    let mut back = Vec::new();
    file.read_to_end(&mut back)?;
    check(
        back.len() == block.len() && &back[50_000..50_006] == b"middle" && back[..50_000] == block[..50_000],
        "read back",
    )?;
    let mut appended = OpenOptions::new().append(true).open(&path)?;
    appended.write_all(b"end")?;
    check(file.metadata()?.len() == 100_003, "appended")?;
    file.set_len(10)?;
    check(fs::read(&path)? == block[..10], "cut")?;
    file.sync_all()?;
    let exists = OpenOptions::new().write(true).create_new(true).open(&path);
    check(exists.is_err_and(|e| e.kind() == io::ErrorKind::AlreadyExists), "made once")
}

fn unlinked(dir: &Path) -> io::Result<()> {
    let path = dir.join("f");
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    file.write_all(b"still here")?;
    fs::remove_file(&path)?;
    check(!path.exists() && file.metadata()?.nlink() == 0, "it is gone by name")?;
    let mut back = [0; 10];
    file.read_exact_at(&mut back, 0)?;
    check(&back == b"still here", "and there by handle")?;
    file.set_len(3)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    check(file.metadata()?.len() == 3, "and changed by handle")
}

fn renames(dir: &Path) -> io::Result<()> {
    let at = |name: &str| dir.join(name);
    fs::write(at("a"), "a")?;
    fs::write(at("b"), "b")?;
    fs::create_dir(at("d"))?;
    let handle = File::open(dir)?;
    let refused = renameat_with(&handle, "a", &handle, "b", RenameFlags::NOREPLACE);
    check(refused == Err(Errno::EXIST), "not over another, if so asked")?;
    renameat_with(&handle, "a", &handle, "b", RenameFlags::EXCHANGE)?;
    check(fs::read(at("a"))? == b"b" && fs::read(at("b"))? == b"a", "exchanged")?;
    fs::rename(at("a"), at("d/a"))?;
    fs::rename(at("b"), at("d/a"))?;
    check(fs::read(at("d/a"))? == b"a" && !at("a").exists(), "over another, into a directory")?;
    fs::hard_link(at("d/a"), at("link"))?;
    check(at("link").metadata()?.nlink() == 2, "two names")?;
    std::os::unix::fs::symlink("d/a", at("symlink"))?;
    check(fs::read(at("symlink"))? == b"a", "by way of a link")
}

fn attributes(dir: &Path) -> io::Result<()> {
    let path = dir.join("f");
    fs::write(&path, "")?;
    rustix::fs::setxattr(&path, "user.note", b"seen", XattrFlags::CREATE)?;
    let mut value = [0; 64];
    let length = rustix::fs::getxattr(&path, "user.note", &mut value)?;
    check(&value[..length] == b"seen", "an attribute")?;
    let length = rustix::fs::listxattr(&path, &mut value)?;
    check(&value[..length] == b"user.note\0", "its name")?;
    rustix::fs::removexattr(&path, "user.note")?;
    check(rustix::fs::getxattr(&path, "user.note", &mut value) == Err(Errno::NODATA), "removed")?;
    let refused = rustix::fs::setxattr(&path, "trusted.note", b"x", XattrFlags::empty());
    check(refused == Err(Errno::OPNOTSUPP), "none that gives rights")
}

fn modes(dir: &Path) -> io::Result<()> {
    let path = dir.join("f");
    fs::write(&path, "")?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o6755))?;
    check(path.metadata()?.permissions().mode() & 0o7777 == 0o755, "no set-id bits")?;
    let device = rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.join("null"),
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::from_raw_mode(0o666),
        rustix::fs::makedev(1, 3),
    );
    check(device == Err(Errno::PERM), "no devices")
}

fn holes(dir: &Path) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(dir.join("f"))?;
    file.write_all_at(b"far", 1 << 40)?;
    check(file.metadata()?.len() == (1 << 40) + 3, "1 TiB on")?;
    let mut back = [1; 3];
    file.read_exact_at(&mut back, 1 << 30)?;
    check(back == [0; 3], "a hole")?;
    file.set_len(0)?;
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 65_536)?;
    check(file.metadata()?.len() == 65_536, "allocated")
}

fn many(dir: &Path) -> io::Result<()> {
    const COUNT: usize = 2000;
    for number in 0..COUNT {
        File::create(dir.join(format!("file-{number}")))?;
    }
    let listed = fs::read_dir(dir)?.collect::<Result<Vec<_>, _>>()?;
    check(listed.len() == COUNT, "listed")?;
    let long = dir.join("n".repeat(255));
    fs::write(&long, "")?;
    check(long.exists(), "a long name")?;
    let longer = fs::write(dir.join("n".repeat(256)), "");
    check(longer.is_err(), "a longer one")
}
