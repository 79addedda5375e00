//! The image of a layer: which file it is, and how much of it can be mapped into a guest as memory.
//!
//! As with disks, the format is what the name says; only raw images and fixed VHDs are plain data. A guest's driver takes
//! memory in whole pieces of 2 MiB, and QEMU maps nothing beyond a file's end: what is in the last, broken piece is not seen.
//! So that piece may hold nothing that the file system uses, which its superblock tells.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use uvm_platform::PlatformError;
use uvm_platform::requests::ScsiKind;

use crate::disk_image::{self, DiskFormat};
use crate::root_disk::ALIGNMENT;

/// An image, opened to be read.
#[derive(Debug)]
pub(crate) struct LayerImage {
    pub(crate) file: File,
    pub(crate) identity: Identity,
    /// How many bytes of it are mapped, or why none can be.
    pub(crate) mapped: Result<u64, String>,
}

/// Which file it is, whatever its name, and as it was when it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl Identity {
    fn of(meta: &Metadata) -> Self {
        Self { device: meta.dev(), inode: meta.ino(), bytes: meta.len(), modified: (meta.mtime(), meta.mtime_nsec()) }
    }
}

/// Opens an image. Blocking.
pub(crate) fn open(path: &Path) -> Result<LayerImage, PlatformError> {
    let image = disk_image::open(path, ScsiKind::VirtualDisk, None, true)?;
    let look = || {
        let meta = image.file.metadata()?;
        let mapped = match image.format {
            _ if image.is_block_device => Err("it is a block device".to_owned()),
            DiskFormat::Raw => mapped(&image.file, meta.len())?,
            DiskFormat::FixedVhd { bytes } => mapped(&image.file, bytes)?,
            other @ (DiskFormat::DynamicVhd | DiskFormat::Vhdx | DiskFormat::Qcow2) => {
                Err(format!("it is no plain data: its format is {}", other.driver()))
            }
        };
        Ok((Identity::of(&meta), mapped))
    };
    let (identity, mapped) = look().map_err(|e: io::Error| PlatformError::BadInput {
        what: "layer",
        value: path.display().to_string(),
        why: e.to_string(),
    })?;
    Ok(LayerImage { file: image.file, identity, mapped })
}

fn mapped(file: &File, data_bytes: u64) -> io::Result<Result<u64, String>> {
    let whole = data_bytes - data_bytes % ALIGNMENT;
    if whole == data_bytes && whole > 0 {
        return Ok(Ok(whole));
    }
    Ok(match filesystem_bytes(file)? {
        Some(used) if used <= whole => Ok(whole),
        Some(used) => Err(format!(
            "its file system fills {used} bytes of {data_bytes}, of which whole 2 MiB can be mapped: {whole}"
        )),
        None => Err(format!(
            "its {data_bytes} bytes are not whole 2 MiB, and what its file system fills is known of ext4 and erofs only"
        )),
    })
}

/// How much the file system fills that begins a file; `None`: it is none of those known here. Offsets of the published
/// formats; numbers are little endian.
fn filesystem_bytes(file: &File) -> io::Result<Option<u64>> {
    let mut superblock = [0; SUPERBLOCK_BYTES];
    match file.read_exact_at(&mut superblock, SUPERBLOCK_AT) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e),
    }
    Ok(ext4_bytes(&superblock).or_else(|| erofs_bytes(&superblock)))
}

/// Both have it there.
const SUPERBLOCK_AT: u64 = 1024;
/// As much of it as is looked at.
const SUPERBLOCK_BYTES: usize = 0x160;

fn ext4_bytes(superblock: &[u8]) -> Option<u64> {
    if number(superblock, 0x38, 2)? != 0xef53 {
        return None;
    }
    let has_high_half = number(superblock, 0x60, 4)? & 0x80 != 0;
    let high = if has_high_half { number(superblock, 0x150, 4)? } else { 0 };
    let blocks = number(superblock, 0x4, 4)? | high << 32;
    let log = number(superblock, 0x18, 4)?;
    // A number that no file system has is one that fits nowhere.
    Some(shifted(blocks, log.saturating_add(10)))
}

fn erofs_bytes(superblock: &[u8]) -> Option<u64> {
    if number(superblock, 0, 4)? != 0xe0f5_e1e2 {
        return None;
    }
    Some(shifted(number(superblock, 36, 4)?, number(superblock, 12, 1)?))
}

fn shifted(blocks: u64, log: u64) -> u64 {
    u32::try_from(log).ok().and_then(|log| 1_u64.checked_shl(log)?.checked_mul(blocks)).unwrap_or(u64::MAX)
}

