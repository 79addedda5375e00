//! File systems: which one a device holds, and how it is mounted.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Seek};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags};

use super::block::BlockDevice;
use super::{Storage, StorageError, make_ext4};

/// How a device is to be mounted.
#[derive(Debug)]
pub(super) struct Mounting<'a> {
    pub(super) read_only: bool,
    /// Empty: the one that is found on the device.
    pub(super) filesystem: &'a str,
    /// Of [`MOUNT_OPTIONS`](uvm_wire::modify::MOUNT_OPTIONS); as in the originals, others have no effect.
    pub(super) options: &'a [String],
    /// Files are the device's memory, where file system and device can do that: they are not copied to be read.
    pub(super) direct_access: bool,
}

/// A file system that guests mount.
#[derive(Debug, PartialEq, Eq)]
struct Filesystem {
    /// Its name, which is also that of its modules' group.
    name: &'static str,
    /// What it begins with, and where.
    offset: u64,
    magic: &'static [u8],
    /// What keeps a read-only mount from writing, by replaying a journal.
    read_only_options: &'static str,
    is_read_only: bool,
}

/// Numbers of the published formats.
const KNOWN: [Filesystem; 5] = [
    Filesystem { name: "ext4", offset: 1080, magic: &[0x53, 0xef], read_only_options: "noload", is_read_only: false },
    Filesystem { name: "xfs", offset: 0, magic: b"XFSB", read_only_options: "norecovery", is_read_only: false },
    Filesystem {
        name: "erofs",
        offset: 1024,
        magic: &[0xe2, 0xe1, 0xf5, 0xe0],
        read_only_options: "",
        is_read_only: true,
    },
    Filesystem { name: "squashfs", offset: 0, magic: b"hsqs", read_only_options: "", is_read_only: true },
    Filesystem { name: "iso9660", offset: 0x8001, magic: b"CD001", read_only_options: "", is_read_only: true },
];

/// Mounts a device at `path`, which is made if it is not there, and removed again if it cannot be mounted.
pub(super) fn mount(
    storage: &Storage,
    device: &BlockDevice,
    path: &Path,
    mounting: &Mounting<'_>,
) -> Result<(), StorageError> {
    let node = device.node();
    // What has been read of it is forgotten with the last that has it open: it stays open until it is mounted.
    let (filesystem, _open) = if mounting.filesystem.is_empty() {
        let (filesystem, file) = recognise(&node)?;
        (filesystem, Some(file))
    } else {
        (named(mounting.filesystem)?, None)
    };
    storage.modules.load(filesystem.name).map_err(StorageError::because)?;
    storage.mount_points.mount_at(path, || mount_at(filesystem, &node, path, mounting))
}

fn mount_at(filesystem: &Filesystem, node: &Path, path: &Path, mounting: &Mounting<'_>) -> Result<(), StorageError> {
    let read_only = mounting.read_only || filesystem.is_read_only;
    let (mut flags, options) = if read_only {
        (MountFlags::RDONLY, filesystem.read_only_options)
    } else if mounting.options.iter().any(|option| option == "discard") {
        // Those that can be written to know it.
        (MountFlags::empty(), "discard")
    } else {
        (MountFlags::empty(), "")
    };
    flags |=
        mounting.options.iter().filter_map(|option| flag(option)).fold(MountFlags::empty(), |all, flag| all | flag);
    let mount_with = |options: &[&str]| {
        let options: Vec<_> = options.iter().copied().filter(|option| !option.is_empty()).collect();
        let options = CString::new(options.join(",")).unwrap_or_default();
        rustix::mount::mount(node, path, filesystem.name, flags, Some(options.as_c_str()))
    };
    let directly = if mounting.direct_access { mount_with(&[options, "dax"]) } else { Err(Errno::INVAL) };
    // Whatever keeps it from being mounted otherwise says so again.
    directly.or_else(|_| mount_with(&[options])).map_err(|e| {
        let step = format!("mount {} of {} at {}", filesystem.name, node.display(), path.display());
        StorageError::at(step)(e.into())
    })?;
    for flags in mounting.options.iter().filter_map(|option| propagation(option)) {
        if let Err(e) = rustix::mount::mount_change(path, flags) {
            // The mount is as it was asked for, or there is none.
            let _ = rustix::mount::unmount(path, rustix::mount::UnmountFlags::NOFOLLOW);
            return Err(StorageError::at(format!("change how mounts at {} propagate", path.display()))(e.into()));
        }
    }
    Ok(())
}

fn flag(option: &str) -> Option<MountFlags> {
    Some(match option {
        "nosuid" => MountFlags::NOSUID,
        "nodev" => MountFlags::NODEV,
        "noexec" => MountFlags::NOEXEC,
        "noatime" => MountFlags::NOATIME,
        "nodiratime" => MountFlags::NODIRATIME,
        "relatime" => MountFlags::RELATIME,
        "strictatime" => MountFlags::STRICTATIME,
        "sync" => MountFlags::SYNCHRONOUS,
        _ => return None,
    })
}

