//! An ext4 on a device that is empty, or where making one has broken off.
//!
//! The first sector says for as long as it takes what is being made there. All that is written follows from that, to the last
//! byte: so whoever comes later can tell what was written of it from what somebody else has written since, and goes on. The
//! superblock comes last: what breaks off leaves no file system.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::FallocateFlags;
use rustix::rand::GetRandomFlags;

use super::empty;
use super::ext4_image::{BLOCK, Image};
use crate::sys;

/// With less there is no room for a journal, which has 4 MiB at least.
const LEAST: u64 = 16 << 20;
/// What describes it is worked out in memory, of which this takes 150 MB.
const MOST: u64 = 1 << 40;
/// What a device writes whole, or not at all.
const SECTOR: usize = empty::SECTOR;
/// Where the superblock stands, whose first sector is what a file system is known by.
const SUPERBLOCK: usize = 1024;
/// What the first sector begins with. Nothing else that is looked for is known by its like.
const MARK: &[u8; 32] = b"uvm: an ext4 is being made here\n";

/// What is written to.
trait Disk {
    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()>;
    fn zero(&self, at: u64, length: u64) -> io::Result<()>;
    /// All that was written is on the disk, before anything that is written later.
    fn sync(&self) -> io::Result<()>;
}

impl Disk for File {
    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.write_all_at(bytes, at)
    }

    fn zero(&self, at: u64, length: u64) -> io::Result<()> {
        // Of a device, the kernel makes a hole only where it reads as zeros then.
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if rustix::fs::fallocate(self, hole, at, length).is_ok() {
            return Ok(());
        }
        sys::zero_out(self, at, length)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_all()
    }
}

/// Makes an ext4 of all of a device whose size is given, and brings it to the disk. If the device holds something already, that
/// stays as it is, and where it stands is told.
pub(super) fn make_if_empty(device: &File, bytes: u64) -> io::Result<Option<u64>> {
    make_on(device, device, bytes)
}

/// Reads the one and writes to the other, which are the same but in tests.
fn make_on(device: &File, disk: &impl Disk, bytes: u64) -> io::Result<Option<u64>> {
    if let Some(begun) = Recipe::begun(device)?.filter(|begun| begun.bytes == bytes) {
        let (mark, image) = (begun.mark(), begun.image()?);
        let is_ours = |at, sector: &[u8]| (at == 0 && sector == mark) || image.is_of(at, sector);
        return match empty::first_content(device, bytes, is_ours)? {
            None => write(disk, &mark, &image).map(|()| None),
            content => Ok(content),
        };
    }
    if let Some(at) = empty::first_content(device, bytes, |_, _| false)? {
        return Ok(Some(at));
    }
    let recipe = Recipe::new(bytes)?;
    write(disk, &recipe.mark(), &recipe.image()?).map(|()| None)
}

/// After each step, what is there is empty, or has the mark and nothing but what belongs to it, or is a whole file system.
fn write(disk: &impl Disk, mark: &[u8], image: &Image) -> io::Result<()> {
    disk.write(mark, 0)?;
    disk.sync()?;
    for (at, length) in image.zeros_needed() {
        disk.zero(at, length)?;
    }
    image.pieces(|bytes, at| disk.write(bytes, at))?;
    // Of the first block, first what does not make it one of a file system.
    let first = image.block(0).unwrap_or_default();
    let (before, superblock) = first.split_at_checked(SUPERBLOCK).unwrap_or_default();
    let (head, rest) = superblock.split_at_checked(SECTOR).unwrap_or_default();
    disk.write(rest, (SUPERBLOCK + SECTOR) as u64)?;
    disk.sync()?;
    disk.write(head, SUPERBLOCK as u64)?;
    disk.sync()?;
    // The mark goes.
    disk.write(before, 0)?;
    disk.sync()
}

/// What decides each byte of a file system that is made.
#[derive(Debug)]
struct Recipe {
    uuid: [u8; 16],
    /// In seconds since 1970.
    now: u64,
    /// How large the device is.
    bytes: u64,
}

