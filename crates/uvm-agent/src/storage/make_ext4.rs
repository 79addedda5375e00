//! An ext4 on a device that is empty.
//!
//! All that is not zero, and what has to be, is worked out in memory first; then it is written, the superblock last: what breaks
//! off leaves no file system, and at the beginning of the device nothing.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::{SystemTime, UNIX_EPOCH};

use mkext4::build::ImageWriter;
use mkext4::{FsBuilder, Options, RegionSink};
use rustix::rand::GetRandomFlags;

use crate::sys;

/// Of this size the maker of file systems makes all its blocks.
const BLOCK: u64 = 4096;
/// Blocks of a group.
const GROUP: u64 = 8 * BLOCK;
/// Bytes of what describes a group, without the feature 64bit.
const DESCRIPTOR: u64 = 32;
/// With less there is no room for a journal, which has 4 MiB at least.
const LEAST: u64 = 16 << 20;
/// What describes it is worked out in memory, of which this takes 150 MB.
const MOST: u64 = 1 << 40;
/// Written last, and the first block of it at the very last.
const BEGINNING: u64 = 1 << 20;

/// Makes an ext4 of all of a device whose size is given, and brings it to the disk.
pub(super) fn make(device: &File, bytes: u64) -> io::Result<()> {
    if !(LEAST..=MOST).contains(&bytes) {
        return Err(io::Error::other(format!("it has {bytes} bytes; from {LEAST} to {MOST} are possible")));
    }
    let mut uuid = [0; 16];
    rustix::rand::getrandom(&mut uuid, GetRandomFlags::empty())?;
    // Version 4, as random ones are.
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let image = Image::of(bytes / BLOCK * BLOCK, uuid, i64::try_from(now).unwrap_or_default())?;
    for (at, length) in image.zeros_needed() {
        sys::zero_out(device, at, length)?;
    }
    image.write(device, |at| at >= BEGINNING)?;
    device.sync_all()?;
    image.write(device, |at| at < BEGINNING && at != 0)?;
    device.sync_all()?;
    image.write(device, |at| at == 0)?;
    device.sync_all()
}

/// An empty file system, worked out.
#[derive(Debug, Default)]
struct Image {
    bytes: u64,
    /// What is not zero, by block.
    blocks: BTreeMap<u64, Vec<u8>>,
    /// Where it begins and how long it is.
    zeros: Vec<(u64, u64)>,
}

impl RegionSink for Image {
    fn data(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        // Whatever its pieces are, they are kept by block: what is written before what is decided by that.
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let within = at % BLOCK;
            let length = usize::try_from(BLOCK - within).unwrap_or(usize::MAX).min(rest.len());
            let (piece, after) = rest.split_at(length);
            let block = self.blocks.entry(at - within).or_insert_with(|| vec![0; BLOCK as usize]);
            let from = within as usize;
            block.get_mut(from..from + length).ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(piece);
            (at, rest) = (at + length as u64, after);
        }
        Ok(())
    }

    fn zeros(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.zeros.push((offset, len));
        Ok(())
    }
}

impl Image {
    fn of(bytes: u64, uuid: [u8; 16], now: i64) -> io::Result<Self> {
        let layout =
            FsBuilder::new(Options::new(bytes, uuid, now)).and_then(FsBuilder::seal).map_err(io::Error::other)?;
        let mut image = Self { bytes, ..Self::default() };
        layout.writer(&mut image).and_then(ImageWriter::finish).map_err(io::Error::other)?;
        Ok(image)
    }

    /// The zeros that belong to something: tables of inodes, bitmaps, the journal. What is free needs none.
    fn zeros_needed(&self) -> Vec<(u64, u64)> {
        let mut needed: Vec<(u64, u64)> = Vec::new();
        for (offset, length) in &self.zeros {
            let (mut at, end) = (offset / BLOCK, (offset + length).div_ceil(BLOCK).max(offset / BLOCK + 1));
            // Others are no part of it, but for what shares its first block or its last.
            let (first, last) = (at * BLOCK, (end - 1) * BLOCK);
            while at < end {
                let group = at / GROUP;
                let until = end.min((group + 1) * GROUP);
                self.allocated(group, at % GROUP, until - group * GROUP, |within| {
                    let block = (group * GROUP + within) * BLOCK;
                    match needed.last_mut() {
                        // A block that is not zero throughout is written whole.
                        _ if (block == first || block == last) && self.blocks.contains_key(&block) => {}
                        Some((from, length)) if *from + *length == block => *length += BLOCK,
                        _ => needed.push((block, BLOCK)),
                    }
                });
                at = until;
            }
        }
        needed
    }

