//! What may be depended on: licenses and sources, from what cargo knows of every package.

use std::collections::BTreeSet;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::shell::Cmd;

/// Licenses that go with MIT. An expression passes if one of its alternatives consists of these alone.
const LICENSES: [&str; 11] = [
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "0BSD",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "Unlicense",
    "CC0-1.0",
];

/// Where packages may come from, besides this project: cargo's own registry, by the end of its index's name.
const SOURCE: &str = "/crates.io-index";

/// Crates that must not come in: what they are for is done otherwise here.
const BANNED: [&str; 3] = ["openssl", "openssl-sys", "async-std"];

/// Checks every package that is built for any target.
pub(crate) fn check() -> anyhow::Result<()> {
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

/// An SPDX expression of the simple kind that crates have: alternatives of conjunctions, and old ones with a slash.
fn is_allowed(license: &str) -> bool {
    let normal = license.replace('/', " OR ");
    normal.replace(['(', ')'], "").split(" OR ").any(|alternative| {
        !alternative.trim().is_empty() && alternative.split(" AND ").all(|part| LICENSES.contains(&part.trim()))
    })
}

#[cfg(test)]
mod tests {
    use super::is_allowed;

    #[test]
    fn an_alternative_of_known_licenses_is_enough() {
        for good in ["MIT", "MIT OR GPL-3.0", "MIT/Apache-2.0", "(MIT OR Apache-2.0) AND Unicode-3.0"] {
            assert!(is_allowed(good), "{good}");
        }
        for bad in ["", "GPL-2.0", "MIT AND GPL-3.0", "LGPL-2.1 OR MPL-2.0"] {
            assert!(!is_allowed(bad), "{bad}");
        }
    }
}
