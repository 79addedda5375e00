//! What the agent's flags change in the kernel.

use std::fs;
use std::io;
use std::path::Path;

use crate::flags::AgentFlags;
use crate::log::Log;

const CORE_PATTERN: &str = "/proc/sys/kernel/core_pattern";

/// Changes it. What the kernel refuses is an entry of the log.
pub(crate) fn apply(flags: &AgentFlags, log: &Log) {
    if let Some(pattern) = &flags.core_pattern
        && let Err(e) = set(Path::new(CORE_PATTERN), pattern)
    {
        log.error(format_args!("core dumps do not go to {pattern:?}"), &e);
    }
}

fn set(path: &Path, value: &str) -> io::Result<()> {
    fs::write(path, value).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_written_as_it_is_and_a_refusal_names_the_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("core_pattern");
        set(&path, "/tmp/core.%p").expect("written");
        assert_eq!(fs::read_to_string(&path).expect("read"), "/tmp/core.%p");
        let error = set(&dir.path().join("no/such"), "x").expect_err("no such directory").to_string();
        assert!(error.contains("no/such: No such file"), "{error}");
    }
}
