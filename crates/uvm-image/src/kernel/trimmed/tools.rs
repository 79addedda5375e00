//! What must be installed before a kernel can be compiled.

use std::fs;
use std::path::Path;

use crate::error::{ImageError, Intent, IoContext};
use crate::exec::Run;
use crate::staging::Staging;
use crate::store::ImageStore;

/// Programs, and the Debian packages they are in.
const PROGRAMS: &[(&str, &str)] = &[
    ("gcc", "gcc"),
    ("make", "make"),
    ("ld", "binutils"),
    ("strip", "binutils"),
    ("flex", "flex"),
    ("bison", "bison"),
    ("bc", "bc"),
    ("perl", "perl"),
    ("gzip", "gzip"),
    ("awk", "mawk"),
    ("cmp", "diffutils"),
    ("find", "findutils"),
];

/// Headers, and the Debian packages they are in.
const HEADERS: &[(&str, &str)] = &[("stdio.h", "libc6-dev"), ("gelf.h", "libelf-dev")];

/// Fails if something is missing, with the command that installs it.
pub(super) fn check(store: &ImageStore) -> Result<(), ImageError> {
    let mut missing: Vec<_> =
        PROGRAMS.iter().filter(|(program, _)| store.program(program).is_none()).copied().collect();
    if let Some(gcc) = store.program("gcc") {
        for header in HEADERS {
            if !has_header(store, &gcc, header.0)? {
                missing.push(*header);
            }
        }
    } else {
        missing.extend(HEADERS.iter().filter(|(header, _)| !Path::new("/usr/include").join(header).exists()));
    }
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    packages.dedup();
    let install = format!("sudo apt-get install --no-install-recommends {}", packages.join(" "));
    Err(ImageError::BuildToolsMissing {
        missing: missing.iter().map(|(name, _)| (*name).to_owned()).collect(),
        install,
    })
}

/// Whether the compiler finds a header, wherever it looks.
fn has_header(store: &ImageStore, gcc: &Path, header: &str) -> Result<bool, ImageError> {
    let staging = Staging::new(&store.data_dir, "probe")?;
    let probe = staging.path().join("probe.c");
    fs::write(&probe, format!("#include <{header}>\n")).at(Intent::Write, &probe)?;
    match Run::new(store, gcc, store.deadlines.query).arg("-fsyntax-only").arg(&probe).capture(|| ()) {
        Ok(_) => Ok(true),
        Err(ImageError::CommandFailed { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::data_dir::DataDir;

    #[test]
    fn what_is_missing_is_named_with_the_command_that_installs_it() {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        fs::create_dir(&bin).unwrap();
        let script = |name: &str, text: &str| {
            fs::write(bin.join(name), format!("#!/bin/sh\n{text}\n")).unwrap();
            fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        };
        for (name, _) in PROGRAMS.iter().filter(|(name, _)| !matches!(*name, "flex" | "ld" | "strip")) {
            script(name, "exit 0");
        }
        // A compiler that lacks one header.
        script("gcc", r#"read first < "$2"; case "$first" in *gelf.h*) exit 1;; esac"#);
        let store = ImageStore::new(DataDir::at(dir.path().join("data")).unwrap()).with_search_path(&bin);
        let error = check(&store).unwrap_err();
        let ImageError::BuildToolsMissing { missing, install } = &error else { panic!("{error}") };
        assert_eq!(missing, &["ld", "strip", "flex", "gelf.h"]);
        assert!(install.ends_with("--no-install-recommends binutils flex libelf-dev"), "{install}");
        for name in ["flex", "ld", "strip"] {
            script(name, "exit 0");
        }
        script("gcc", "exit 0");
        check(&store).unwrap();
    }
}
