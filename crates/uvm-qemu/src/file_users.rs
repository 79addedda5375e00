//! Who has a file open: for errors that say whom to ask.

use std::fs;
use std::path::Path;

use crate::file_key::FileKey;

/// How many are named.
const NAMED: usize = 5;

/// The processes that have the file open, but for `these`, for people to read: QEMUs by the names of their VMs. Those of
/// other users cannot be seen without privileges.
pub(crate) fn besides(file: FileKey, these: &[u32]) -> Vec<String> {
    let processes = fs::read_dir("/proc").into_iter().flatten();
    let numbers = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    numbers.filter(|process| !these.contains(process) && has_open(*process, file)).take(NAMED).map(name).collect()
}

fn has_open(process: u32, file: FileKey) -> bool {
    let open = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten();
    open.filter_map(|entry| fs::metadata(entry.ok()?.path()).ok()).any(|meta| FileKey::of(&meta) == file)
}

fn name(process: u32) -> String {
    let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    let vm = words.windows(2).find(|pair| pair[0] == "-name").and_then(|pair| pair[1].split(',').next());
    if let Some(vm) = vm {
        return format!("VM {vm} (QEMU, pid {process})");
    }
    let program = words.first().map(AsRef::as_ref).unwrap_or_default();
    let program = Path::new(program).file_name().unwrap_or_default().to_string_lossy();
    format!("{program} (pid {process})")
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn whoever_has_a_file_open_is_named() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let key = FileKey::of(&file.as_file().metadata().expect("its metadata"));
        assert_eq!(besides(key, &[std::process::id()]), [] as [&str; 0]);
        let stdin = Stdio::from(file.reopen().expect("open"));
        let mut child = Command::new("sleep").arg("1000").stdin(stdin).spawn().expect("started");
        let users = besides(key, &[std::process::id()]);
        assert_eq!(besides(key, &[std::process::id(), child.id()]), [] as [&str; 0]);
        child.kill().expect("killed");
        child.wait().expect("waited");
        assert_eq!(users, [format!("sleep (pid {})", child.id())]);
    }
}
