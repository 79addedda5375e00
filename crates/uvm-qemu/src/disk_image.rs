//! A disk on the host: an image or a block device, opened by us, since QEMU opens nothing by its path.
//!
//! The format is what is said, else what the file's name says, and is never found out from what is in it: a guest that
//! writes the header of another format into its raw disk does not make it one. What names further files is refused, so that
//! no image reaches beyond itself.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use uvm_platform::PlatformError;
use uvm_platform::requests::{ImageFormat, ScsiKind};

use crate::block_claim;
use crate::file_key::FileKey;
use crate::qcow2;
use crate::vhd::{self, Footer, Kind};

/// How the bytes of a disk are kept in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DiskFormat {
    Raw,
    /// Bytes as they are, so many, and a footer, which is no part of the disk. QEMU's driver for VHDs would look at the
    /// beginning first, which is the guest's, and believe a footer there.
    FixedVhd {
        bytes: u64,
    },
    DynamicVhd,
    Vhdx,
    Qcow2,
}

impl DiskFormat {
    /// What a file holds. Refuses what is not of the format that is said, and what names other files.
    fn of(format: ImageFormat, file: &File, bytes: u64) -> Result<Self, String> {
        match format {
            ImageFormat::Raw => Ok(Self::Raw),
            ImageFormat::Vhd => vhd(file, bytes),
            // QEMU knows no parents of these, and says so.
            ImageFormat::Vhdx => Ok(Self::Vhdx),
            ImageFormat::Qcow2 => qcow2::check(file).map(|()| Self::Qcow2),
            other => Err(format!("images of format {other:?} are not known here")),
        }
    }

    /// The same for a block device, which is no image unless it is said.
    fn of_device(format: ImageFormat, file: &File) -> Result<Self, String> {
        match format {
            ImageFormat::Raw | ImageFormat::Qcow2 => Self::of(format, file, 0),
            other => Err(format!("a block device is raw or a qcow2, not {other:?}")),
        }
    }

