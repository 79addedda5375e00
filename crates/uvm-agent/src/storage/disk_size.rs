//! A disk that has become larger on the host: seen by the kernel, and filled by its file system.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use uvm_wire::modify::DiskSize;

use super::block::BlockDevice;
use super::mounts::Mounted;
use super::turns::Place;
use super::{Storage, StorageError};
use crate::sys;

/// Between two looks at the size.
const LOOK: Duration = Duration::from_millis(5);

/// Has the kernel look at the disk, waits for its size, and has the file system grow.
pub(super) async fn update(storage: &Storage, size: DiskSize) -> Result<(), StorageError> {
    let disk = Place::Disk { controller: size.controller, lun: size.lun };
    let task = format!("resizing {disk}");
    let (request, path) = if size.grow.is_empty() {
        (storage.begin(vec![disk]).await?, None)
    } else {
        let (request, path) = storage.begin_at(vec![disk], &size.grow).await?;
        (request, Some(path))
    };
    let until = request.steps_until().into_std();
    let storage = storage.clone();
    request.run(&task, move || update_now(&storage, &size, path.as_deref(), until), || (), || Ok(())).await
}

fn update_now(storage: &Storage, size: &DiskSize, path: Option<&Path>, until: Instant) -> Result<(), StorageError> {
    let device = storage.scsi.find(size.controller, size.lun, until.saturating_duration_since(Instant::now()))?;
    device.rescan()?;
    wait(&device, size.bytes, until)?;
    path.map_or(Ok(()), |path| grow(&device, path, size.bytes))
}

fn wait(device: &BlockDevice, bytes: u64, until: Instant) -> Result<(), StorageError> {
    loop {
        let seen = device.bytes()?;
        if seen == bytes {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(StorageError::Late(format!("{} has {seen} bytes, not {bytes}", device.node().display())));
        }
        thread::sleep(LOOK);
    }
}

fn grow(device: &BlockDevice, path: &Path, bytes: u64) -> Result<(), StorageError> {
    let node = device.node();
    let mounted = Mounted::at(path).filter(|mounted| Path::new(&mounted.source) == node);
    let mounted =
        mounted.ok_or_else(|| StorageError::Bad(format!("{} is not mounted at {}", node.display(), path.display())))?;
    let failed = || StorageError::at(format!("grow the {} at {}", mounted.filesystem, path.display()));
    let directory = File::open(path).map_err(failed())?;
    match mounted.filesystem.as_str() {
        "ext4" => {
            let block = rustix::fs::fstatvfs(&directory).map_err(|e| failed()(e.into()))?.f_bsize;
            sys::grow_ext4(directory.as_fd(), bytes / block.max(1)).map_err(failed())
        }
        "xfs" => {
            let XfsSize { block_bytes, blocks, inode_percent } = XfsSize::of(&node).map_err(failed())?;
            let wanted = bytes / u64::from(block_bytes.max(1));
            // What is asked for again, it refuses.
            if wanted <= blocks {
                Ok(())
            } else {
                sys::grow_xfs(directory.as_fd(), wanted, inode_percent).map_err(failed())
            }
        }
        other => Err(StorageError::Bad(format!("{other:?} at {} cannot grow: ext4 and xfs can", path.display()))),
    }
}

/// What the superblock of an XFS says of its size.
#[derive(Debug, PartialEq, Eq)]
struct XfsSize {
    block_bytes: u32,
    blocks: u64,
    /// How much of it may be inodes. It is said anew with each size.
    inode_percent: u8,
}

impl XfsSize {
    /// Offsets of the published format; numbers are big endian.
    fn of(node: &Path) -> std::io::Result<Self> {
        let mut superblock = [0; 128];
        File::open(node)?.read_exact_at(&mut superblock, 0)?;
        let number = |at: usize, bytes: usize| {
            superblock.iter().skip(at).take(bytes).fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
        };
        Ok(Self {
            block_bytes: u32::try_from(number(4, 4)).unwrap_or_default(),
            blocks: number(8, 8),
            inode_percent: superblock[127],
        })
    }
}

#[cfg(test)]
mod tests {
    use uvm_wire::Hresult;

    use super::*;

    #[test]
    fn the_size_of_an_xfs_stands_in_its_superblock() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let mut superblock = [0_u8; 512];
        superblock[..16].copy_from_slice(b"XFSB\0\0\x10\0\0\0\0\0\0\x01\x2c\0");
        superblock[127] = 25;
        file.as_file().write_all_at(&superblock, 0).expect("written");
        let expected = XfsSize { block_bytes: 4096, blocks: 76_800, inode_percent: 25 };
        assert_eq!(XfsSize::of(file.path()).expect("read"), expected);
    }

    #[test]
    fn a_size_that_does_not_come_is_told() {
        let sys = tempfile::tempdir().expect("a directory");
        let device = BlockDevice::new(sys.path(), Path::new("/dev"), "sdq");
        std::fs::create_dir_all(sys.path().join("block/sdq")).expect("made");
        std::fs::write(sys.path().join("block/sdq/size"), "8\n").expect("written");
        wait(&device, 4096, Instant::now()).expect("it has come");
        let (result, message) = wait(&device, 8192, Instant::now()).expect_err("it has not").told();
        assert_eq!(result, Hresult::TIMEOUT);
        assert!(message.ends_with("/dev/sdq has 4096 bytes, not 8192"), "{message}");
    }

    #[test]
    fn what_is_mounted_elsewhere_does_not_grow() {
        let device = BlockDevice::new(Path::new("/sys"), Path::new("/dev"), "no-such-disk");
        let error = grow(&device, Path::new("/proc"), 1).expect_err("another").to_string();
        assert_eq!(error, "/dev/no-such-disk is not mounted at /proc");
    }
}
