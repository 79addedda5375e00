//! An empty ext4, worked out in memory: what is not zero of it, and what has to be zero.

use std::collections::BTreeMap;
use std::io;

use mkext4::build::ImageWriter;
use mkext4::{FsBuilder, Options, RegionSink};

/// Of this size the maker of file systems makes all its blocks.
pub(super) const BLOCK: u64 = 4096;
/// Blocks of a group.
const GROUP: u64 = 8 * BLOCK;
/// Bytes of what describes a group, without the feature 64bit.
const DESCRIPTOR: u64 = 32;
/// The most that is written at a time.
const PIECE: usize = 1 << 20;

/// An empty file system, worked out.
#[derive(Debug, Default)]
pub(super) struct Image {
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
    /// Of so many bytes, which are whole blocks. What is said alike is worked out alike, to the last byte.
    pub(super) fn of(bytes: u64, uuid: [u8; 16], now: i64) -> io::Result<Self> {
        let layout =
            FsBuilder::new(Options::new(bytes, uuid, now)).and_then(FsBuilder::seal).map_err(io::Error::other)?;
        let mut image = Self::default();
        layout.writer(&mut image).and_then(ImageWriter::finish).map_err(io::Error::other)?;
        Ok(image)
    }

    /// The zeros that belong to something: tables of inodes, bitmaps, the journal. What is free needs none.
    pub(super) fn zeros_needed(&self) -> Vec<(u64, u64)> {
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

    /// The block at this place, if it is not zero.
    pub(super) fn block(&self, at: u64) -> Option<&[u8]> {
        self.blocks.get(&at).map(Vec::as_slice)
    }

    /// Whether this is what belongs there: a part of one block.
    pub(super) fn is_of(&self, at: u64, part: &[u8]) -> bool {
        let block = self.block(at / BLOCK * BLOCK);
        block.and_then(|block| block.get((at % BLOCK) as usize..)?.get(..part.len())) == Some(part)
    }

    /// Hands on what is not zero, but for the first block: what is adjacent together, as far as it goes into a piece.
    pub(super) fn pieces(&self, mut write: impl FnMut(&[u8], u64) -> io::Result<()>) -> io::Result<()> {
        let (mut piece, mut from) = (Vec::new(), 0);
        for (&at, block) in self.blocks.range(BLOCK..) {
            if !piece.is_empty() && (from + piece.len() as u64 != at || piece.len() + block.len() > PIECE) {
                write(&piece, from)?;
                piece.clear();
            }
            if piece.is_empty() {
                from = at;
            }
            piece.extend_from_slice(block);
        }
        if piece.is_empty() { Ok(()) } else { write(&piece, from) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_adjacent_is_written_together() {
        let mut image = Image::default();
        for at in (0..300).chain(400..402).chain([500]) {
            image.data(at * BLOCK, &[7; BLOCK as usize]).expect("kept");
        }
        let mut written = Vec::new();
        let write = |bytes: &[u8], at| {
            assert!(bytes.iter().all(|byte| *byte == 7));
            written.push((at / BLOCK, bytes.len() as u64 / BLOCK));
            Ok(())
        };
        image.pieces(write).expect("written");
        assert_eq!(written, [(1, 256), (257, 43), (400, 2), (500, 1)]);
    }

    /// The zeros of a disk as large as they come are looked for by group, not by block: else this would take minutes.
    #[test]
    fn a_large_disk_needs_zeros_for_its_tables_alone() {
        let image = Image::of(1 << 40, [7; 16], 0).expect("made");
        let zeros: u64 = image.zeros_needed().iter().map(|(_, length)| length).sum();
        // A table of inodes for each group, at 256 bytes for every 16 KiB, and the journal.
        assert!(((1 << 33)..(1 << 35)).contains(&zeros), "{zeros} bytes");
    }
}
