//! Kernel and initramfs as descriptors that QEMU, whoever it runs as, can open again.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{MemfdFlags, Mode};
use uvm_platform::PlatformError;

use crate::spawn::RunAs;

/// A boot file, open for reading.
#[derive(Debug)]
pub(crate) struct BootFile {
    /// QEMU opens `/dev/fd/N` of it, which is a new open with the file's own mode bits.
    pub(crate) fd: OwnedFd,
    pub(crate) bytes: u64,
}

/// What the kernel must begin with, and what is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum KernelFormat {
    Elf,
    BzImage,
}

/// Opens the kernel and checks that it is one.
pub(crate) fn open_kernel(path: &Path, run_as: Option<&RunAs>) -> Result<BootFile, PlatformError> {
    let (mut file, bytes) = open(path).map_err(|why| bad("kernel", path, why))?;
    let mut head = Vec::new();
    let read = file.by_ref().take(HEAD_BYTES).read_to_end(&mut head).and_then(|_| file.rewind());
    read.map_err(|e| bad("kernel", path, e.to_string()))?;
    if format(&head).is_none() {
        let why = "it is neither an uncompressed 64-bit x86 kernel (ELF, vmlinux) nor a bzImage".into();
        return Err(bad("kernel", path, why));
    }
    readable_by(file, bytes, run_as).map_err(|e| bad("kernel", path, e.to_string()))
}

/// Opens the initramfs.
pub(crate) fn open_initrd(path: &Path, run_as: Option<&RunAs>) -> Result<BootFile, PlatformError> {
    let (file, bytes) = open(path).map_err(|why| bad("initrd", path, why))?;
    readable_by(file, bytes, run_as).map_err(|e| bad("initrd", path, e.to_string()))
}

fn bad(what: &'static str, path: &Path, why: String) -> PlatformError {
    PlatformError::BadInput { what, value: path.display().to_string(), why }
}

/// Opens a regular file that is not empty, and tells its size.
pub(crate) fn open(path: &Path) -> Result<(File, u64), String> {
    // Opening a FIFO would wait for a writer.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(|e| e.to_string())?;
    let meta = file.metadata().map_err(|e| e.to_string())?;
    if !meta.is_file() {
        return Err("it is not a regular file".into());
    }
    if meta.len() == 0 {
        return Err("it is empty".into());
    }
    Ok((file, meta.len()))
}

/// Where a bzImage has its magic: the end of the first sector and the setup header.
const HEAD_BYTES: u64 = 0x206;

fn format(head: &[u8]) -> Option<KernelFormat> {
    // 64-bit, little endian, and (at 18) machine 62.
    let elf = head.starts_with(b"\x7fELF\x02\x01") && head.get(18..20) == Some(&[62, 0]);
    let bz = head.get(0x1fe..0x200) == Some(&[0x55, 0xaa]) && head.get(0x202..0x206) == Some(b"HdrS");
    if elf {
        Some(KernelFormat::Elf)
    } else if bz {
        Some(KernelFormat::BzImage)
    } else {
        None
    }
}

/// The file itself where QEMU's user may read it, else a copy in memory that anyone given the descriptor may.
fn readable_by(mut file: File, bytes: u64, run_as: Option<&RunAs>) -> io::Result<BootFile> {
    let mode = file.metadata()?.mode();
    if run_as.is_none() || mode & 0o004 != 0 {
        return Ok(BootFile { fd: file.into(), bytes });
    }
    let copy = rustix::fs::memfd_create("uvm-boot-file", MemfdFlags::CLOEXEC)?;
    io::copy(&mut file, &mut File::from(copy.try_clone()?))?;
    rustix::fs::fchmod(copy.as_fd(), Mode::from_raw_mode(0o444))?;
    Ok(BootFile { fd: copy, bytes })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn elf() -> Vec<u8> {
        let mut head = b"\x7fELF\x02\x01\x01".to_vec();
        head.resize(18, 0);
        head.extend([62, 0]);
        head.resize(4096, 0);
        head
    }

    #[test]
    fn kernels_are_told_from_other_files() {
        assert_eq!(format(&elf()), Some(KernelFormat::Elf));
        let mut bz = vec![0; 0x206];
        bz[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        bz[0x202..0x206].copy_from_slice(b"HdrS");
        assert_eq!(format(&bz), Some(KernelFormat::BzImage));
        for other in [&b""[..], b"\x7fELF\x01\x01", b"#!/bin/sh", &elf()[..19], &bz[..0x205]] {
            assert_eq!(format(other), None);
        }
    }

    #[test]
    fn what_is_no_kernel_is_named_with_its_path() {
        let dir = tempfile::tempdir().expect("a directory");
        let text = dir.path().join("text");
        fs::write(&text, "hello").expect("written");
        let empty = dir.path().join("empty");
        fs::write(&empty, "").expect("written");
        let missing = dir.path().join("missing");
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RWXU, 0).expect("a fifo");
        for (path, word) in [
            (text.as_path(), "neither"),
            (empty.as_path(), "empty"),
            (missing.as_path(), "No such file"),
            (fifo.as_path(), "not a regular file"),
            (dir.path(), "not a regular file"),
        ] {
            let error = open_kernel(path, None).expect_err("no kernel").to_string();
            assert!(error.contains(word) && error.contains(&path.display().to_string()), "{error}");
        }
    }

    #[test]
    fn a_private_file_is_copied_for_another_user_and_only_then() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("kernel");
        fs::write(&path, elf()).expect("written");
        let user = RunAs { uid: 65_534, gid: 65_534, groups: vec![] };
        let link = |file: &BootFile| fs::read_link(format!("/proc/self/fd/{}", file.fd.as_raw_fd())).expect("a link");
        for (mode, user, copied) in [(0o600, Some(&user), true), (0o644, Some(&user), false), (0o600, None, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("changed");
            let file = open_kernel(&path, user).expect("a kernel");
            assert_eq!(file.bytes, 4096);
            assert_eq!(link(&file).to_string_lossy().contains("uvm-boot-file"), copied, "{mode:o}");
            let mut again = Vec::new();
            let reopened = format!("/dev/fd/{}", file.fd.as_raw_fd());
            File::open(reopened).expect("opens again").read_to_end(&mut again).expect("read");
            assert_eq!(again, elf());
        }
    }
}
