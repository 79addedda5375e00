//! `/bin/uvm-enter ROOT DIRECTORY PROGRAM ARGUMENTS...`: becomes a program that has ROOT for its root, as combined layers are
//! run in, and begins in DIRECTORY there.
//!
//! It is the program's view, and no wall: what runs there as root can get out.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::mount::mount_bind_recursive;

/// Directories of this guest that programs expect in any root. What a root has there is hidden.
const SEEN: [&str; 3] = ["proc", "sys", "dev"];
/// As shells say it: there is no such program, it cannot be run, and what comes before either has failed.
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;
const FAILED: i32 = 125;

/// Becomes the program. Returns only by ending this process, where that cannot be done.
pub fn run(arguments: &[String]) -> ! {
    let [root, directory, program, rest @ ..] = arguments else {
        eprintln!("uvm-enter: ROOT DIRECTORY PROGRAM ARGUMENTS... are needed");
        std::process::exit(FAILED);
    };
    if let Err((step, error)) = enter(Path::new(root), Path::new(directory)) {
        eprintln!("uvm-enter: {step}: {error}");
        std::process::exit(FAILED);
    }
    let error = Command::new(program).args(rest).exec();
    eprintln!("uvm-enter: cannot run {program:?}: {error}");
    std::process::exit(code_of(&error))
}

fn enter(root: &Path, directory: &Path) -> Result<(), (String, io::Error)> {
    let failed = |step: String| move |error: io::Error| (step, error);
    for name in SEEN {
        let at = root.join(name);
        let made = fs::create_dir_all(&at);
        made.map_err(failed(format!("make {}", at.display())))?;
        let bound = mount_bind_recursive(Path::new("/").join(name), &at);
        bound.map_err(|e| failed(format!("show /{name} at {}", at.display()))(e.into()))?;
    }
    let changed = rustix::process::chroot(root).and_then(|()| rustix::process::chdir("/"));
    changed.map_err(|e| failed(format!("make {} the root", root.display()))(e.into()))?;
    let gone = rustix::process::chdir(directory);
    gone.map_err(|e| failed(format!("working directory {}", directory.display()))(e.into()))
}

fn code_of(error: &io::Error) -> i32 {
    if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_and_what_cannot_run_have_codes_of_their_own() {
        let code = |program: &str| code_of(&Command::new(program).spawn().expect_err("no program"));
        assert_eq!((code("/no-such-program"), code("/")), (127, 126));
    }

    #[test]
    fn a_root_that_is_not_there_is_named() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let (step, _) = enter(file.path(), Path::new("/")).expect_err("it is a file");
        assert!(step.contains(&file.path().display().to_string()), "{step}");
    }
}
