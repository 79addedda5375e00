//! Directories that hold one thing each, told apart by name: boot files, kernels.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{ImageError, Intent};

/// What was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Removed {
    /// Its full name.
    pub name: String,
    /// Bytes its files had. Those shared with something else by a second name are still on disk.
    pub bytes: u64,
}

/// The sub-directories of `dir`, by name, sorted. None if there is no such directory.
pub(crate) fn list(dir: &Path) -> Result<Vec<(String, PathBuf)>, ImageError> {
    let list = match fs::read_dir(dir) {
        Ok(list) => list,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(ImageError::io(Intent::Read, dir, error)),
    };
    let names = list.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut entries: Vec<_> =
        names.map(|name| (name.clone(), dir.join(name))).filter(|(_, path)| path.is_dir()).collect();
    entries.sort();
    Ok(entries)
}

/// The entry of `dir` that `name` names, in full or by its beginning.
pub(crate) fn find(dir: &Path, name: &str, what: &'static str) -> Result<(String, PathBuf), ImageError> {
    let entries = list(dir)?;
    if let Some(exact) = entries.iter().find(|(entry, _)| entry == name) {
        return Ok(exact.clone());
    }
    let fits: Vec<_> =
        entries.iter().filter(|(entry, _)| !name.is_empty() && entry.starts_with(name)).cloned().collect();
    let names = |list: Vec<(String, PathBuf)>| list.into_iter().map(|(name, _)| name).collect();
    match <[_; 1]>::try_from(fits) {
        Ok([only]) => Ok(only),
        Err(fits) if fits.is_empty() => {
            Err(ImageError::NoSuchEntry { what, name: name.to_owned(), dir: dir.to_owned(), known: names(entries) })
        }
        Err(fits) => Err(ImageError::AmbiguousName { what, name: name.to_owned(), fits: names(fits) }),
    }
}

/// Bytes in the regular files of a tree, as far as they can be told.
pub(crate) fn tree_size(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => tree_size(&entry.path()),
            Ok(metadata) if metadata.is_file() => metadata.len(),
            _ => 0,
        })
        .sum()
}

/// Whether `name` can be one of our entries: one part of a path.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_must_fit_exactly_one() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["trimmed-6.12.1-aa", "trimmed-6.12.1-ab", "trimmed"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let look_up = |name: &str| find(dir.path(), name, "kernel").map(|(name, _)| name);
        assert_eq!(look_up("trimmed").unwrap(), "trimmed", "a full name wins");
        assert_eq!(look_up("trimmed-6.12.1-ab").unwrap(), "trimmed-6.12.1-ab");
        assert!(matches!(look_up("trimmed-"), Err(ImageError::AmbiguousName { fits, .. }) if fits.len() == 2));
        assert!(matches!(look_up(""), Err(ImageError::NoSuchEntry { known, .. }) if known.len() == 3));
        assert!(matches!(look_up("../x"), Err(ImageError::NoSuchEntry { .. })));
        assert!(list(&dir.path().join("none")).unwrap().is_empty());
    }
}
