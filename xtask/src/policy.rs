//! What may be depended on: licenses and sources, from what cargo knows of every package. And where code may be unsafe.

use std::collections::BTreeSet;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::shell::Cmd;

/// Licenses that go with MIT. An expression passes if one of its alternatives consists of these alone.
const LICENSES: [&str; 10] =
    ["MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "0BSD", "ISC", "Zlib", "Unicode-3.0", "Unlicense", "CC0-1.0"];

/// Where packages may come from, besides this project: cargo's own registry, by the end of its index's name.
const SOURCE: &str = "/crates.io-index";

/// Crates that must not come in: what they are for is done otherwise here.
const BANNED: [&str; 3] = ["openssl", "openssl-sys", "async-std"];

/// The modules that may allow themselves unsafe code, by the beginning of their paths. The lint of the workspace forbids it
/// to all others.
const UNSAFE: [&str; 8] = [
    "crates/uvm-agent/src/sys.rs",
    "crates/uvm-fs/src/sys.rs",
    "crates/uvm-hcs/src/compute_core/mod.rs",
    "crates/uvm-hcs/stand-in/src/",
    "crates/uvm-qemu/src/sink.rs",
    "crates/uvm-qemu/src/spawn.rs",
    "tests/guest/src/mapped.rs",
    "tests/wine/src/lib.rs",
];

/// Checks all of it.
pub(crate) fn check() -> anyhow::Result<()> {
    unsafe_code()?;
    dependencies()
}

/// Checks that no other module allows itself unsafe code.
fn unsafe_code() -> anyhow::Result<()> {
    // Every module that allows it names the lint, as does this file.
    let named = ["grep", "--untracked", "-lw", "unsafe_code", "--", "*.rs", ":!xtask/src/policy.rs"];
    let listed = Cmd::new("git").args(named).output()?;
    let mut others = Vec::new();
    for file in listed.lines().filter(|file| !UNSAFE.iter().any(|allowed| file.starts_with(allowed))) {
        let text = std::fs::read_to_string(crate::shell::root().join(file))?;
        // Whoever forbids it names it, too.
        if text.lines().any(|line| line.contains("unsafe_code") && !line.contains("forbid(")) {
            others.push(file.to_owned());
        }
    }
    if !others.is_empty() {
        bail!("unsafe code where CONTRIBUTING.md does not list it: {}", others.join(", "));
    }
    Ok(())
}

/// Checks every package that is built for any target.
fn dependencies() -> anyhow::Result<()> {
    let text = Cmd::cargo().args(["metadata", "--format-version", "1"]).output()?;
    let metadata: Value = serde_json::from_str(&text).context("cargo metadata")?;
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    let mut faults = BTreeSet::new();
    for package in packages {
        let text = |key: &str| package[key].as_str().unwrap_or_default();
        let (name, license) = (text("name"), text("license"));
        if !is_allowed(license) {
            faults.insert(format!("{name}: license {license:?}"));
        }
        let source = text("source");
        let allowed = source.is_empty() || (source.starts_with("registry+") && source.ends_with(SOURCE));
        if !allowed {
            faults.insert(format!("{name}: source {source:?}"));
        }
        if BANNED.contains(&name) {
            faults.insert(format!("{name}: banned"));
        }
    }
    if !faults.is_empty() {
        bail!("dependencies that are not allowed:\n  {}", faults.into_iter().collect::<Vec<_>>().join("\n  "));
    }
    eprintln!("{} packages: licenses and sources are fine", packages.len());
    Ok(())
}

/// Whether an SPDX expression leaves a choice that is allowed: AND binds before OR, an old slash means OR.
fn is_allowed(license: &str) -> bool {
    let spaced = license.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words: Vec<&str> = spaced.split_whitespace().rev().collect();
    // An expression that is none is not allowed.
    alternatives(&mut words) && words.is_empty()
}

/// Reads `conjunction OR conjunction ...`; the next word is the last one.
fn alternatives(words: &mut Vec<&str>) -> bool {
    let mut allowed = conjunction(words);
    while words.pop_if(|word| *word == "OR").is_some() {
        allowed |= conjunction(words);
    }
    allowed
}

fn conjunction(words: &mut Vec<&str>) -> bool {
    let mut allowed = term(words);
    while words.pop_if(|word| *word == "AND").is_some() {
        allowed &= term(words);
    }
    allowed
}

fn term(words: &mut Vec<&str>) -> bool {
    match words.pop() {
        Some("(") => {
            let allowed = alternatives(words);
            words.pop() == Some(")") && allowed
        }
        Some(license) => {
            // `WITH` an exception allows more, never less.
            if words.pop_if(|word| *word == "WITH").is_some() {
                words.pop();
            }
            LICENSES.contains(&license)
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::is_allowed;

    #[test]
    fn an_alternative_of_known_licenses_is_enough() {
        for good in [
            "MIT",
            "MIT OR GPL-3.0",
            "MIT/Apache-2.0",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "GPL-3.0 OR (ISC AND MIT)",
        ] {
            assert!(is_allowed(good), "{good}");
        }
        for bad in [
            "",
            "(MIT OR Apache-2.0) AND GPL-3.0",
            "MIT)",
            "(MIT",
            "MIT MIT",
            "GPL-2.0",
            "MIT AND GPL-3.0",
            "LGPL-2.1 OR MPL-2.0",
        ] {
            assert!(!is_allowed(bad), "{bad}");
        }
    }
}
