//! What cargo keeps of packages that were packed before.
//!
//! `cargo package` builds each package against those that were packed with it, from a registry of its own. It takes what has
//! one version to be the same for ever, as it is in a real registry: a second run in one checkout would check the sources of
//! the first. So what is left of that is forgotten.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// How names of such a registry's directories begin; those of others begin with a host's name.
const UNNAMED: &str = "-";

/// cargo's own directory.
pub(crate) fn cargo_home() -> anyhow::Result<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo"))).context("no home directory")
}

/// Forgets the sources of these packages in cargo's own directory, and in `target` that they were compiled.
pub(crate) fn forget(packages: &[String], home: &Path, target: &Path) -> anyhow::Result<()> {
    for registry in entries(&home.join("registry/src"))?.iter().filter(|path| begins(path, UNNAMED)) {
        for sources in entries(registry)?.iter().filter(|path| packages.iter().any(|package| is_of(path, package))) {
            remove(sources)?;
        }
    }
    forget_compiled(&target.join("debug"))
}

/// cargo compiles again what has no fingerprint. A list of what was compiled from which files stands beside the outcome, under
/// the same name but for dashes.
fn forget_compiled(profile: &Path) -> anyhow::Result<()> {
    let lists = entries(&profile.join("deps"))?;
    let names = lists.iter().filter(|path| path.extension().is_some_and(|end| end == "d")).filter(|path| {
        // One that is gone meanwhile is none.
        fs::read_to_string(path).is_ok_and(|list| list.contains(&format!("/registry/src/{UNNAMED}")))
    });
    let names: Vec<String> = names.filter_map(|path| Some(path.file_stem()?.to_str()?.replace('_', "-"))).collect();
    for fingerprint in entries(&profile.join(".fingerprint"))? {
        let name = fingerprint.file_name().map(|name| name.to_string_lossy().replace('_', "-"));
        if name.is_some_and(|name| names.contains(&name)) {
            remove(&fingerprint)?;
        }
    }
    Ok(())
}

fn begins(path: &Path, with: &str) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(with))
}

/// Whether a directory is that of a package: its name, a dash, its version.
fn is_of(path: &Path, package: &str) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let version = name.strip_prefix(package).and_then(|rest| rest.strip_prefix('-'));
    version.is_some_and(|version| version.starts_with(|c: char| c.is_ascii_digit()))
}

/// What is in a directory; nothing, if it is not there.
fn entries(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let looked = || format!("look into {}", directory.display());
    match fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>().with_context(looked),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e).with_context(looked),
    }
}

fn remove(directory: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e).with_context(|| format!("remove {}", directory.display())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_of_other_packages_and_registries_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let (home, target) = (dir.path().join("home"), dir.path().join("target"));
        let sources = |name: &str| home.join("registry/src").join(name);
        let built = |name: &str| target.join("debug/.fingerprint").join(name);
        let (overlay, other) = (sources("-0a/uvm-p9-0.1.0"), sources("-0a/other-1.0.0"));
        let named = sources("index.example-0b/uvm-p9-0.1.0");
        let (stale, ours) = (built("uvm-p9-01"), built("uvm-p9-02"));
        for directory in [&overlay, &other, &named, &stale, &ours, &target.join("debug/deps")] {
            fs::create_dir_all(directory).expect("made");
        }
        for (list, of) in [("uvm_p9-01.d", &overlay), ("uvm_p9-02.d", &dir.path().join("crates/uvm-p9"))] {
            let text = format!("x: {}/src/lib.rs\n", of.display());
            fs::write(target.join("debug/deps").join(list), text).expect("written");
        }
        forget(&["uvm-p9".to_owned()], &home, &target).expect("forgotten");
        assert!(!overlay.exists() && other.exists() && named.exists());
        assert!(!stale.exists() && ours.exists());
        forget(&["uvm-p9".to_owned()], &dir.path().join("none"), &dir.path().join("none")).expect("nothing to forget");
    }

    #[test]
    fn directories_of_a_package_are_told_from_those_of_others() {
        assert!(is_of(Path::new("/x/uvm-0.1.0"), "uvm") && is_of(Path::new("/x/uvm-p9-0.1.0"), "uvm-p9"));
        for other in ["/x/uvm-p9-0.1.0", "/x/uvm", "/x/uvmm-0.1.0", "/"] {
            assert!(!is_of(Path::new(other), "uvm"), "{other}");
        }
    }
}