    /// QEMU's driver for it.
    pub(crate) fn driver(self) -> &'static str {
        match self {
            Self::Raw | Self::FixedVhd { .. } => "raw",
            Self::DynamicVhd => "vpc",
            Self::Vhdx => "vhdx",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// A disk, opened as QEMU is to use it.
#[derive(Debug)]
pub(crate) struct DiskImage {
    pub(crate) file: File,
    pub(crate) format: DiskFormat,
    pub(crate) is_block_device: bool,
    pub(crate) key: FileKey,
}

/// The format that a file's name says: bytes as they are, where it says none.
fn format_by_name(path: &Path) -> ImageFormat {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    match extension.to_ascii_lowercase().as_str() {
        "vhd" => ImageFormat::Vhd,
        "vhdx" => ImageFormat::Vhdx,
        "qcow2" => ImageFormat::Qcow2,
        _ => ImageFormat::Raw,
    }
}

/// Opens a disk. Blocking.
pub(crate) fn open(
    path: &Path,
    kind: ScsiKind,
    format: Option<ImageFormat>,
    read_only: bool,
) -> Result<DiskImage, PlatformError> {
    let bad = |why: String| PlatformError::BadInput { what: "disk", value: path.display().to_string(), why };
    look(path, kind, format, read_only).map_err(bad)
}

fn look(path: &Path, kind: ScsiKind, format: Option<ImageFormat>, read_only: bool) -> Result<DiskImage, String> {
    // What it is first: to open a FIFO waits for the other end, to open a watchdog starts it.
    let found = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let found = File::from(found.map_err(|e| io::Error::from(e).to_string())?);
    let meta = found.metadata().map_err(|e| e.to_string())?;
    let is_block_device = meta.file_type().is_block_device();
    match kind {
        _ if !is_block_device && !meta.is_file() => {
            return Err("it is neither a regular file nor a block device".into());
        }
        ScsiKind::PassThrough if !is_block_device => {
            return Err("it is a file, and a disk of the host was asked for: a block device".into());
        }
        _ => {}
    }
    // The very one that was looked at, whatever its name leads to by now.
    let found = format!("/proc/self/fd/{}", found.as_raw_fd());
    let file = OpenOptions::new().read(true).write(!read_only).open(&found).map_err(|e| match e.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem if !read_only => {
            format!("{e}; it is to be writable: it may be attached read-only")
        }
        _ => e.to_string(),
    })?;
    if is_block_device
        && !read_only
        && let Some(by) = block_claim::claimed(&found, meta.rdev())
    {
        return Err(format!("the host has it for itself: {by}"));
    }
    let format = if is_block_device {
        DiskFormat::of_device(format.unwrap_or(ImageFormat::Raw), &file)?
    } else {
        let said = format.unwrap_or_else(|| format_by_name(path));
        // Who said raw means it.
        if format.is_none() && said == ImageFormat::Raw {
            hint_at_format(path, &file, meta.len());
        }
        DiskFormat::of(said, &file, meta.len())?
    };
    Ok(DiskImage { file, format, is_block_device, key: FileKey::of(&meta) })
}

/// Says that an image seems to be of another format than raw, which nobody asked for. It stays raw: what it looks like may be
/// a guest's doing.
fn hint_at_format(path: &Path, file: &File, bytes: u64) {
    if let Some((looks, extension)) = looks_like(file, bytes) {
        tracing::warn!(
            disk = %path.display(),
            "the content looks like a {looks}, and is attached raw, byte by byte, as the name says no format; if it was \
             made as a {looks}, attach it by a name, or a link, that ends in .{extension}"
        );
    }
}

/// What the first bytes of an image, or a VHD's last, are the mark of: the format, and its extension.
fn looks_like(file: &File, bytes: u64) -> Option<(&'static str, &'static str)> {
    let begins = |mark: &[u8]| {
        let mut first = vec![0; mark.len()];
        file.read_exact_at(&mut first, 0).is_ok() && first == mark
    };
    if begins(qcow2::MAGIC) {
        return Some(("qcow2", "qcow2"));
    }
    if begins(b"vhdxfile") {
        return Some(("VHDX", "vhdx"));
    }
    matches!(Footer::at_end(file, bytes), Ok(Some(_))).then_some(("VHD", "vhd"))
}

/// The footer at the end of the file says which kind of VHD it is. A dynamic one has a copy of it at the beginning, which is
/// not the guest's.
fn vhd(file: &File, file_bytes: u64) -> Result<DiskFormat, String> {
    if file_bytes < vhd::FOOTER_BYTES {
        return Err("it is said to be a VHD, and is too short for one".into());
    }
    let footer = Footer::at_end(file, file_bytes)?.ok_or("it is said to be a VHD, and has no footer of one")?;
    match footer.kind {
        Kind::Fixed => footer.fixed_bytes(file_bytes).map(|bytes| DiskFormat::FixedVhd { bytes }),
        Kind::Dynamic if Footer::at(file, 0)?.is_some() => Ok(DiskFormat::DynamicVhd),
        Kind::Dynamic => Err("it is a dynamic VHD without a header".into()),
        Kind::Differencing => Err("it is a differencing VHD, which stands on another file: that is not opened".into()),
        Kind::Unknown(kind) => Err(format!("it is a VHD of unknown type {kind}")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn refused(name: &str, content: &[u8], kind: ScsiKind) -> String {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(name);
        fs::write(&path, content).expect("written");
        let error = open(&path, kind, None, true).map(|_| ()).expect_err(name).to_string();
        assert!(error.contains(&path.display().to_string()), "{error}");
        error
    }

    fn qcow2(change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut header = vec![0; 200];
        header[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        change(&mut header);
        header
    }

    fn vhd(kind: u8) -> Vec<u8> {
        let mut image = vec![0; 4096 + 512];
        let footer = |at: usize, image: &mut [u8]| {
            image[at..at + 8].copy_from_slice(b"conectix");
            image[at + 48..at + 56].copy_from_slice(&4096_u64.to_be_bytes());
            image[at + 63] = kind;
        };
        footer(4096, &mut image);
        if kind == 3 {
            footer(0, &mut image);
        }
        image
    }

    #[test]
    fn the_name_says_the_format_and_the_content_never_does() {
        let dir = tempfile::tempdir().expect("a directory");
        let raw = [qcow2(|_| {}), vhd(3), vec![0; 512]];
        for content in raw {
            let path = dir.path().join("disk.img");
            fs::write(&path, content).expect("written");
            let image = open(&path, ScsiKind::VirtualDisk, None, false).expect("a disk");
            assert_eq!((image.format, image.is_block_device), (DiskFormat::Raw, false));
        }
        for (name, content, format) in [
            ("a.qcow2", qcow2(|_| {}), DiskFormat::Qcow2),
            ("a.VHD", vhd(2), DiskFormat::FixedVhd { bytes: 4096 }),
            ("a.vhd", vhd(3), DiskFormat::DynamicVhd),
            ("a.vhdx", vec![0; 512], DiskFormat::Vhdx),
        ] {
            let path = dir.path().join(name);
            fs::write(&path, content).expect("written");
            assert_eq!(open(&path, ScsiKind::VirtualDisk, None, true).expect("a disk").format, format);
        }
    }

    #[test]
    fn what_an_image_looks_like_is_known_for_a_hint() {
        let looks = |content: &[u8]| {
            let mut file = tempfile::tempfile().expect("a file");
            io::Write::write_all(&mut file, content).expect("written");
            looks_like(&file, content.len() as u64).map(|(format, _)| format)
        };
        assert_eq!(looks(&qcow2(|_| {})), Some("qcow2"));
        assert_eq!(looks(b"vhdxfile and more"), Some("VHDX"));
        assert_eq!((looks(&vhd(2)), looks(&vhd(3))), (Some("VHD"), Some("VHD")));
        for raw in [&[0; 600][..], b"QFI", b"", b"conectix"] {
            assert_eq!(looks(raw), None, "{raw:?}");
        }
    }

    #[test]
    fn a_format_that_is_said_goes_before_the_name() {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, content, said, format) in [
            ("disk", qcow2(|_| {}), ImageFormat::Qcow2, DiskFormat::Qcow2),
            ("a.qcow2", qcow2(|_| {}), ImageFormat::Raw, DiskFormat::Raw),
            ("layer", vhd(3), ImageFormat::Vhd, DiskFormat::DynamicVhd),
            ("x.img", vec![0; 512], ImageFormat::Vhdx, DiskFormat::Vhdx),
        ] {
            let path = dir.path().join(name);
            fs::write(&path, content).expect("written");
            assert_eq!(open(&path, ScsiKind::VirtualDisk, Some(said), true).expect("a disk").format, format);
        }
        // What names another file is refused by whichever way it is called a qcow2.
        let path = dir.path().join("disk");
        fs::write(&path, qcow2(|header| header[79] = 4)).expect("written");
        let error = open(&path, ScsiKind::VirtualDisk, Some(ImageFormat::Qcow2), true).map(drop).expect_err("refused");
        assert!(error.to_string().contains("data is in another file"), "{error}");
    }

    #[test]
    fn an_image_that_names_another_file_is_refused() {
        let backed = qcow2(|header| {
            header[15] = 120;
            header[19] = 11;
            header[120..131].copy_from_slice(b"/etc/shadow");
        });
        let error = refused("a.qcow2", &backed, ScsiKind::VirtualDisk);
        assert!(error.contains("\"/etc/shadow\""), "{error}");
        let far = qcow2(|header| header[8..20].copy_from_slice(&[0xff; 12]));
        assert!(open_is_refused("far.qcow2", &far));
        let error = refused("a.qcow2", &qcow2(|header| header[79] = 4), ScsiKind::VirtualDisk);
        assert!(error.contains("data is in another file"), "{error}");
        assert!(refused("a.vhd", &vhd(4), ScsiKind::VirtualDisk).contains("differencing"));
    }

    #[test]
    fn a_guest_cannot_make_its_fixed_vhd_a_dynamic_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.vhd");
        let mut image = vhd(2);
        // The beginning is the guest's.
        image[..512].copy_from_slice(&vhd(3)[..512]);
        fs::write(&path, image).expect("written");
        let format = open(&path, ScsiKind::VirtualDisk, None, false).expect("a disk").format;
        assert_eq!((format, format.driver()), (DiskFormat::FixedVhd { bytes: 4096 }, "raw"));
    }

    proptest::proptest! {
        /// Whatever a file begins or ends with: it is a disk of its format, or refused.
        #[test]
        fn any_header_is_judged(
            mut bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..1200),
            cookies in proptest::prelude::any::<(bool, bool)>(),
        ) {
            let last = bytes.len().saturating_sub(512);
            for (wanted, at, cookie) in [(cookies.0, 0, &b"QFI\xfb\0\0\0\x03"[..]), (cookies.1, last, b"conectix")] {
                if let Some(place) = bytes.get_mut(at..at + cookie.len()).filter(|_| wanted) {
                    place.copy_from_slice(cookie);
                }
            }
            let dir = tempfile::tempdir().expect("a directory");
            for name in ["a.qcow2", "a.vhd", "a.vhdx", "a.img"] {
                let path = dir.path().join(name);
                fs::write(&path, &bytes).expect("written");
                match open(&path, ScsiKind::VirtualDisk, None, true) {
                    Ok(DiskImage { format: DiskFormat::FixedVhd { bytes: size }, .. }) => {
                        proptest::prop_assert!(size <= last as u64);
                    }
                    Ok(_) => {}
                    Err(e) => proptest::prop_assert!(e.to_string().contains(name)),
                }
            }
        }
    }

    fn open_is_refused(name: &str, content: &[u8]) -> bool {
        !refused(name, content, ScsiKind::VirtualDisk).is_empty()
    }

    #[test]
    fn what_is_no_disk_is_refused_with_the_reason() {
        assert!(refused("a.qcow2", b"short", ScsiKind::VirtualDisk).contains("and is none"));
        assert!(refused("a.vhd", b"short", ScsiKind::VirtualDisk).contains("too short"));
        assert!(refused("a.vhd", &[0; 600], ScsiKind::VirtualDisk).contains("no footer"));
        assert!(refused("a.vhd", &vhd(9), ScsiKind::VirtualDisk).contains("unknown type 9"));
        let mut headless = vhd(3);
        headless[0] = b'x';
        assert!(refused("a.vhd", &headless, ScsiKind::VirtualDisk).contains("without a header"));
        let short = &vhd(2)[4000..];
        assert!(refused("a.vhd", short, ScsiKind::VirtualDisk).contains("says it holds 4096 bytes, and has 96"));
        assert!(refused("a.img", &[0; 600], ScsiKind::PassThrough).contains("a block device"));
        let dir = tempfile::tempdir().expect("a directory");
        let error =
            open(dir.path(), ScsiKind::VirtualDisk, None, true).map(|_| ()).expect_err("a directory").to_string();
        assert!(error.contains("neither a regular file nor a block device"), "{error}");
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("made");
        for read_only in [true, false] {
            let error =
                open(&fifo, ScsiKind::VirtualDisk, None, read_only).map(|_| ()).expect_err("a FIFO").to_string();
            assert!(error.contains("neither a regular file nor a block device"), "{error}");
        }
        let error = open(&dir.path().join("none"), ScsiKind::VirtualDisk, None, true).map(|_| ()).expect_err("none");
        assert!(error.to_string().contains("No such file"), "{error}");
    }
}