impl Recipe {
    fn new(bytes: u64) -> io::Result<Self> {
        let mut uuid = [0; 16];
        rustix::rand::getrandom(&mut uuid, GetRandomFlags::empty())?;
        // Version 4, as random ones are.
        uuid[6] = uuid[6] & 0x0f | 0x40;
        uuid[8] = uuid[8] & 0x3f | 0x80;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Ok(Self { uuid, now, bytes })
    }

    /// That of the file system whose making has broken off.
    fn begun(device: &File) -> io::Result<Option<Self>> {
        let mut mark = [0; SECTOR];
        match device.read_exact_at(&mut mark, 0) {
            Ok(()) => Ok(Self::of_mark(&mark)),
            // It has less.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// What the first sector is while it is made.
    fn mark(&self) -> [u8; SECTOR] {
        let said = [MARK.as_slice(), &self.uuid, &self.now.to_le_bytes(), &self.bytes.to_le_bytes()].concat();
        let mut mark = [0; SECTOR];
        mark.iter_mut().zip(said).for_each(|(byte, said)| *byte = said);
        mark
    }

    fn of_mark(mark: &[u8; SECTOR]) -> Option<Self> {
        let (uuid, said) = mark.strip_prefix(MARK)?.split_first_chunk()?;
        let (now, said) = said.split_first_chunk()?;
        let (bytes, _) = said.split_first_chunk()?;
        let recipe = Self { uuid: *uuid, now: u64::from_le_bytes(*now), bytes: u64::from_le_bytes(*bytes) };
        // What else stands there is somebody's.
        (recipe.mark() == *mark).then_some(recipe)
    }

    fn image(&self) -> io::Result<Image> {
        let bytes = self.bytes;
        if !(LEAST..=MOST).contains(&bytes) {
            return Err(io::Error::other(format!("it has {bytes} bytes; from {LEAST} to {MOST} are possible")));
        }
        Image::of(bytes / BLOCK * BLOCK, self.uuid, i64::try_from(self.now).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::path::Path;
    use std::process::Command;

    use super::*;

    /// A disk that ends after so many steps. Of what was written and not synced then, some is on it and some is not.
    struct Fragile<'a> {
        file: &'a File,
        left: Cell<u32>,
        unsynced: RefCell<Vec<(u64, Vec<u8>)>>,
        random: Cell<u64>,
    }

    impl<'a> Fragile<'a> {
        fn new(file: &'a File, left: u32) -> Self {
            let random = Cell::new(0x9e37_79b9_7f4a_7c15 ^ u64::from(left));
            Self { file, left: Cell::new(left), unsynced: RefCell::default(), random }
        }

        fn step(&self) -> io::Result<()> {
            if let Some(left) = self.left.get().checked_sub(1) {
                self.left.set(left);
                return Ok(());
            }
            self.flush(|| {
                let mut random = self.random.get();
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                self.random.set(random);
                random.is_multiple_of(2)
            });
            Err(io::Error::other("the disk has gone"))
        }

        fn flush(&self, is_kept: impl Fn() -> bool) {
            for (at, sector) in self.unsynced.take() {
                if is_kept() {
                    self.file.write_all_at(&sector, at).expect("written");
                }
            }
        }
    }

    impl Disk for Fragile<'_> {
        fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
            self.step()?;
            let sectors = bytes.chunks(SECTOR).zip((at..).step_by(SECTOR));
            self.unsynced.borrow_mut().extend(sectors.map(|(sector, at)| (at, sector.to_owned())));
            Ok(())
        }

        fn zero(&self, at: u64, length: u64) -> io::Result<()> {
            self.write(&vec![0; length as usize], at)
        }

        fn sync(&self) -> io::Result<()> {
            self.step()?;
            self.flush(|| true);
            Ok(())
        }
    }

    /// A device that is empty where that is looked for, with another's leavings between, as far as so many MiB.
    fn device(bytes: u64, leavings: usize) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a file");
        file.as_file().set_len(bytes).expect("room");
        for at in (0..bytes).step_by(1 << 20).take(leavings) {
            file.as_file().write_all_at(&vec![0xa5; 1 << 20], at).expect("written");
        }
        for (from, to) in empty::looked_at(bytes) {
            file.as_file().write_all_at(&vec![0; (to - from) as usize], from).expect("written");
        }
        file
    }

