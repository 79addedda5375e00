//! The journal of a state directory: one line of JSON per host object, written before the object is made.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

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

const NAME: &str = "journal";
/// A journal has a dozen lines; a longer one was not written by us.
const MAX_BYTES: u64 = 1024 * 1024;

impl Journal {
    pub(super) fn create(dir: &Path) -> io::Result<Self> {
        OpenOptions::new().create_new(true).append(true).open(dir.join(NAME)).map(Self)
    }

    /// Writes one object down. It survives the death of this process, not that of the machine: nor does the object.
    pub(super) fn append(&self, object: &HostObject) -> io::Result<()> {
        let mut line = serde_json::to_vec(object)?;
        line.push(b'\n');
        (&self.0).write_all(&line)
    }
}

/// What is written down in `dir`. A torn last line names an object that was never made.
pub(super) fn read(dir: &Path) -> io::Result<Vec<HostObject>> {
    let file = match File::open(dir.join(NAME)) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(file, MAX_BYTES), &mut text)?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_read_back_and_a_torn_line_is_ignored() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(read(dir.path()).expect("no journal yet"), []);
        let objects = [
            HostObject::Owner { pid: 7 },
            HostObject::Process { token: "t".into() },
            HostObject::Cgroup { path: "/c g".into() },
            HostObject::File { path: "/f".into() },
        ];
        let journal = Journal::create(dir.path()).expect("a journal");
        for object in &objects {
            journal.append(object).expect("written");
        }
        (&journal.0).write_all(b"{\"kind\":\"file\",\"pa").expect("torn");
        assert_eq!(read(dir.path()).expect("readable"), objects);
    }
}