fn propagation(option: &str) -> Option<MountPropagationFlags> {
    let (kind, all) = match option.strip_prefix('r') {
        Some(kind) => (kind, MountPropagationFlags::REC),
        None => (option, MountPropagationFlags::empty()),
    };
    let kind = match kind {
        "shared" => MountPropagationFlags::SHARED,
        "slave" => MountPropagationFlags::DOWNSTREAM,
        "private" => MountPropagationFlags::PRIVATE,
        "unbindable" => MountPropagationFlags::UNBINDABLE,
        _ => return None,
    };
    Some(kind | all)
}

fn names() -> String {
    KNOWN.map(|known| known.name).join(", ")
}

fn named(name: &str) -> Result<&'static Filesystem, StorageError> {
    let found = KNOWN.iter().find(|known| known.name == name);
    found.ok_or_else(|| StorageError::Bad(format!("file system {name:?} is none of {}", names())))
}

/// Whether this file system can be made.
pub(super) fn check_makeable(name: &str) -> Result<(), StorageError> {
    if matches!(name, "" | "ext4") {
        return Ok(());
    }
    Err(StorageError::Bad(format!("a file system {name:?} cannot be made in this guest: ext4 can")))
}

/// Makes an ext4 on a device that is empty; one that holds a file system stays as it is, and so does one that holds anything
/// else, which is an error.
pub(super) fn ensure(device: &BlockDevice) -> Result<(), StorageError> {
    let node = device.node();
    let failed = || StorageError::at(format!("make an ext4 on {}", node.display()));
    let mut file = File::options().read(true).write(true).open(&node).map_err(failed())?;
    if find(&file).map_err(failed())?.is_some() {
        return Ok(());
    }
    let bytes = file.seek(io::SeekFrom::End(0)).map_err(failed())?;
    device.make_holes();
    match make_ext4::make_if_empty(&file, bytes).map_err(failed())? {
        None => Ok(()),
        Some(at) => Err(StorageError::Bad(format!(
            "{} is not empty: at byte {at} it holds something, and no file system that is known here ({}); none is made",
            node.display(),
            names()
        ))),
    }
}

/// The file system that a device holds, and the device.
fn recognise(node: &Path) -> Result<(&'static Filesystem, File), StorageError> {
    let failed = || StorageError::at(format!("read {}", node.display()));
    let device = File::open(node).map_err(failed())?;
    let found = find(&device).map_err(failed())?;
    match found {
        Some(found) => Ok((found, device)),
        None => {
            Err(StorageError::Bad(format!("{} holds no file system that is known here: {}", node.display(), names())))
        }
    }
}

fn find(device: &File) -> io::Result<Option<&'static Filesystem>> {
    for known in &KNOWN {
        let mut found = [0; 8];
        let found = &mut found[..known.magic.len()];
        match device.read_exact_at(found, known.offset) {
            Ok(()) if found == known.magic => return Ok(Some(known)),
            Ok(()) => {}
            // It is too small for that.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use uvm_wire::modify::MOUNT_OPTIONS;

    use super::*;

    #[test]
    fn a_file_system_is_known_by_what_it_begins_with() {
        let dir = tempfile::tempdir().expect("a directory");
        let image = dir.path().join("image");
        for known in &KNOWN {
            let mut bytes = vec![0; 40_000];
            let at = known.offset as usize;
            bytes[at..at + known.magic.len()].copy_from_slice(known.magic);
            std::fs::write(&image, bytes).expect("written");
            assert_eq!(recognise(&image).expect("known").0, known);
        }
        for bytes in [vec![0; 40_000], vec![0; 3], Vec::new(), b"QFI\xfb".repeat(1000)] {
            std::fs::write(&image, bytes).expect("written");
            let error = recognise(&image).expect_err("nothing").to_string();
            assert!(error.contains("holds no file system") && error.contains("squashfs"), "{error}");
        }
    }

    #[test]
    fn a_file_system_that_is_not_known_is_named_with_those_that_are() {
        assert_eq!(named("xfs").expect("known").name, "xfs");
        let error = named("zfs").expect_err("unknown").to_string();
        assert!(error.contains("\"zfs\"") && error.contains("ext4, xfs, erofs, squashfs"), "{error}");
    }

    #[test]
    fn each_option_that_may_be_said_has_one_effect() {
        assert_eq!(propagation("rslave"), Some(MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC));
        assert_eq!(propagation("shared"), Some(MountPropagationFlags::SHARED));
        assert_eq!(flag("noexec"), Some(MountFlags::NOEXEC));
        for option in MOUNT_OPTIONS.into_iter().filter(|option| *option != "discard") {
            assert_ne!(flag(option).is_some(), propagation(option).is_some(), "{option}");
        }
        for other in ["ro", "", "rnoatime", "errors=continue"] {
            assert_eq!((flag(other), propagation(other)), (None, None), "{other}");
        }
    }
}