fn number(bytes: &[u8], at: usize, length: usize) -> Option<u64> {
    let digits = bytes.get(at..at + length)?;
    Some(digits.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// An image of zeros, with these bytes at these offsets.
    fn image(name: &str, bytes: u64, content: &[(u64, &[u8])]) -> (tempfile::TempDir, LayerImage) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(name);
        let file = File::create(&path).expect("made");
        file.set_len(bytes).expect("as long");
        for (at, bytes) in content {
            file.write_all_at(bytes, *at).expect("written");
        }
        let image = open(&path).expect("opened");
        (dir, image)
    }

    fn ext4(blocks: u32, high: u32, log: u32, incompatible: u32) -> [u8; SUPERBLOCK_BYTES] {
        let mut superblock = [0; SUPERBLOCK_BYTES];
        superblock[0x38..0x3a].copy_from_slice(&[0x53, 0xef]);
        for (at, value) in [(0x4, blocks), (0x18, log), (0x60, incompatible), (0x150, high)] {
            superblock[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        superblock
    }

    fn erofs(blocks: u32) -> [u8; SUPERBLOCK_BYTES] {
        let mut superblock = [0; SUPERBLOCK_BYTES];
        superblock[..4].copy_from_slice(&[0xe2, 0xe1, 0xf5, 0xe0]);
        superblock[12] = 12;
        superblock[36..40].copy_from_slice(&blocks.to_le_bytes());
        superblock
    }

    #[test]
    fn whole_pieces_are_mapped_and_a_broken_one_if_nothing_is_in_it() {
        let mapped = |name: &str, bytes: u64, superblock: &[u8]| image(name, bytes, &[(1024, superblock)]).1.mapped;
        assert_eq!(mapped("a.img", 4 * MIB, &[]), Ok(4 * MIB), "whatever is in it");
        assert_eq!(mapped("a.img", 5 * MIB, &ext4(4096, 0, 0, 0)), Ok(4 * MIB));
        assert_eq!(mapped("a.img", 5 * MIB, &ext4(1024, 7, 2, 0)), Ok(4 * MIB), "no high half without its feature");
        assert_eq!(mapped("a.img", 5 * MIB, &erofs(1024)), Ok(4 * MIB));
        for (superblock, why) in [
            (ext4(4097, 0, 0, 0), "its file system fills 4195328 bytes of 5242880"),
            (ext4(1024, 1, 2, 0x80), "fills 17592190238720 bytes"),
            (ext4(u32::MAX, u32::MAX, u32::MAX, 0x80), "fills 18446744073709551615 bytes"),
            (erofs(1025), "fills 4198400 bytes"),
            ([0; SUPERBLOCK_BYTES], "not whole 2 MiB"),
        ] {
            let said = mapped("a.img", 5 * MIB, &superblock).expect_err(why);
            assert!(said.contains(why), "{said}");
        }
        for (bytes, why) in [(0, "its 0 bytes"), (1030, "its 1030 bytes"), (MIB, "its 1048576 bytes")] {
            let said = mapped("a.img", bytes, &[]).expect_err(why);
            assert!(said.contains(why) || bytes == 1030, "{said}");
        }
    }

    #[test]
    fn a_vhd_s_footer_is_no_data_and_what_is_no_plain_data_is_not_mapped() {
        let mut footer = [0; 512];
        footer[..8].copy_from_slice(b"conectix");
        footer[48..56].copy_from_slice(&(4 * MIB).to_be_bytes());
        footer[63] = 2;
        assert_eq!(image("a.vhd", 4 * MIB + 512, &[(4 * MIB, &footer)]).1.mapped, Ok(4 * MIB));
        footer[63] = 3;
        let dynamic = image("a.vhd", 4 * MIB + 512, &[(4 * MIB, &footer), (0, &footer)]).1.mapped;
        assert_eq!(dynamic, Err("it is no plain data: its format is vpc".into()));
        let qcow2 = image("a.qcow2", 4 * MIB, &[(0, b"QFI\xfb\0\0\0\x03")]).1.mapped;
        assert_eq!(qcow2, Err("it is no plain data: its format is qcow2".into()));
    }

    #[test]
    fn a_file_is_the_same_by_any_name_until_it_is_changed() {
        let (dir, image) = image("a.img", 2 * MIB, &[]);
        let other = dir.path().join("b.img");
        fs::hard_link(dir.path().join("a.img"), &other).expect("linked");
        assert_eq!(open(&other).expect("opened").identity, image.identity);
        fs::copy(&other, dir.path().join("c.img")).expect("copied");
        assert_ne!(open(&dir.path().join("c.img")).expect("opened").identity, image.identity);
        let file = File::options().write(true).open(&other).expect("opened");
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("set");
        assert_ne!(open(&other).expect("opened").identity, image.identity);
    }

    proptest::proptest! {
        /// Whatever is where a superblock should be: no more is mapped than is there, in whole pieces.
        #[test]
        fn any_superblock_is_judged(
            mut bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), SUPERBLOCK_BYTES),
            magic in 0..3,
            length in 0..8 * MIB,
        ) {
            match magic {
                1 => bytes[0x38..0x3a].copy_from_slice(&[0x53, 0xef]),
                2 => bytes[..4].copy_from_slice(&[0xe2, 0xe1, 0xf5, 0xe0]),
                _ => {}
            }
            let content: &[(u64, &[u8])] = if length > 2048 { &[(1024, &bytes)] } else { &[] };
            if let Ok(mapped) = image("a.img", length, content).1.mapped {
                proptest::prop_assert!(mapped > 0 && mapped <= length && mapped.is_multiple_of(ALIGNMENT));
            }
        }
    }
}
