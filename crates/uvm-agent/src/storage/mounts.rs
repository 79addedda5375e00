//! What the kernel says is mounted, and where.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// A line of the kernel's list of mounts (`/proc/self/mountinfo`), in which some characters are written as octal numbers.
/// No mount point is asked what it is: its server may have gone.
#[derive(Debug)]
pub(super) struct Mounted {
    /// The number of the device, of a file system on one: `8:1`.
    pub(super) number: String,
    pub(super) source: String,
    pub(super) path: PathBuf,
    pub(super) filesystem: String,
}

impl Mounted {
    /// What is mounted there; the last one hides the others.
    pub(super) fn at(path: &Path) -> Option<Self> {
        Self::all().into_iter().rfind(|mounted| mounted.path == path)
    }

    /// All that is mounted, in the order it came.
    pub(super) fn all() -> Vec<Self> {
        Self::listed(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
    }

    pub(super) fn listed(mounts: &str) -> Vec<Self> {
        mounts.lines().filter_map(Self::parse).collect()
    }

    fn parse(line: &str) -> Option<Self> {
        // Its number, its parent's, the device's, what of it is mounted, where; options, some of which may be missing, end with
        // a dash.
        let mut words = line.split(' ').skip(2);
        let (number, path) = (words.next()?, words.nth(1)?);
        let mut words = words.skip_while(|word| *word != "-").skip(1);
        let (filesystem, source) = (words.next()?, words.next()?);
        Some(Self {
            number: number.to_owned(),
            source: String::from_utf8_lossy(&unescaped(source)).into_owned(),
            path: OsString::from_vec(unescaped(path)).into(),
            filesystem: filesystem.to_owned(),
        })
    }
}

/// Where a file system of one of these devices, by their numbers, is mounted, but at `path`.
pub(super) fn mounted_elsewhere(devices: &[String], path: Option<&Path>) -> Option<PathBuf> {
    elsewhere(Mounted::all(), devices, path)
}

fn elsewhere(mounts: Vec<Mounted>, devices: &[String], path: Option<&Path>) -> Option<PathBuf> {
    let is_such = |mounted: &Mounted| devices.contains(&mounted.number) && Some(mounted.path.as_path()) != path;
    mounts.into_iter().find(is_such).map(|mounted| mounted.path)
}

fn unescaped(word: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = word.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let octal = after.first_chunk::<3>().filter(|_| *first == b'\\').and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        bytes.push(octal.unwrap_or(*first));
        rest = octal.map_or(after, |_| &after[3..]);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_mounts_of_a_device_are_found_by_its_numbers() {
        let mounts = "22 1 8:16 / /run/data rw,relatime shared:1 - ext4 /dev/sdb rw\n\
                      23 1 8:17 /sub /mnt/a\\040b rw - ext4 /dev/disk/by-id/x rw\n\
                      24 1 0:5 / /dev rw - devtmpfs devtmpfs rw\n";
        let devices = |numbers: &[&str]| numbers.iter().map(|&number| number.to_owned()).collect::<Vec<_>>();
        let found = |numbers: &[&str], path: Option<&str>| {
            elsewhere(Mounted::listed(mounts), &devices(numbers), path.map(Path::new))
        };
        assert_eq!(found(&["8:16"], Some("/run/data")), None);
        assert_eq!(found(&["8:16"], None), Some("/run/data".into()));
        assert_eq!(found(&["8:16", "8:17"], Some("/run/data")), Some("/mnt/a b".into()));
        assert_eq!(found(&["8:1"], None), None);
    }

    #[test]
    fn a_line_is_read_with_any_number_of_options() {
        let lines = "36 35 98:0 / /a rw,noatime master:1 propagate_from:2 - ext4 /dev/a\\040b rw\n\
                     37 35 0:50 / /b\\134c\\ rw - 9p  rw,trans=fd\njunk\n38 35 0:51 / /c rw shared:1\n";
        let found = Mounted::listed(lines);
        let found: Vec<_> = found
            .iter()
            .map(|m| (m.number.as_str(), m.path.to_str().expect("text"), m.filesystem.as_str(), m.source.as_str()))
            .collect();
        assert_eq!(found, [("98:0", "/a", "ext4", "/dev/a b"), ("0:50", "/b\\c\\", "9p", "")]);
    }
}