    fn is_whole(path: &Path) -> Result<(), String> {
        let checked = Command::new("e2fsck").env("PATH", "/usr/sbin:/sbin:/usr/bin").arg("-fn").arg(path).output();
        let checked = checked.expect("e2fsck, which `cargo xtask ci` installs");
        let said = || String::from_utf8_lossy(&[checked.stdout.as_slice(), &checked.stderr].concat()).into_owned();
        if checked.status.success() { Ok(()) } else { Err(said()) }
    }

    /// What is not written must be free, and what is free is left as it is.
    #[test]
    fn what_is_made_is_whole_whatever_was_there() {
        for mib in [LEAST >> 20, 17, 64, 200] {
            let file = device(mib << 20, usize::MAX);
            let disk = Fragile::new(file.as_file(), u32::MAX);
            assert_eq!(make_on(file.as_file(), &disk, mib << 20).expect("made"), None);
            is_whole(file.path()).unwrap_or_else(|said| panic!("{mib} MiB: {said}"));
            let mut first = [1; 1024];
            file.as_file().read_exact_at(&mut first, 0).expect("read");
            assert_eq!(first, [0; 1024], "the mark stays");
            let content = std::fs::read(file.path()).expect("read");
            let left = content.chunks(4096).filter(|block| block.iter().all(|byte| *byte == 0xa5)).count();
            assert!(left * 4096 > content.len() / 4, "{mib} MiB: {left} blocks are left as they were");
        }
    }

    /// With a second group, whose copy of the superblock is one of the places that are looked at.
    #[test]
    fn what_breaks_off_at_any_step_is_gone_on_with_or_is_whole() {
        let bytes = 130 << 20;
        let whole = device(bytes, 16);
        let all = Fragile::new(whole.as_file(), u32::MAX);
        make_on(whole.as_file(), &all, bytes).expect("made");
        let steps = u32::MAX - all.left.get();
        assert!(steps > 10, "{steps} steps");
        for step in 0..steps {
            let file = device(bytes, 16);
            // And again, elsewhere.
            for left in [step, (step * 7 + 3) % steps, u32::MAX] {
                let mut magic = [0; 2];
                file.as_file().read_exact_at(&mut magic, 1080).expect("read");
                if magic != [0; 2] {
                    break;
                }
                match make_on(file.as_file(), &Fragile::new(file.as_file(), left), bytes) {
                    Ok(content) => assert_eq!(content, None, "after {step} steps"),
                    Err(e) => assert_eq!(e.to_string(), "the disk has gone"),
                }
            }
            is_whole(file.path()).unwrap_or_else(|said| panic!("after {step} steps: {said}"));
        }
    }

    #[test]
    fn what_somebody_has_written_since_it_broke_off_is_nobody_s_room() {
        let bytes = 130 << 20;
        // In the first sector, beside it, behind, in a copy of the superblock, at the end; and a disk of another size.
        for at in [100, 511, 600, 5000, (1 << 20) + 5, (128 << 20) + 2000, bytes - 1, bytes] {
            let file = device(bytes, 16);
            make_on(file.as_file(), &Fragile::new(file.as_file(), 8), bytes).expect_err("it breaks off");
            let length = if at == bytes { bytes + 4096 } else { bytes };
            if at < bytes {
                file.as_file().write_all_at(b"x", at).expect("written");
            } else {
                file.as_file().set_len(length).expect("room");
            }
            let before = std::fs::read(file.path()).expect("read");
            let content = make_on(file.as_file(), &Fragile::new(file.as_file(), u32::MAX), length).expect("read");
            assert_eq!(content, Some(if matches!(at, 100 | 511) || at == bytes { 0 } else { at }), "{at}");
            assert!(std::fs::read(file.path()).expect("read") == before, "{at}: it was written to");
        }
    }

    #[test]
    fn a_disk_that_is_too_small_or_too_large_is_left_as_it_is() {
        let file = tempfile::tempfile().expect("a file");
        for bytes in [LEAST - 1, MOST + 1] {
            file.set_len(bytes).expect("room");
            let error = make_if_empty(&file, bytes).expect_err("impossible").to_string();
            assert!(error.contains(&format!("{bytes} bytes; from 16777216 to 1099511627776")), "{error}");
        }
    }
}
