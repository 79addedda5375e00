//! What is public: every package that is not kept from it builds from what is packed, and no interface breaks unsaid.

use std::path::PathBuf;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::overlay;
use crate::setup;
use crate::shell::Cmd;
use crate::wine;

/// The packages that may be published.
pub(crate) struct Public {
    /// Their names; those of libraries apart.
    names: Vec<String>,
    libraries: Vec<Library>,
    /// The commit whose interfaces are kept.
    commit: String,
    /// Where they are built.
    target: PathBuf,
}

/// A commit of this history.
pub(crate) struct Baseline(String);

struct Library {
    name: String,
    /// Its manifest, from the project's root.
    manifest: String,
}

/// Reads them from the manifests.
pub(crate) fn packages() -> anyhow::Result<Public> {
    let text = Cmd::cargo().args(["metadata", "--format-version", "1", "--no-deps"]).output()?;
    let metadata: Value = serde_json::from_str(&text).context("cargo metadata")?;
    let text = |value: &Value, what: &str| value.as_str().map(str::to_owned).with_context(|| format!("no {what}"));
    let root = text(&metadata["workspace_root"], "root")?;
    let mut public = Public {
        names: Vec::new(),
        libraries: Vec::new(),
        commit: text(&metadata["metadata"]["public"]["baseline"], "baseline in Cargo.toml")?,
        target: text(&metadata["target_directory"], "target directory")?.into(),
    };
    for package in metadata["packages"].as_array().context("cargo metadata has no packages")? {
        // `publish = false` is told as a list of no registries.
        if !package["publish"].is_null() {
            continue;
        }
        let name = text(&package["name"], "name")?;
        let targets = package["targets"].as_array().context("a package has no targets")?;
        if targets.iter().any(|target| target["kind"][0] == "lib") {
            let manifest = text(&package["manifest_path"], "manifest")?;
            let manifest = manifest.strip_prefix(&root).unwrap_or(&manifest).trim_start_matches('/').to_owned();
            public.libraries.push(Library { name: name.clone(), manifest });
        }
        public.names.push(name);
    }
    Ok(public)
}

impl Public {
    /// Packs all, and builds each from what was packed.
    pub(crate) fn pack(&self) -> anyhow::Result<()> {
        overlay::forget(&self.names, &overlay::cargo_home()?, &self.target)?;
        let pack = Cmd::cargo().args(["package", "--quiet"]).args(of(self.names.iter()));
        let changes = git(&["status", "--porcelain"]).output()?;
        if changes.is_empty() { pack.run() } else { pack.arg("--allow-dirty").run() }
    }

    /// The commit whose interfaces are kept; none if a shallow clone does not go back to it.
    pub(crate) fn baseline(&self) -> anyhow::Result<Option<Baseline>> {
        let commit = &self.commit;
        if git(&["merge-base", "--is-ancestor", commit, "HEAD"]).succeeds() {
            return Ok(Some(Baseline(commit.clone())));
        }
        if git(&["rev-parse", "--is-shallow-repository"]).output()?.trim() == "true" {
            return Ok(None);
        }
        bail!(
            "commit {commit} in Cargo.toml, whose interfaces are to be kept, is none of this history: name one that is"
        );
    }

    /// Compares the interfaces of libraries with those of the baseline.
    pub(crate) fn compare(&self, Baseline(baseline): &Baseline) -> anyhow::Result<()> {
        let (old, new): (Vec<_>, Vec<_>) = self
            .libraries
            .iter()
            .partition(|library| git(&["cat-file", "-e", &format!("{baseline}:{}", library.manifest)]).succeeds());
        for library in new {
            eprintln!("{}: it was not there, so it can break nobody", library.name);
        }
        setup::semver_checks()?;
        let compare = |options: &[&str], libraries: &[&Library]| {
            Cmd::cargo()
                .args(["semver-checks", "--quiet", "--baseline-rev", baseline.as_str()])
                .args(options)
                .args(of(libraries.iter().map(|library| &library.name)))
                .run()
                .context("a public interface breaks; CONTRIBUTING.md says what to do if it is meant to")
        };
        compare(&[], &old)?;
        // The one that has more there.
        let hosts: Vec<&Library> = old.into_iter().filter(|library| library.name == "uvm-hcs").collect();
        compare(&["--target", wine::TARGET], &hosts)
    }
}

fn of<'a>(names: impl Iterator<Item = &'a String>) -> impl Iterator<Item = &'a str> {
    names.flat_map(|name| ["-p", name.as_str()])
}

fn git(arguments: &[&str]) -> Cmd {
    Cmd::new("git").args(arguments)
}
