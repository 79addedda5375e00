//! A root file system in a disk image, which the guest sees as persistent memory.
//!
//! QEMU maps the image, so all VMs that boot from one share its pages. What cannot be mapped as it is (its size is no
//! multiple of [`ALIGNMENT`], or QEMU's user may not read it) is copied into a temporary file that has no name.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::Mode;
use uvm_platform::PlatformError;

use crate::boot_file;
use crate::spawn::RunAs;
use crate::vhd::{Footer, Kind};

/// What a guest's driver for persistent memory takes in one piece.
pub(crate) const ALIGNMENT: u64 = 2 << 20;

/// An open image. QEMU opens `/proc/self/fd/N` of it again.
#[derive(Debug)]
pub(crate) struct RootDisk {
    pub(crate) fd: OwnedFd,
    /// How much of it is mapped: a multiple of [`ALIGNMENT`].
    pub(crate) bytes: u64,
}

/// Opens a raw image, or a fixed VHD.
pub(crate) fn open(path: &Path, run_as: Option<&RunAs>) -> Result<RootDisk, PlatformError> {
    let (file, file_bytes) = boot_file::open(path).map_err(|why| bad(path, why))?;
    let data_bytes = data_bytes(&file, file_bytes).map_err(|why| bad(path, why))?;
    let mapped = usable(file, data_bytes, run_as).map_err(|e| bad(path, e.to_string()))?;
    Ok(mapped)
}

fn bad(path: &Path, why: String) -> PlatformError {
    PlatformError::BadInput { what: "root disk", value: path.display().to_string(), why }
}

/// A VHD has a footer, which is no data.
fn data_bytes(file: &File, file_bytes: u64) -> Result<u64, String> {
    let Some(footer) = Footer::at_end(file, file_bytes)? else { return Ok(file_bytes) };
    match footer.kind {
        Kind::Fixed => footer.fixed_bytes(file_bytes),
        Kind::Dynamic => {
            Err("it is a dynamic VHD; a fixed VHD or a raw image is needed (qemu-img convert -O raw)".into())
        }
        Kind::Differencing => Err("it is a differencing VHD; a fixed VHD or a raw image is needed".into()),
        Kind::Unknown(kind) => Err(format!("it is a VHD of unknown type {kind}; a fixed VHD or a raw image is needed")),
    }
}

fn usable(mut file: File, data_bytes: u64, run_as: Option<&RunAs>) -> io::Result<RootDisk> {
    let is_readable = run_as.is_none() || file.metadata()?.mode() & 0o004 != 0;
    if is_readable && data_bytes.is_multiple_of(ALIGNMENT) {
        return Ok(RootDisk { fd: file.into(), bytes: data_bytes });
    }
    let bytes = data_bytes.next_multiple_of(ALIGNMENT);
    tracing::debug!(data_bytes, is_readable, "copying a root disk that cannot be mapped as it is");
    let mut copy = tempfile::tempfile()?;
    file.rewind()?;
    io::copy(&mut file.take(data_bytes), &mut copy)?;
    copy.set_len(bytes)?;
    rustix::fs::fchmod(copy.as_fd(), Mode::from_raw_mode(0o444))?;
    Ok(RootDisk { fd: copy.into(), bytes })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn footer(kind: u32, size: u64) -> Vec<u8> {
        let mut footer = vec![0; 512];
        footer[..8].copy_from_slice(b"conectix");
        footer[48..56].copy_from_slice(&size.to_be_bytes());
        footer[60..64].copy_from_slice(&kind.to_be_bytes());
        footer
    }

    fn image(dir: &Path, data: usize, footer: &[u8]) -> std::path::PathBuf {
        let path = dir.join("image");
        let mut bytes = vec![0; data];
        bytes[data - 3..].copy_from_slice(b"end");
        bytes.extend(footer);
        fs::write(&path, bytes).expect("written");
        path
    }

    fn is_copy(disk: &RootDisk) -> bool {
        let link = fs::read_link(format!("/proc/self/fd/{}", disk.fd.as_raw_fd())).expect("open");
        !link.ends_with("image")
    }

    #[test]
    fn whole_pieces_are_mapped_as_they_are_and_a_footer_is_no_data() {
        let dir = tempfile::tempdir().expect("a directory");
        let size = 2 * ALIGNMENT;
        for footer in [vec![], footer(2, size)] {
            let disk = open(&image(dir.path(), size as usize, &footer), None).expect("usable");
            assert_eq!((disk.bytes, is_copy(&disk)), (size, false));
        }
    }

    #[test]
    fn odd_sizes_and_private_images_are_copied_and_padded() {
        let dir = tempfile::tempdir().expect("a directory");
        let odd = ALIGNMENT as usize + 4096;
        let path = image(dir.path(), odd, &footer(2, odd as u64));
        let disk = open(&path, None).expect("usable");
        assert_eq!((disk.bytes, is_copy(&disk)), (2 * ALIGNMENT, true));
        let copy = fs::read(format!("/proc/self/fd/{}", disk.fd.as_raw_fd())).expect("opens again");
        assert_eq!(copy.len() as u64, disk.bytes);
        assert!(copy[..odd].ends_with(b"end") && copy[odd..].iter().all(|byte| *byte == 0));

        let path = image(dir.path(), ALIGNMENT as usize, &[]);
        let user = RunAs { uid: 65_534, gid: 65_534, groups: vec![] };
        for (mode, copied) in [(0o600, true), (0o644, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("changed");
            let disk = open(&path, Some(&user)).expect("usable");
            assert_eq!((disk.bytes, is_copy(&disk)), (ALIGNMENT, copied), "{mode:o}");
        }
    }

    #[test]
    fn images_that_hold_no_plain_data_are_named_with_the_way_out() {
        let dir = tempfile::tempdir().expect("a directory");
        let refused = |footer: &[u8]| {
            let path = image(dir.path(), 4096, footer);
            let error = open(&path, None).expect_err("refused").to_string();
            assert!(error.contains(&path.display().to_string()), "{error}");
            error
        };
        assert!(
            refused(&footer(3, 4096)).contains("dynamic VHD") && refused(&footer(4, 4096)).contains("differencing")
        );
        assert!(refused(&footer(9, 4096)).contains("unknown type 9"));
        assert!(refused(&footer(2, 4097)).contains("says it holds 4097 bytes"));
        assert!(refused(&footer(2, 0)).contains("says it holds 0 bytes"));
        let error = open(dir.path(), None).expect_err("a directory").to_string();
        assert!(error.contains("not a regular file"), "{error}");
    }
}
