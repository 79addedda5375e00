//! Whether a device is empty: nobody's data may be taken for room to make a file system in.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// What is read at a time.
const PIECE: usize = 64 * 1024;
/// Where tables of partitions, members of volume groups and arrays, encrypted containers and file systems have what they are
/// known by: at the beginning, and some at the end.
const BEGINNING: u64 = 2 << 20;
const END: u64 = 1 << 20;
/// Copies of what stands at the beginning, which whoever cleared that may have left: of ext4 with blocks of 1 and of 4 KiB, of
/// btrfs.
const COPIES: [u64; 4] = [8193 << 10, 64 << 20, 128 << 20, 256 << 30];
/// Places between, spread evenly, for data that stands by itself.
const SAMPLES: u64 = 1024;

/// What is compared with what may be there.
pub(super) const SECTOR: usize = 512;

/// The first place found that holds something, if there is one. Sectors that `is_ours` knows, by where they are, are nothing.
pub(super) fn first_content(
    device: &File,
    bytes: u64,
    is_ours: impl Fn(u64, &[u8]) -> bool,
) -> io::Result<Option<u64>> {
    for (from, to) in looked_at(bytes) {
        if let Some(at) = content_in(device, from, to, &is_ours)? {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// Where is looked, in this order: from here to there.
pub(super) fn looked_at(bytes: u64) -> impl Iterator<Item = (u64, u64)> {
    let step = bytes / SAMPLES;
    let samples = (1..SAMPLES).map(move |number| (number * step, 4096));
    let copies = COPIES.iter().map(|copy| (*copy, PIECE as u64));
    let between = copies.chain(samples).map(|(at, length)| (at / 4096 * 4096, length));
    let all = [(0, BEGINNING), (bytes.saturating_sub(END), END)].into_iter().chain(between);
    all.map(move |(at, length)| (at.min(bytes), at.saturating_add(length).min(bytes)))
}

fn content_in(device: &File, from: u64, to: u64, is_ours: impl Fn(u64, &[u8]) -> bool) -> io::Result<Option<u64>> {
    let mut buffer = vec![0; PIECE];
    let mut at = from;
    while at < to {
        let length = usize::try_from(to - at).unwrap_or(PIECE).min(PIECE);
        let piece = buffer.get_mut(..length).unwrap_or_default();
        device.read_exact_at(piece, at)?;
        let mut sectors = piece.chunks(SECTOR).zip((at..).step_by(SECTOR));
        let content = |(sector, at): (&[u8], u64)| {
            let offset = sector.iter().position(|byte| *byte != 0)?;
            (!is_ours(at, sector)).then_some(at + offset as u64)
        };
        if let Some(at) = sectors.find_map(content) {
            return Ok(Some(at));
        }
        at += length as u64;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(bytes: u64, content: &[u64]) -> Option<u64> {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(bytes).expect("room");
        for at in content {
            file.write_all_at(&[1], *at).expect("written");
        }
        first_content(&file, bytes, |_, _| false).expect("read")
    }

    #[test]
    fn what_may_be_there_is_nothing() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(16 << 20).expect("room");
        for at in [4096, 4608, 4700] {
            file.write_all_at(&[1], at).expect("written");
        }
        let found = |ours: &[u64]| first_content(&file, 16 << 20, |at, _| ours.contains(&at)).expect("read");
        assert_eq!((found(&[]), found(&[4096]), found(&[4608])), (Some(4096), Some(4608), Some(4096)));
        assert_eq!(found(&[4096, 4608]), None);
    }

    #[test]
    fn what_is_known_by_its_place_is_found() {
        const GIB: u64 = 1 << 30;
        assert_eq!(found(GIB, &[]), None);
        assert_eq!(found(0, &[]), None);
        assert_eq!(found(5000, &[]), None);
        assert_eq!(found(5000, &[4999]), Some(4999));
        let backup = (8193 << 10) + 0x38;
        // A label, ext4, the end of a page of swap, an ISO, LVM, btrfs and two copies of superblocks, arrays at the end.
        for at in [0, 510, 1080, 4086, 0x8001, 0x218, 0x1_0040, backup, (64 << 20) + 64, GIB - 65_536, GIB - 1] {
            assert_eq!(found(GIB, &[at]), Some(at), "{at:#x}");
        }
        // Data that begins somewhere, and is large.
        let large: Vec<u64> = (0..1024).map(|page| GIB / 3 + page * 4096).collect();
        assert!(found(GIB, &large).is_some());
    }
}
