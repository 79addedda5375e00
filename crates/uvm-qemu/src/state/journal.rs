//! The journal of a state directory: one line of JSON per host object, written before the object is made.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::dir;

/// Something of a VM on the host that outlives a killed owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum HostObject {
    /// The process that wrote this journal. Not removed, only shown.
    Owner { pid: u32 },
    /// Processes that carry this token among their arguments.
    Process { token: String },
    /// A control group, with every process in it.
    Cgroup { path: PathBuf },
    /// A Unix socket or another file.
    File { path: PathBuf },
}

impl HostObject {
    /// What it is, for a report.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Owner { pid } => format!("owner {pid}"),
            Self::Process { token } => format!("processes with token {token}"),
            Self::Cgroup { path } => format!("cgroup {}", path.display()),
            Self::File { path } => format!("file {}", path.display()),
        }
    }
}

/// The journal, open for appending.
#[derive(Debug)]
pub(super) struct Journal(File);

/// The journal's name in its directory.
pub(super) const NAME: &str = "journal";
/// A journal has a dozen lines; a longer one was not written by us.
const MAX_BYTES: u64 = 1024 * 1024;

impl Journal {
    pub(super) fn create(dir: BorrowedFd<'_>) -> io::Result<Self> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::openat(dir, NAME, flags, Mode::RUSR | Mode::WUSR)?.into()))
    }

    /// Writes one object down. It survives the death of this process, not that of the machine: nor does the object.
    pub(super) fn append(&self, object: &HostObject) -> io::Result<()> {
        let mut line = serde_json::to_vec(object)?;
        line.push(b'\n');
        (&self.0).write_all(&line)
    }
}

/// What is written down in `dir`; `None` if there is no journal. A torn last line names an object that was never made.
///
/// # Errors
/// Somebody else owns it or may write it, it is no regular file, or it cannot be read.
pub(super) fn read(dir: BorrowedFd<'_>) -> io::Result<Option<Vec<HostObject>>> {
    let Some(file) = dir::open_own(dir, NAME, OFlags::RDONLY)? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(Some(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn objects_are_read_back_and_broken_lines_are_ignored() {
        let place = tempfile::tempdir().expect("a directory");
        let dir = File::open(place.path()).expect("opened");
        assert_eq!(read(dir.as_fd()).expect("no journal yet"), None);
        let objects = [
            HostObject::Owner { pid: 7 },
            HostObject::Process { token: "t".into() },
            HostObject::Cgroup { path: "/c g".into() },
            HostObject::File { path: "/f".into() },
        ];
        let journal = Journal::create(dir.as_fd()).expect("a journal");
        for object in &objects {
            journal.append(object).expect("written");
        }
        (&journal.0).write_all(b"\xff\n{\"kind\":\"file\",\"pa").expect("torn");
        assert_eq!(read(dir.as_fd()).expect("readable"), Some(objects.to_vec()));
    }
}
