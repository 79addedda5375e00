//! Block devices that the host has for itself.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, major, minor};
use rustix::io::Errno;

/// Who has a block device, or a part of it, for itself, for people to read: a file system of the host, swap, a volume or an
/// array. To open it as well would have two kernels write one file system. `path` leads to the device `number`.
pub(crate) fn claimed(path: &str, number: u64) -> Option<String> {
    // An exclusive opening claims it, and is let go of at once.
    let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC;
    if !matches!(rustix::fs::open(path, flags, Mode::empty()), Err(Errno::BUSY)) {
        return None;
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let parts = Path::new("/sys/dev/block").join(format!("{}:{}", major(number), minor(number)));
    Some(match mounted_at(&mounts, &numbers(&parts)) {
        Some(place) => format!("mounted at {place}"),
        None => "a mount elsewhere, swap, a volume, an array, or a program that wants it alone".into(),
    })
}

/// The kernel's numbers of a device and of its partitions, by its directory beneath /sys.
fn numbers(directory: &Path) -> Vec<String> {
    let parts = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let number = |directory: PathBuf| fs::read_to_string(directory.join("dev")).ok();
    let numbers = std::iter::once(directory.to_owned()).chain(parts).filter_map(number);
    numbers.map(|number| number.trim().to_owned()).collect()
}

/// Where one of these devices is mounted.
fn mounted_at<'a>(mountinfo: &'a str, devices: &[String]) -> Option<&'a str> {
    // ID PARENT MAJ:MIN ROOT MOUNTPOINT ...
    mountinfo.lines().find_map(|line| {
        let mut words = line.split(' ').skip(2);
        let device = words.next()?;
        devices.iter().any(|one| one == device).then(|| words.nth(1))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_of_a_device_or_of_its_partition_is_found() {
        let sys = tempfile::tempdir().expect("a directory");
        for (part, number) in [("", "8:16\n"), ("sdb1", "8:17\n")] {
            fs::create_dir_all(sys.path().join(part)).expect("made");
            fs::write(sys.path().join(part).join("dev"), number).expect("written");
        }
        fs::create_dir(sys.path().join("queue")).expect("made");
        let mut numbers = numbers(sys.path());
        numbers.sort();
        assert_eq!(numbers, ["8:16", "8:17"]);
        let mounts = "25 1 8:1 / / rw - ext4 /dev/sda1 rw\n31 25 8:17 / /data rw shared:1 - ext4 /dev/sdb1 rw\n";
        assert_eq!(mounted_at(mounts, &numbers), Some("/data"));
        assert_eq!(mounted_at(mounts, &["8:2".to_owned()]), None);
        assert_eq!(mounted_at("junk\n1 2", &numbers), None);
    }

    #[test]
    fn what_nobody_has_for_himself_is_free() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        assert_eq!(claimed(file.path().to_str().expect("text"), 0), None);
    }
}
