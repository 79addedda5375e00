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

/// The first place found that holds something, if there is one.
pub(super) fn first_content(device: &File, bytes: u64) -> io::Result<Option<u64>> {
    if let Some(at) = content_in(device, 0, BEGINNING.min(bytes))? {
        return Ok(Some(at));
    }
    if let Some(at) = content_in(device, bytes.saturating_sub(END), bytes)? {
        return Ok(Some(at));
    }
    let step = bytes / SAMPLES;
    let samples = (1..SAMPLES).map(|number| (number * step, 4096));
    let copies = COPIES.iter().map(|copy| (*copy, PIECE as u64));
    for (at, length) in copies.chain(samples) {
        let at = at / 4096 * 4096;
        if let Some(at) = content_in(device, at.min(bytes), at.saturating_add(length).min(bytes))? {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

fn content_in(device: &File, from: u64, to: u64) -> io::Result<Option<u64>> {
    let mut buffer = vec![0; PIECE];
    let mut at = from;
    while at < to {
        let length = usize::try_from(to - at).unwrap_or(PIECE).min(PIECE);
        let piece = buffer.get_mut(..length).unwrap_or_default();
        device.read_exact_at(piece, at)?;
        if let Some(offset) = piece.iter().position(|byte| *byte != 0) {
            return Ok(Some(at + offset as u64));
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
        first_content(&file, bytes).expect("read")
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
