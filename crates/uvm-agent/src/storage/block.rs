//! A block device as the kernel names it.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::StorageError;

/// How long the kernel may take to read a table of partitions.
const PARTITIONS_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// What the kernel calls a device and its partitions.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    /// As in its list of mounts: `8:16`.
    pub(super) numbers: Vec<String>,
    /// Where programs open them.
    pub(super) nodes: Vec<PathBuf>,
}

impl Names {
    pub(super) fn extend(&mut self, more: Self) {
        self.numbers.extend(more.numbers);
        self.nodes.extend(more.nodes);
    }
}

/// A disk, or a part of one.
#[derive(Clone, Debug)]
pub(super) struct BlockDevice {
    /// Its directory beneath /sys.
    directory: PathBuf,
    /// `/dev`, but in tests.
    dev: PathBuf,
    name: String,
}

impl BlockDevice {
    /// The disk `name`.
    pub(super) fn new(sys: &Path, dev: &Path, name: &str) -> Self {
        Self { directory: sys.join("block").join(name), dev: dev.to_owned(), name: name.to_owned() }
    }

    /// Where programs open it.
    pub(super) fn node(&self) -> PathBuf {
        self.dev.join(&self.name)
    }

    /// Has the kernel ask the disk what it is.
    pub(super) fn rescan(&self) -> Result<(), StorageError> {
        let path = self.directory.join("device/rescan");
        std::fs::write(&path, "1").map_err(StorageError::at(format!("write {}", path.display())))
    }

    /// How large it is, as the kernel has seen it: it counts in 512 bytes, whatever the disk does.
    pub(super) fn bytes(&self) -> Result<u64, StorageError> {
        let path = self.directory.join("size");
        let failed = || StorageError::at(format!("read {}", path.display()));
        let text = std::fs::read_to_string(&path).map_err(failed())?;
        let sectors: u64 = text.trim().parse().map_err(|e| failed()(std::io::Error::other(e)))?;
        Ok(sectors.saturating_mul(512))
    }

    /// Whether programs can open this disk. The kernel lists it first, makes its node then, and only after that lets anybody
    /// open it (`device_add_disk` of Linux's block/genhd.c). Whoever opens it earlier has the kernel look for a module that
    /// drives it, which costs a process; so this waits for what the kernel lists last.
    pub(super) fn can_be_opened(&self) -> bool {
        self.directory.join("bdi").exists() && self.opens()
    }

    /// Opening what is there and not ready yet is `ENXIO`. What else keeps it from being opened is for the one to say who
    /// needs it open.
    fn opens(&self) -> bool {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        !matches!(rustix::fs::open(self.node(), flags, Mode::empty()), Err(Errno::NOENT | Errno::NXIO))
    }

