//! Boot files that somebody else made: a directory whose `manifest.json` says whose agent is in it.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::REMEDY;
use crate::error::{ImageError, Intent, IoContext};
use crate::manifest::{AgentKind, Manifest};
use crate::sealed::{self, Damage, Depth, FileRecords};

/// What is known of a directory with the original's agent in it. Its manifest is written by hand, and may be as short as
///
/// ```json
/// {"format": 1, "agent": {"kind": "original"}}
/// ```
///
/// Besides, it may tell `kernel.hz` (timer ticks a second), and `files`: size and SHA-256 of each file by name, which are
/// compared then; and whatever else a [`Manifest`] has, which is not looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenBootFiles {
    /// Timer ticks a second of the kernel, where it is told.
    pub kernel_hz: Option<u32>,
}

#[derive(Deserialize)]
struct Description {
    format: u32,
    #[serde(default)]
    kernel: Kernel,
    #[serde(default)]
    files: FileRecords,
}

#[derive(Default, Deserialize)]
struct Kernel {
    #[serde(default)]
    hz: Option<u32>,
}

/// As much of any manifest as tells whose agent it is about.
#[derive(Deserialize)]
struct Kind {
    agent: KindOnly,
}

#[derive(Deserialize)]
struct KindOnly {
    kind: AgentKind,
}

/// A manifest is a page, not a book.
const MAX_MANIFEST: u64 = 1 << 20;

impl GivenBootFiles {
    /// Reads the manifest in `dir` if the agent there is the original's. `None`: it is another, and
    /// [`BootFiles::open`](super::BootFiles::open) is to read it.
    ///
    /// # Errors
    /// [`ImageError::Damaged`]: the manifest is none, or a file does not fit it.
    pub fn open(dir: &Path) -> Result<Option<Self>, ImageError> {
        let path = dir.join(Manifest::FILE);
        let unusable = |why: String| {
            let example = r#"at least {"format": 1, "agent": {"kind": "original"}} is needed"#;
            let damage = Damage::Description { file: Manifest::FILE.into(), why: format!("{why}; {example}") };
            ImageError::damaged(dir, damage, "correct it")
        };
        let bytes = fs::metadata(&path).at(Intent::Read, &path)?.len();
        if bytes > MAX_MANIFEST {
            return Err(unusable(format!("it has {bytes} bytes, at most {MAX_MANIFEST} are allowed")));
        }
        let text = fs::read(&path).at(Intent::Read, &path)?;
        match serde_json::from_slice(&text) {
            Ok(Kind { agent: KindOnly { kind: AgentKind::Original } }) => {}
            Ok(_) => return Ok(None),
            Err(e) => return Err(unusable(e.to_string())),
        }
        let given: Description = serde_json::from_slice(&text).map_err(|e| unusable(e.to_string()))?;
        if given.format != Manifest::FORMAT {
            return Err(unusable(format!("format {} is not known, {} is", given.format, Manifest::FORMAT)));
        }
        sealed::check_files(dir, &given.files, Depth::Quick)
            .map_err(|damage| ImageError::damaged(dir, damage, REMEDY))?;
        Ok(Some(Self { kernel_hz: given.kernel.hz }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(manifest: &str) -> Result<Option<GivenBootFiles>, String> {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join(Manifest::FILE), manifest).expect("written");
        fs::write(dir.path().join("kernel"), "kernel").expect("written");
        GivenBootFiles::open(dir.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_line_is_enough_and_what_more_is_told_is_used() {
        let given = |hz| Ok(Some(GivenBootFiles { kernel_hz: hz }));
        assert_eq!(open(r#"{"format":1,"agent":{"kind":"original"}}"#), given(None));
        let more = r#"{"format":1,"agent":{"kind":"original","version":"2021"},"kernel":{"hz":250},"busybox":null}"#;
        assert_eq!(open(more), given(Some(250)));
        assert_eq!(open(r#"{"format":1,"agent":{"kind":"ours","version":"1"},"rest":0}"#), Ok(None));
    }

    #[test]
    fn what_does_not_fit_is_told() {
        for (manifest, word) in [
            ("{}", "missing field `agent`"),
            (r#"{"format":1,"agent":{"kind":"theirs"}}"#, "unknown variant `theirs`"),
            (r#"{"format":2,"agent":{"kind":"original"}}"#, "format 2 is not known"),
            (r#"{"format":1,"agent":{"kind":"original"},"kernel":{"hz":"fast"}}"#, "invalid type: string"),
            ("", "EOF"),
            (
                r#"{"format":1,"agent":{"kind":"original"},"files":{"kernel":{"size":7,"sha256":
                "0000000000000000000000000000000000000000000000000000000000000000"}}}"#,
                "kernel has 6 bytes instead of 7",
            ),
        ] {
            let error = open(manifest).expect_err(manifest);
            assert!(error.contains(word), "{manifest}: {error}");
        }
        let long = format!(r#"{{"format":1,"agent":{{"kind":"original","version":"{}"}}}}"#, "1".repeat(1 << 20));
        assert!(open(&long).expect_err("too long").contains("at most 1048576"));
    }
}
