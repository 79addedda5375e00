//! Paths of requests, by the names that the kernel has for them.
//!
//! What is mounted by way of a link is mounted where the link leads, and the kernel lists it there. So a path is followed
//! once, when it is a request's turn, and what comes of that is what is mounted at, written down and compared.

use std::fs;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use super::StorageError;

/// The path, if something may be mounted there.
pub(super) fn absolute(path: &str) -> Result<&Path, StorageError> {
    let directory = Path::new(path);
    // What `..` leads to depends on what is there by then.
    let goes_up = directory.components().any(|part| part == Component::ParentDir);
    if directory.is_absolute() && directory.parent().is_some() && !goes_up {
        return Ok(directory);
    }
    Err(StorageError::Bad(format!(
        "mount path {path:?} is not the full path of a directory beneath the root, without \"..\""
    )))
}

/// The path with the links followed that are in it, but for the last name: what is there is mounted over, or removed, itself.
/// What is not there yet stays as it is said.
pub(super) fn resolved(path: &Path) -> Result<PathBuf, StorageError> {
    let failed = |at: &Path| StorageError::at(format!("follow {} on the way to {}", at.display(), path.display()));
    let (above, name) = path.parent().zip(path.file_name()).unwrap_or((path, "".as_ref()));
    let mut found = PathBuf::new();
    for part in above.components() {
        if part == Component::ParentDir {
            // By now no link is left that would lead elsewhere.
            found.pop();
            continue;
        }
        found.push(part);
        // Unlike attributes, what a link says is never asked of a share's server.
        match fs::read_link(&found) {
            Ok(_) => found = found.canonicalize().map_err(failed(&found))?,
            // It is no link; or it is not there, or is a file, and whoever needs it says so.
            Err(e) if is_no_link(e.kind()) => {}
            Err(e) => return Err(failed(&found)(e)),
        }
    }
    Ok(found.join(name))
}

/// Where a link leads, if there is one at the very path.
pub(super) fn link_at(path: &Path) -> Result<Option<PathBuf>, StorageError> {
    match fs::read_link(path) {
        Ok(to) => Ok(Some(to)),
        Err(e) if is_no_link(e.kind()) => Ok(None),
        Err(e) => Err(StorageError::at(format!("look at {}", path.display()))(e)),
    }
}

fn is_no_link(error: ErrorKind) -> bool {
    matches!(error, ErrorKind::InvalidInput | ErrorKind::NotFound | ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_followed_but_for_the_last_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().canonicalize().expect("there");
        fs::create_dir_all(root.join("run/data")).expect("made");
        fs::create_dir(root.join("var")).expect("made");
        symlink("../run", root.join("var/run")).expect("linked");
        symlink(root.join("var"), root.join("v")).expect("linked");
        symlink("nowhere", root.join("dangling")).expect("linked");
        fs::write(root.join("file"), "").expect("written");
        for (path, expected) in [
            ("run/data", "run/data"),
            ("var/run/data", "run/data"),
            ("v/run/data/", "run/data"),
            ("v/./run//new/a/b", "run/new/a/b"),
            ("v/run/../new/upper", "new/upper"),
            ("var/run", "var/run"),
            ("v", "v"),
            ("new/a", "new/a"),
            ("file/a", "file/a"),
        ] {
            assert_eq!(resolved(&root.join(path)).expect(path), root.join(expected), "{path}");
        }
        let error = resolved(&root.join("dangling/a")).expect_err("it leads nowhere").to_string();
        assert!(error.contains("/dangling on the way to"), "{error}");
        assert_eq!(resolved(Path::new("/x")).expect("plain"), Path::new("/x"));
    }

    #[test]
    fn paths_are_full_ones_and_not_the_root() {
        for path in ["", "/", "relative", "./x", "//", "/..", "/x/../proc", "/x/.."] {
            let error = absolute(path).expect_err(path).to_string();
            assert!(error.contains(&format!("{path:?}")), "{error}");
        }
        for path in ["/x", "/x..", "/x/./y", "/..x//y/"] {
            absolute(path).expect(path);
        }
    }
}