    /// What it and its partitions are called.
    pub(super) fn names(&self) -> Names {
        let number = |directory: &Path| {
            let number = std::fs::read_to_string(directory.join("dev")).ok()?;
            Some(number.trim().to_owned())
        };
        let mut names = Names { numbers: number(&self.directory).into_iter().collect(), nodes: vec![self.node()] };
        for part in std::fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            // What else is there has no number.
            if let Some(number) = number(&part.path()) {
                names.numbers.push(number);
                names.nodes.push(self.dev.join(part.file_name()));
            }
        }
        names
    }

    /// Whether something has it for itself: a file system that is mounted somewhere.
    pub(super) fn is_claimed(&self) -> bool {
        let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC;
        matches!(rustix::fs::open(self.node(), flags, Mode::empty()), Err(Errno::BUSY))
    }

    /// Has QEMU give zeros back to the host as room, where the kernel is asked to make a hole. By itself the kernel relies on
    /// zeros there only if a disk says that it has them wherever nothing is; QEMU's have them in any case, and do not say so.
    pub(super) fn make_holes(&self) {
        // A partition is a directory in that of its disk.
        let disks = [Some(self.directory.as_path()), self.directory.parent()];
        for device in disks.into_iter().flatten().map(|disk| disk.join("device")) {
            let is_qemus = std::fs::read_to_string(device.join("vendor")).is_ok_and(|vendor| vendor.trim() == "QEMU");
            // "Logical block provisioning": whether it gives room back so (LBPWS).
            let page = std::fs::read(device.join("vpd_pgb2")).unwrap_or_default();
            if !is_qemus || page.get(5).is_none_or(|flags| flags & 0x40 == 0) {
                continue;
            }
            for disk in std::fs::read_dir(device.join("scsi_disk")).into_iter().flatten().flatten() {
                // Without it, zeros take room.
                let _ = std::fs::write(disk.path().join("zeroing_mode"), "writesame_16_unmap");
            }
        }
    }

    /// Its partition `number`, from 1; the kernel is waited for until `until` at the latest.
    pub(super) fn partition(&self, number: u64, until: Instant) -> Result<Self, StorageError> {
        // Between a digit and a number stands a letter: /dev/nvme0n1p1.
        let between = if self.name.ends_with(|c: char| c.is_ascii_digit()) { "p" } else { "" };
        let name = format!("{}{between}{number}", self.name);
        let directory = self.directory.join(&name);
        let until = until.min(Instant::now() + PARTITIONS_WITHIN);
        let dev = self.dev.clone();
        let partition = Self { directory, dev, name };
        while !(partition.directory.exists() && partition.opens()) {
            if Instant::now() >= until {
                return Err(StorageError::Bad(format!("{} has no partition {number}", self.node().display())));
            }
            thread::sleep(LOOK);
        }
        Ok(partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_known_by_its_numbers_and_nodes_and_its_partitions() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = dir.path().join("block/sdb");
        for (at, number) in [("", "8:16\n"), ("sdb1", "8:17\n")] {
            std::fs::create_dir_all(disk.join(at)).expect("made");
            std::fs::write(disk.join(at).join("dev"), number).expect("written");
        }
        std::fs::create_dir(disk.join("queue")).expect("made");
        let names = BlockDevice::new(dir.path(), Path::new("/dev"), "sdb").names();
        assert_eq!(names.numbers, ["8:16", "8:17"]);
        assert_eq!(names.nodes, [Path::new("/dev/sdb"), Path::new("/dev/sdb1")]);
        let names = BlockDevice::new(dir.path(), Path::new("/dev"), "sdc").names();
        assert_eq!((names.numbers.len(), names.nodes), (0, vec!["/dev/sdc".into()]));
    }

    #[test]
    fn zeros_are_room_given_back_on_disks_of_qemu_that_can() {
        for (vendor, page, expected) in [
            ("QEMU    \n", &[0, 0xb2, 0, 4, 0, 0xe0, 2, 0][..], "writesame_16_unmap"),
            ("QEMU    \n", &[0, 0xb2, 0, 4, 0, 0x80, 2, 0], "writesame"),
            ("QEMU    \n", &[], "writesame"),
            ("Msft    \n", &[0, 0xb2, 0, 4, 0, 0xe0, 2, 0], "writesame"),
        ] {
            let dir = tempfile::tempdir().expect("a directory");
            let device = dir.path().join("block/sdb/device");
            let mode = device.join("scsi_disk/0:0:0:0/zeroing_mode");
            std::fs::create_dir_all(mode.parent().expect("beneath it")).expect("made");
            for (file, content) in [("vendor", vendor.as_bytes()), ("vpd_pgb2", page)] {
                std::fs::write(device.join(file), content).expect("written");
            }
            let whole = BlockDevice::new(dir.path(), Path::new("/dev"), "sdb");
            let part = BlockDevice { directory: whole.directory.join("sdb1"), ..whole.clone() };
            for device in [whole, part] {
                std::fs::write(&mode, "writesame").expect("written");
                device.make_holes();
                assert_eq!(std::fs::read_to_string(&mode).expect("read"), expected, "{vendor}{page:?}");
            }
        }
    }

    #[test]
    fn partitions_are_named_as_the_kernel_names_them() {
        let dir = tempfile::tempdir().expect("a directory");
        let (sys, dev) = (dir.path().join("sys"), dir.path().join("dev"));
        std::fs::create_dir(&dev).expect("made");
        for (disk, partition) in [("sda", "sda2"), ("nvme0n1", "nvme0n1p2")] {
            std::fs::create_dir_all(sys.join("block").join(disk).join(partition)).expect("made");
            let whole = BlockDevice::new(&sys, &dev, disk);
            whole.partition(2, Instant::now()).expect_err("it has no node yet");
            // A socket cannot be opened, and says so as a disk does that is not ready.
            let early = std::os::unix::net::UnixListener::bind(dev.join(partition)).expect("bound");
            whole.partition(2, Instant::now()).expect_err("nobody can open it yet");
            drop(early);
            std::fs::remove_file(dev.join(partition)).expect("removed");
            std::fs::write(dev.join(partition), "").expect("made");
            let part = whole.partition(2, Instant::now()).expect("there");
            assert_eq!(part.node(), dev.join(partition));
            let error = whole.partition(3, Instant::now()).expect_err("none").to_string();
            assert_eq!(error, format!("{} has no partition 3", dev.join(disk).display()));
        }
    }
}