    /// Hands on which blocks of a group are not free, of those from here to there.
    fn allocated(&self, group: u64, from: u64, to: u64, mut is_one: impl FnMut(u64)) {
        // The descriptors stand behind the superblock's block.
        let bitmap = self.number(BLOCK + group * DESCRIPTOR, 4) * BLOCK;
        // One that is all zero is none of those kept.
        let Some(bitmap) = self.blocks.get(&bitmap) else { return };
        let mut within = from;
        while within < to {
            let byte = bitmap.get((within / 8) as usize).copied().unwrap_or_default();
            if byte == 0 && within.is_multiple_of(8) {
                within += 8;
                continue;
            }
            if byte >> (within % 8) & 1 == 1 {
                is_one(within);
            }
            within += 1;
        }
    }

    /// A number, little endian, within one block.
    fn number(&self, at: u64, bytes: usize) -> u64 {
        let from = (at % BLOCK) as usize;
        let block = self.blocks.get(&(at - at % BLOCK)).map_or(&[][..], Vec::as_slice);
        block.iter().skip(from).take(bytes).rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    fn write(&self, device: &File, which: impl Fn(u64) -> bool) -> io::Result<()> {
        for (at, block) in self.blocks.iter().filter(|(at, _)| which(**at)) {
            let length = usize::try_from(self.bytes.saturating_sub(*at)).unwrap_or(usize::MAX).min(block.len());
            device.write_all_at(block.get(..length).unwrap_or_default(), *at)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// The work of the kernel, on files.
    fn write_zeros(file: &File, zeros: &[(u64, u64)]) {
        for (at, length) in zeros {
            file.write_all_at(&vec![0; *length as usize], *at).expect("written");
        }
    }

    /// On a disk whose middle is full of another's leavings: what is not written must be free.
    #[test]
    fn what_is_made_is_whole_whatever_was_there() {
        for mib in [LEAST >> 20, 17, 64, 200] {
            let file = tempfile::NamedTempFile::new().expect("a file");
            let bytes = mib << 20;
            for at in 0..mib {
                file.as_file().write_all_at(&vec![0xa5; 1 << 20], at << 20).expect("written");
            }
            let image = Image::of(bytes, [7; 16], 1_700_000_000).expect("made");
            let needed = image.zeros_needed();
            write_zeros(file.as_file(), &needed);
            image.write(file.as_file(), |_| true).expect("written");
            let checked =
                Command::new("e2fsck").env("PATH", "/usr/sbin:/sbin:/usr/bin").arg("-fn").arg(file.path()).output();
            let checked = checked.expect("e2fsck, which `cargo xtask ci` installs");
            let said = String::from_utf8_lossy(&checked.stdout);
            assert!(checked.status.success(), "{mib} MiB: {said}{}", String::from_utf8_lossy(&checked.stderr));
            // What is free is left as it is.
            let zeros: u64 = needed.iter().map(|(_, length)| length).sum();
            assert!(zeros + image.blocks.len() as u64 * BLOCK < bytes * 3 / 4, "{mib} MiB: {zeros}");
        }
    }

    #[test]
    fn a_disk_that_is_too_small_or_too_large_is_left_as_it_is() {
        let file = tempfile::tempfile().expect("a file");
        for bytes in [LEAST - 1, MOST + 1] {
            let error = make(&file, bytes).expect_err("impossible").to_string();
            assert!(error.contains(&format!("{bytes} bytes; from 16777216 to 1099511627776")), "{error}");
        }
    }

    /// The zeros of a disk as large as they come are looked for by group, not by block: else this would take minutes.
    #[test]
    fn a_large_disk_needs_zeros_for_its_tables_alone() {
        let image = Image::of(MOST, [7; 16], 0).expect("made");
        let zeros: u64 = image.zeros_needed().iter().map(|(_, length)| length).sum();
        // A table of inodes for each group, at 256 bytes for every 16 KiB, and the journal.
        assert!((MOST / 64 / 2..MOST / 64 * 2).contains(&zeros), "{zeros} bytes");
    }
}
